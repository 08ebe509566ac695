"""A VM's port on the bridge, and its frames' addresses and tag."""

from __future__ import annotations

from dataclasses import dataclass

from fedsdn.config.model import Address, Site
from fedsdn.errors import FedsdnError
from fedsdn.ovs.database import read_bridge
from fedsdn.ovs.learned import learned_ports
from fedsdn.pipeline.declarations import PROXY_NAMESPACE
from fedsdn.shell import Shell
from fedsdn.site.plan import port_names

_UNKNOWN_MAC = "00:00:00:00:00:00"


@dataclass(frozen=True, slots=True)
class VmPort:
    """A VM's port, ``guessed`` if the bridge has not learned it. ``vlan`` tags its frames."""

    port: str
    mac: str
    vlan: int | None
    guessed: bool


def vm_port(shell: Shell, site: Site, address: Address) -> VmPort:
    """Find a VM's port and link-layer address, as the proxy and the bridge have learned them.

    Raises:
        FedsdnError: the bridge does not answer, or has no port that could be a VM's.

    """
    bridge = read_bridge(shell, site.provider_network.bridge)
    mac = _neighbour(shell, address)
    learned = learned_ports(shell, bridge.name).get(mac) if mac else None
    ports = bridge.ports.values()
    found = next((port for port in ports if port.interface.ofport == learned), None)
    guessed = learned is None or found is None
    if guessed:
        taken = {*port_names(site), *(uplink.port for uplink in site.uplinks), bridge.name}
        found = next((port for port in ports if port.name not in taken), None)
    if found is None:
        raise FedsdnError(
            f"bridge {bridge.name} has no port on which {address} could be: see 'ovs-vsctl show'"
        )
    # Frames have the network's tag, unless the port itself has it.
    network = site.provider_network.segmentation_id
    vlan = None if found.tag == network else network
    return VmPort(found.name, mac or _UNKNOWN_MAC, vlan, guessed)


def _neighbour(shell: Shell, address: Address) -> str | None:
    command = ("ip", "-json", "-n", PROXY_NAMESPACE, "neigh", "show", str(address))
    known = [entry["lladdr"] for entry in shell.json(*command) if "lladdr" in entry]
    return known[0] if known else None
