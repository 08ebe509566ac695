"""fedsdn verify: proof that a site, or a lab, does what it should."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedsdn.cli.common import ConfigFile, FederationFile, SiteName, settings
from fedsdn.config.loader import load_federation
from fedsdn.config.local import DEFAULT_CONFIG_FILE, local_settings
from fedsdn.diagnostics.checks import Result, run_checks, totals
from fedsdn.diagnostics.report import as_json, as_junit, print_results
from fedsdn.diagnostics.shell import Shell
from fedsdn.diagnostics.traffic import MOST_CONNECTIONS
from fedsdn.diagnostics.verify import FULL, QUICK, Effort, all_checks
from fedsdn.diagnostics.view import SiteView, Vm
from fedsdn.errors import FedsdnError
from fedsdn.lab.host import CONFIG_FILE
from fedsdn.lab.lab import Lab, open_lab
from fedsdn.lab.state import lab_names
from fedsdn.lab.topology import LabSite


def verify(
    *,
    lab: Annotated[
        str | None, typer.Option("--lab", help="Check this lab, with real connections.")
    ] = None,
    connections: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=MOST_CONNECTIONS,
            help=f"Parallel connections per direction and family; default {FULL.connections}.",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer connections, shorter transfers.")
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
    junit: Annotated[
        Path | None, typer.Option("--junit", help="Write the results there as JUnit XML too.")
    ] = None,
    config_file: ConfigFile = None,
    site: SiteName = None,
    federation: FederationFile = None,
) -> None:
    """Check this site, or a whole lab; exit status 1 if anything failed.

    Without --lab, the site of the config file is checked; on a machine without one, its only lab.
    """
    configured = config_file or site or DEFAULT_CONFIG_FILE.exists()
    if lab is None and configured:
        views = [site_view(config_file, site, federation)]
    elif lab is None and not lab_names():
        raise FedsdnError(
            "found neither a site's settings nor a lab: give --config-file, or run 'fedsdn lab up'"
        )
    else:
        views = lab_views(open_lab(lab))
    effort = QUICK if quick else FULL
    if connections is not None:
        effort = Effort(connections, effort.seconds)
    console = Console(quiet=json_output)
    results = print_results(run_checks(all_checks(views, effort)), console)
    _write(results, json_output=json_output, junit=junit)
    if totals(results).failed:
        raise typer.Exit(1)


def _write(results: Sequence[Result], *, json_output: bool, junit: Path | None) -> None:
    if json_output:
        print(as_json(results))
    if junit is not None:
        try:
            junit.write_text(as_junit(results), encoding="utf-8")
        except OSError as error:
            raise FedsdnError(f"{junit}: cannot write the results: {error.strerror}") from error


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
        openflow_port=local.openflow_port,
        config_file=config_file or DEFAULT_CONFIG_FILE,
        options=tuple(f"{option}={value}" for option, value in given.items() if value),
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
    outside = host.run_directory / CONFIG_FILE.relative_to("/run")
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
        openflow_port=local_settings(outside).openflow_port,
        config_file=CONFIG_FILE,
        vms=tuple(vms),
    )
