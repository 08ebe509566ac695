"""A VM's port on the bridge, and its frames' addresses and tag."""

from __future__ import annotations

from dataclasses import dataclass

from fedsdn.config.model import Address, Site
from fedsdn.errors import FedsdnError
from fedsdn.ovs.database import read_bridges
from fedsdn.ovs.learned import learned_ports
from fedsdn.ovs.wanted import openflow_ports, tenant_ports
from fedsdn.pipeline.declarations import LOCAL_PORT, PROXY_NAMESPACE
from fedsdn.shell import Shell

_UNKNOWN_MAC = "00:00:00:00:00:00"


@dataclass(frozen=True, slots=True)
class VmPort:
    """A VM's port, ``guessed`` if the bridge has not learned it. ``vlan`` tags its frames.

    ``port`` is the whole name of its interface, longer perhaps than what OpenFlow tells.
    """

    port: str
    mac: str
    vlan: int | None
    guessed: bool


def vm_port(shell: Shell, site: Site, address: Address) -> VmPort:
    """Find a VM's port and link-layer address, as the proxy and the bridge have learned them.

    Raises:
        FedsdnError: the bridge does not answer, or has no port that could be a VM's.

    """
    bridges = read_bridges(shell, site.provider_network.bridge)
    bridge = bridges[site.provider_network.bridge]
    mac = _neighbour(shell, address)
    network = site.provider_network.segmentation_id
    number = learned_ports(shell, bridge.name, network or 0).get(mac) if mac else None
    interfaces = openflow_ports(bridge)
    ports = tenant_ports(site, bridges)
    found = next((port for port in ports if interfaces[port.name].ofport == number), None)
    guess = next((port for port in ports if port.name != LOCAL_PORT), None)
    port = found or guess
    if port is None:
        raise FedsdnError(
            f"bridge {bridge.name} has no port in the provider network on which {address} could "
            "be: see 'ovs-vsctl show'"
        )
    vlan = port.local or (None if port.untagged else network)
    return VmPort(interfaces[port.name].name, mac or _UNKNOWN_MAC, vlan, guessed=found is None)


def _neighbour(shell: Shell, address: Address) -> str | None:
    command = ("ip", "-json", "-n", PROXY_NAMESPACE, "neigh", "show", str(address))
    known = [entry["lladdr"] for entry in shell.json(*command) if "lladdr" in entry]
    return known[0] if known else None
