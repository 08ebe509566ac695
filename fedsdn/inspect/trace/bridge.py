"""What a trace needs to know of a bridge: where a VM is, and how its frames look."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from fedsdn.config.model import Address, Site
from fedsdn.errors import FedsdnError
from fedsdn.pipeline.declarations import PROXY_NAMESPACE
from fedsdn.shell import Shell
from fedsdn.site.plan import port_names

_UNKNOWN_MAC = "00:00:00:00:00:00"
_LEARNED = re.compile(r"^ *(\d+) +\d+ +([0-9a-f:]{17}) ")


@dataclass(frozen=True, slots=True)
class VmPort:
    """Where a VM is, ``guessed`` if nobody has learned it. ``vlan`` is its frames' tag, if any."""

    port: str
    mac: str
    vlan: int | None
    guessed: bool


def vm_port(shell: Shell, site: Site, address: Address) -> VmPort:
    """Find the port and link-layer address of a VM, as the proxy and the bridge have learned them.

    Raises:
        FedsdnError: the bridge does not answer, or has no port that could be a VM's.

    """
    bridge = site.provider_network.bridge
    mac = _neighbour(shell, address)
    numbers = _table(shell, "Interface", "name,ofport")
    learned = _learned_port(shell, bridge, mac) if mac else None
    port = next((name for name, number in numbers if number == learned), None)
    taken = {*port_names(site), *(uplink.port for uplink in site.uplinks), bridge}
    if port is None:
        there = shell.output("ovs-vsctl", "--timeout=5", "list-ports", bridge).split()
        found = next((name for name in there if name not in taken), None)
        if found is None:
            raise FedsdnError(f"bridge {bridge} has no port on which {address} could be")
        return VmPort(found, mac or _UNKNOWN_MAC, _vlan(shell, site, found), guessed=True)
    return VmPort(port, mac or _UNKNOWN_MAC, _vlan(shell, site, port), guessed=False)


def _neighbour(shell: Shell, address: Address) -> str | None:
    command = ("ip", "-json", "-n", PROXY_NAMESPACE, "neigh", "show", str(address))
    known = [entry["lladdr"] for entry in shell.json(*command) if "lladdr" in entry]
    return known[0] if known else None


def _learned_port(shell: Shell, bridge: str, mac: str) -> int | None:
    for line in shell.output("ovs-appctl", "fdb/show", bridge).splitlines():
        found = _LEARNED.match(line)
        if found and found[2] == mac:
            return int(found[1])
    return None


def _vlan(shell: Shell, site: Site, port: str) -> int | None:
    """Return the tag of frames at a port: that of the network, unless the port itself has it."""
    tags = dict(_table(shell, "Port", "name,tag"))
    network = site.provider_network.segmentation_id
    return None if tags.get(port) == network else network


def _table(shell: Shell, table: str, columns: str) -> list[list[Any]]:
    command = ("ovs-vsctl", "--timeout=5", "--format=json", f"--columns={columns}", "list", table)
    flows: list[list[Any]] = shell.json(*command)["data"]
    return flows
