"""The sites that commands look at: this host's, a lab's, those of several machines."""

from __future__ import annotations

from pathlib import Path

from fedsdn.cli.common import settings
from fedsdn.config.loader import load_federation
from fedsdn.config.local import DEFAULT_CONFIG_FILE
from fedsdn.lab.host import CONFIG_FILE
from fedsdn.lab.lab import Lab
from fedsdn.lab.topology import LabSite, Topology
from fedsdn.shell import Shell
from fedsdn.verify.view import SiteView, Vm

_INSTALLED = Path("/opt/fedsdn/bin")
"""Where fedsdn is on a machine that its units run on."""


def site_view(config_file: Path | None, site: str | None, federation: Path | None) -> SiteView:
    """Return this host's site, without VMs.

    Raises:
        FedsdnError: the host's settings or the federation file are bad.

    """
    local = settings(config_file, site, federation)
    whole = load_federation(local.federation)
    given = {"--config-file": config_file, "--site": site, "--federation": federation}
    return SiteView(
        federation=whole,
        site=whole.local_site(local.site),
        shell=Shell(local.site),
        config_file=config_file or DEFAULT_CONFIG_FILE,
        options=tuple(f"{option}={value}" for option, value in given.items() if value),
        identity=local.identity,
    )


def lab_views(lab: Lab) -> list[SiteView]:
    """Return all sites of a lab, with their VMs.

    Raises:
        FedsdnError: a host is not up.

    """
    return [_lab_view(lab, site) for site in lab.topology.sites]


def _lab_view(lab: Lab, site: LabSite) -> SiteView:
    host = lab.host(site.name)
    typed = ("fedsdn", "lab", "exec", "--name", lab.name)
    vms = (
        Vm(
            vm.name,
            Shell(
                f"{site.name}/{vm.name}",
                lab.prefix(f"{site.name}/{vm.name}"),
                (*typed, f"{site.name}/{vm.name}", "--"),
            ),
            tuple(address.ip for address in vm.addresses),
        )
        for vm in site.vms
    )
    return SiteView(
        federation=lab.topology.federation,
        site=lab.topology.federation.site(site.name),
        shell=Shell(site.name, host.prefix, (*typed, site.name, "--")),
        config_file=CONFIG_FILE,
        vms=tuple(vms),
    )


def machine_views(topology: Topology, ssh_config: Path | None) -> list[SiteView]:
    """Return all sites of a topology, each on the machine that ssh(1) knows by the site's name."""
    return [_machine_view(topology, site, ssh_config) for site in topology.sites]


def _machine_view(topology: Topology, site: LabSite, ssh_config: Path | None) -> SiteView:
    options = () if ssh_config is None else ("-F", str(ssh_config))
    ssh = ("ssh", "-o", "BatchMode=yes", *options, site.name, "sudo")
    shell = Shell(site.name, ssh, ssh, str(_INSTALLED / "python3"), by_shell=True)
    return SiteView(
        federation=topology.federation,
        site=topology.federation.site(site.name),
        shell=shell,
        config_file=DEFAULT_CONFIG_FILE,
        vms=tuple(
            Vm(vm.name, shell.inside(vm.name), tuple(address.ip for address in vm.addresses))
            for vm in site.vms
        ),
    )
