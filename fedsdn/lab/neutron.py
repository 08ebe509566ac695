"""A site whose VMs are on Neutron's integration bridge: with Neutron's real agent.

neutron-openvswitch-agent runs unchanged, with port security and the firewall driver openvswitch; of
Neutron's server there is a stand-in (``neutron_agent``), which answers from a file that stands
here. VMs are plugged in as os-vif does it.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from fedsdn.config.model import Federation
from fedsdn.errors import FedsdnError
from fedsdn.lab.host import Daemon, Host
from fedsdn.lab.switch import keep_host_out
from fedsdn.lab.topology import INTEGRATION_BRIDGE, LabSite, Vm
from fedsdn.lab.wait import wait_until

AGENT = "neutron-agent"
"""Name of the agent's log."""

FEDERATED = "federated"
"""Name of Neutron's network that is the site's provider network."""

PHYSICAL_NETWORK = "physnet1"
VERSION = "29.0.0"
"""As scripts/install-neutron has it."""

READY_SECONDS = 120.0

_PYTHON = Path(f"/var/cache/fedsdn/neutron-{VERSION}/bin/python")
_PROGRAM = Path(__file__).with_name("neutron_agent.py")
_DIRECTORY = "neutron"
_LIST_BOUND = ("--bare", "--columns=name", "find", "Port", 'other_config:tag!=""')
_NAMES = uuid.UUID("5c8f4e2a-7d53-4f0e-9d3b-fed500000000")
_CONFIGURATION = """\
[DEFAULT]
host = {host}
transport_url = fake://
state_path = /run/{directory}

[OVS]
bridge_mappings = {physical}:{bridge}
integration_bridge = {integration}
datapath_type = {datapath}
ovsdb_connection = unix:/run/openvswitch/db.sock

[AGENT]
enable_distributed_routing = {distributed}
l2_population = {distributed}
root_helper = env
polling_interval = 1

[SECURITYGROUP]
enable_security_group = true
firewall_driver = openvswitch

[oslo_concurrency]
lock_path = /run/{directory}
"""


def start(
    host: Host, federation: Federation, lab: LabSite, *, system: bool, distributed: bool = False
) -> None:
    """Make br-int, plug the VMs in, and start the agent; with ``distributed`` it routes, too.

    Raises:
        FedsdnError: Neutron is not installed, or the agent does not give a VM its network.

    """
    if not _PYTHON.exists():
        raise FedsdnError(f"found no {_PYTHON}: run scripts/install-neutron")
    datapath = "system" if system else "netdev"
    host.run(
        *("ovs-vsctl", "--may-exist", "add-br", INTEGRATION_BRIDGE),
        *("--", "set", "Bridge", INTEGRATION_BRIDGE, f"datapath_type={datapath}"),
        "fail_mode=secure",
    )
    directory = host.run_directory / _DIRECTORY
    directory.mkdir(exist_ok=True)
    configuration = _CONFIGURATION.format(
        host=host.name,
        directory=_DIRECTORY,
        physical=PHYSICAL_NETWORK,
        bridge=federation.site(lab.name).provider_network.bridge,
        integration=INTEGRATION_BRIDGE,
        datapath=datapath,
        distributed=distributed,
    )
    (directory / "agent.conf").write_text(configuration)
    ports = _ports(host, federation, lab)
    (directory / "ports.json").write_text(json.dumps(ports, indent=1))
    for port in ports:
        _plug(host, port)
    wait_for_agent(start_agent(host), [port["name"] for port in ports])


def start_agent(host: Host) -> Daemon:
    """Start the agent.

    Raises:
        FedsdnError: the host is gone.

    """
    program = ("-P", str(_PROGRAM), f"/run/{_DIRECTORY}/ports.json")
    configuration = ("--config-file", f"/run/{_DIRECTORY}/agent.conf")
    return host.start(AGENT, str(_PYTHON), *program, *configuration)


def wait_for_agent(agent: Daemon, vms: list[str]) -> None:
    """Wait until the agent has bound the VMs' ports: the last that it does for one.

    Raises:
        FedsdnError: the agent ended, or it takes longer than ``READY_SECONDS``.

    """
    host = agent.host

    def bound() -> bool:
        if not agent.alive():
            raise FedsdnError(f"{host.name}: the {AGENT} ended: {agent.last_line()}")
        listed = host.run("ovs-vsctl", *_LIST_BOUND)
        return set(vms) <= set(listed.split())

    wait_until(
        bound,
        READY_SECONDS,
        lambda: (
            f"{host.name}: the {AGENT} has not bound {', '.join(vms)} after {READY_SECONDS:g} s: "
            f"{agent.last_line()}"
        ),
    )


def _plug(host: Host, port: dict[str, Any]) -> None:
    name = port["name"]
    words = (f"iface-id={port['id']}", f"attached-mac={port['mac']}", "iface-status=active")
    host.run(
        *("ovs-vsctl", "--may-exist", "add-port", INTEGRATION_BRIDGE, name),
        *("--", "set", "Interface", name, *(f"external_ids:{word}" for word in words)),
    )
    keep_host_out(host, [name])


def _ports(host: Host, federation: Federation, lab: LabSite) -> list[dict[str, Any]]:
    """Describe every VM's port as the stand-in of Neutron's server tells it."""
    prefixes = [str(prefix.network) for site in federation.sites for prefix in site.prefixes]
    vlan = federation.site(lab.name).provider_network.segmentation_id
    networks = [(FEDERATED, vlan, prefixes, lab.vms)]
    networks += [
        (
            network.name,
            network.segmentation_id,
            [str(address.network) for address in network.gateway.addresses],
            network.vms,
        )
        for network in lab.networks
    ]
    return [
        {
            "name": vm.name,
            "id": _identifier(host, f"port {vm.name}"),
            "network": _identifier(host, f"network {name}"),
            "segmentation_id": vlan,
            "physical_network": PHYSICAL_NETWORK,
            "mac": _mac(host, vm),
            "addresses": [str(address.ip) for address in vm.addresses],
            "sources": sources,
        }
        for name, vlan, sources, vms in networks
        for vm in vms
    ]


def _identifier(host: Host, of: str) -> str:
    return str(uuid.uuid5(_NAMES, f"{host.name} {of}"))


def _mac(host: Host, vm: Vm) -> str:
    return host.run("cat", "/sys/class/net/eth0/address", vm=vm.name).strip()
