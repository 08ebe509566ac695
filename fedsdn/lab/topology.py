"""A topology file: a federation, and the wires and VMs of the lab that it runs on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path

from fedsdn.config.addresses import parse_address, parse_interface
from fedsdn.config.document import Document, load_document
from fedsdn.config.loader import parse_federation
from fedsdn.config.model import Address, Federation, Interface, Site, Uplink
from fedsdn.config.reserved import ROUTER_PORT, SERVER_PORT, SOCKSIFIER_PORT, WAN_PORT_PREFIX
from fedsdn.config.schema import validate
from fedsdn.lab.wire import Quality
from fedsdn.pipeline.declarations import PROXY_NAMESPACE

INTEGRATION_BRIDGE = "br-int"
"""The bridge that VMs are on where somebody makes one."""

TRUNK = "trunk"
"""The physical network beyond a bridge with several networks: a machine on a trunk, without
addresses. Frames that it gets have left the site."""


@dataclass(frozen=True, slots=True)
class WireEnd:
    """One end of a wire."""

    site: str
    uplink: Uplink

    @property
    def name(self) -> str:
        """SITE/UPLINK."""
        return f"{self.site}/{self.uplink.name}"


@dataclass(frozen=True, slots=True)
class Wire:
    """A wire of the WAN and its quality, the same in both directions."""

    name: str
    ends: tuple[WireEnd, WireEnd]
    quality: Quality


@dataclass(frozen=True, slots=True)
class Vm:
    """A VM on a site's provider network: its addresses with the lengths of their networks."""

    name: str
    addresses: tuple[Interface, ...]


@dataclass(frozen=True, slots=True)
class LabNetwork:
    """Another's network on a site's provider bridge, with whatever addresses.

    ``segmentation_id`` is its VLAN there, None if it is flat. ``gateway`` has the addresses behind
    it, too.
    """

    name: str
    segmentation_id: int | None
    gateway: Vm
    vms: tuple[Vm, ...]


@dataclass(frozen=True, slots=True)
class LabSite:
    """A site's VMs and their gateways, and others' networks.

    ``integration`` says who makes the integration bridge that all VMs are on; None: they are on the
    provider bridge.
    """

    name: str
    gateways: tuple[Interface, ...]
    vms: tuple[Vm, ...]
    integration: str | None = None
    networks: tuple[LabNetwork, ...] = ()

    @property
    def machines(self) -> Iterator[tuple[Vm, tuple[Interface, ...]]]:
        """Everything that is a machine of its own, with its gateways."""
        yield from ((vm, self.gateways) for vm in self.vms)
        for network in self.networks:
            yield network.gateway, ()
            yield from ((vm, network.gateway.addresses) for vm in network.vms)
        if self.networks:
            yield Vm(TRUNK, ()), ()


@dataclass(frozen=True, slots=True)
class Topology:
    """A federation and its lab."""

    federation: Federation
    wires: tuple[Wire, ...]
    sites: tuple[LabSite, ...]


def load_topology(path: Path) -> Topology:
    """Read a topology file.

    Raises:
        ConfigError: something in the file is wrong; one line that names it.

    """
    document = load_document(path)
    validate(document, "topology")
    federation = parse_federation(document.section("federation"), of_lab=True)
    lab = document.section("lab")
    return Topology(
        federation=federation,
        wires=_wires(lab.section("wires"), federation),
        sites=_sites(lab.section("sites"), federation),
    )


def _wires(document: Document, federation: Federation) -> tuple[Wire, ...]:
    free = {
        end.name: end
        for site in federation.sites
        for uplink in site.uplinks
        for end in [WireEnd(site.name, uplink)]
    }
    wires = tuple(_wire(name, wire, free) for name, wire in document.items())
    for name in free:
        raise document.error(f"no wire at {name}", f"a wire with '{name}' among its ends")
    return wires


def _wire(name: str, document: Document, free: dict[str, WireEnd]) -> Wire:
    first, second = (_end(end, free) for end in document.section("ends").elements())
    if first.site == second.site:
        raise document.section("ends").error(
            f"both ends at site {first.site}", "uplinks of two sites"
        )
    if not (first.uplink.reaches(second.uplink) and second.uplink.reaches(first.uplink)):
        raise document.section("ends").error(
            f"{first.name} ({first.uplink.address}) and {second.name} ({second.uplink.address}), "
            "which do not reach each other",
            "uplinks of one network, or of one family and with gateways",
        )
    quality = {key: value for key, value in document.value.items() if key != "ends"}
    return Wire(name, (first, second), Quality(**quality))


def _end(document: Document, free: dict[str, WireEnd]) -> WireEnd:
    if document.value not in free:
        left = ", ".join(free) or "none"
        raise document.error(
            f"'{document.value}', which is no uplink or already has a wire",
            f"an uplink without a wire: {left}",
        )
    return free.pop(document.value)


def _sites(document: Document, federation: Federation) -> tuple[LabSite, ...]:
    names = [site.name for site in federation.sites]
    for name, site in document.items():
        if federation.find_site(name) is None:
            raise site.error("a site the federation does not have", " or ".join(names))
    for name in names:
        if name not in document.value:
            raise document.error(f"no site {name}", f"'{name}:' with its gateways and vms")
        if federation.site(name).proxy != "fedsdn":
            raise document.section(name).error(
                "a site with another's proxy ('proxy: socks5')", "a federation of fedsdn's alone"
            )
    return tuple(_site(federation.site(name), document.section(name)) for name in names)


def _site(site: Site, document: Document) -> LabSite:
    taken: dict[Address, str] = {
        prefix.proxy_address: "the proxy address" for prefix in site.prefixes
    }
    gateways = tuple(
        _address(gateway, site, taken, "a gateway")
        for gateway in document.section("gateways").elements()
    )
    for prefix in site.prefixes:
        found = [gateway for gateway in gateways if gateway.network == prefix.network]
        if len(found) != 1:
            raise document.section("gateways").error(
                f"{len(found)} gateways in {prefix.network}", "one of each prefix"
            )
    names = _taken_names(site)
    vms = []
    for name, vm in document.section("vms").items():
        _take_name(name, vm, names)
        addresses = (_address(address, site, taken, f"VM {name}") for address in vm.elements())
        vms.append(Vm(name, tuple(addresses)))
    networks = document.section("networks").items() if "networks" in document.value else ()
    return LabSite(
        site.name,
        gateways,
        tuple(vms),
        document.value.get("integration"),
        tuple(_network(name, network, names) for name, network in networks),
    )


def _network(name: str, document: Document, names: set[str]) -> LabNetwork:
    gateways, behind = (_interfaces(document, key) for key in ("gateways", "behind"))
    gateway = Vm(f"{name}-gw", gateways + behind)
    _take_name(gateway.name, document, names)
    vms = []
    for vm_name, vm in document.section("vms").items():
        _take_name(vm_name, vm, names)
        addresses = tuple(map(parse_interface, vm.elements()))
        alone = {address.network for address in addresses} - {one.network for one in gateways}
        for network in sorted(map(str, alone)):
            raise vm.error(f"an address in {network}, which has no gateway", "one in a gateway's")
        vms.append(Vm(vm_name, addresses))
    return LabNetwork(name, document.value.get("segmentation_id"), gateway, tuple(vms))


def _interfaces(document: Document, key: str) -> tuple[Interface, ...]:
    if key not in document.value:
        return ()
    return tuple(map(parse_interface, document.section(key).elements()))


def _address(document: Document, site: Site, taken: dict[Address, str], owner: str) -> Interface:
    address = parse_address(document)
    if address in taken:
        raise document.error(
            f"{address}, which is already {taken[address]}'s at site {site.name}", "another address"
        )
    taken[address] = owner
    for prefix in site.prefixes:
        if address in prefix.network:
            return ip_interface(f"{address}/{prefix.network.prefixlen}")
    prefixes = " or ".join(str(prefix.network) for prefix in site.prefixes)
    raise document.error(f"{address}, outside site {site.name}'s prefixes", f"one of {prefixes}")


def _taken_names(site: Site) -> set[str]:
    """Return what no VM may be called: its name is its port's and its network namespace's too."""
    taken = {SOCKSIFIER_PORT, SERVER_PORT, ROUTER_PORT, PROXY_NAMESPACE, TRUNK}
    taken |= {site.provider_network.bridge, INTEGRATION_BRIDGE}
    return taken | {uplink.port for uplink in site.uplinks}


def _take_name(name: str, document: Document, taken: set[str]) -> None:
    if name in taken or name.startswith(WAN_PORT_PREFIX):
        raise document.error(f"the VM name '{name}', a port's or namespace's name", "another name")
    taken.add(name)
