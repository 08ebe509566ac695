"""A running lab: its hosts, VMs and wires."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fedsdn.errors import FedsdnError
from fedsdn.lab import integration, wan
from fedsdn.lab.host import Host
from fedsdn.lab.machine import check_root
from fedsdn.lab.operator import CONTROLLER, PROXY
from fedsdn.lab.state import LabDirectory, State, lab_names
from fedsdn.lab.switch import OVSDB, VSWITCHD
from fedsdn.lab.topology import LabSite, Topology, load_topology

DAEMONS = (OVSDB, VSWITCHD, CONTROLLER, PROXY)
"""What runs on every host, beside what an integration bridge needs."""


@dataclass(frozen=True, slots=True)
class Lab:
    """A running lab of ``topology``."""

    directory: LabDirectory
    topology: Topology
    state: State

    @property
    def name(self) -> str:
        """The lab's name."""
        return self.directory.name

    @property
    def hosts(self) -> Iterator[Host]:
        """The sites' hosts, in the order of the topology file."""
        return (self.host(site.name) for site in self.topology.sites)

    def host(self, site: str) -> Host:
        """Return the host of a site.

        Raises:
            FedsdnError: the lab has no such site, or the host is not up.

        """
        if site not in (known := [site.name for site in self.topology.sites]):
            raise FedsdnError(f"no site {site!r}: lab {self.name} has {', '.join(known)}")
        process = self.state.hosts.get(site)
        if process is None or not process.alive():
            raise FedsdnError(
                f"site {site} of lab {self.name} is not up: run 'fedsdn lab up' again"
            )
        return Host(site, process, self.directory.run_directory(site))

    def prefix(self, place: str) -> tuple[str, ...]:
        """Return the command prefix that enters SITE or SITE/VM.

        Raises:
            FedsdnError: there is no such place, or it is not up.

        """
        site, slash, vm = place.partition("/")
        host = self.host(site)
        if not slash:
            return host.prefix
        known = [
            vm.name for s in self.topology.sites if s.name == site for vm, _gateways in s.machines
        ]
        if vm not in known:
            raise FedsdnError(
                f"no VM {vm!r}: site {site} of lab {self.name} has {', '.join(known)}"
            )
        return host.vm_prefix(vm)

    def status(self) -> dict[str, Any]:
        """Return the lab's status: ``up`` for the whole lab, then every site and every wire."""
        sites = {site.name: self._site_status(site) for site in self.topology.sites}
        try:
            wires = self.wires()
        except FedsdnError:
            wires = {}
        up = all(host["up"] and all(host["daemons"].values()) for host in sites.values())
        return {"name": self.name, "up": up and bool(wires), "sites": sites, "wires": wires}

    def _site_status(self, site: LabSite) -> dict[str, Any]:
        try:
            host = self.host(site.name)
        except FedsdnError:
            host = None
        daemons = (*DAEMONS, *integration.daemons(site))
        return {
            "up": host is not None,
            "daemons": {name: host is not None and host.runs(name) for name in daemons},
            "vms": [vm.name for vm, _gateways in site.machines],
        }

    def wires(self) -> dict[str, Any]:
        """Return the state of every wire: quality, carrier, and what each end has sent.

        Raises:
            FedsdnError: the WAN process does not answer.

        """
        return wan.ask(self.directory.wan_socket)

    def change_wire(self, wire: str, **change: float | bool) -> dict[str, Any]:
        """Change ``carrier`` or a field of ``Quality`` of a wire, and return its new state.

        Raises:
            FedsdnError: there is no such wire, or the WAN process does not answer.

        """
        known = [wire.name for wire in self.topology.wires]
        if wire not in known:
            raise FedsdnError(f"no wire {wire!r}: lab {self.name} has {', '.join(known)}")
        state: dict[str, Any] = wan.ask(self.directory.wan_socket, wire=wire, **change)[wire]
        return state


def open_lab(name: str | None = None) -> Lab:
    """Find the lab called ``name``, or the only one there is.

    Raises:
        FedsdnError: there is none, or there are several and none was named.

    """
    check_root()
    names = lab_names()
    if name is None:
        if len(names) > 1:
            raise FedsdnError(f"found {len(names)} labs: give --name, one of {', '.join(names)}")
        if not names:
            raise FedsdnError("found no lab: run 'fedsdn lab up'")
        name = names[0]
    elif name not in names:
        raise FedsdnError(f"found no lab {name}: there is {', '.join(names) or 'none'}")
    directory = LabDirectory(name)
    if not directory.topology_file.exists():
        raise FedsdnError(f"lab {name} is half-made: run 'fedsdn lab down {name}'")
    return Lab(directory, load_topology(directory.topology_file), directory.state())
