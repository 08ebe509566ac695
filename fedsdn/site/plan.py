"""What a site is to have on its host, worked out from the federation alone.

Nothing here touches the host: ``setup`` makes it true, ``show`` compares it with what is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from hashlib import sha256
from ipaddress import ip_interface, ip_network

from fedsdn.config.model import Address, Family, Federation, Interface, Network, Site, Uplink
from fedsdn.mptcp.endpoints import Endpoint, endpoint_of
from fedsdn.pipeline.declarations import (
    FIRST_HANDED_IN_MARK,
    FIRST_UPLINK_TABLE,
    HANDED_IN_MASK,
    HELD_DEVICE,
    LEG_MARK,
    LEG_MASK,
    NOBODYS_VLAN,
    PROXY_NAMESPACE,
    SERVER_PORT,
    SOCKSIFIER_PORT,
    SocketMark,
    port_mac,
    wan_port,
)
from fedsdn.pipeline.on_link import Neighbour, neighbours
from fedsdn.site import nft, sysctls
from fedsdn.site.sysctls import Sysctl

DEFAULT_MTU = 1500
"""MTU in bytes of a port whose bridge says nothing else."""

MAIN_TABLE = 254
"""The routing table of packets that no rule sends elsewhere (``RT_TABLE_MAIN``)."""

_TABLE_OF_LOCAL, _TABLE_OF_DEFAULT = 255, 253
"""``RT_TABLE_LOCAL`` and ``RT_TABLE_DEFAULT``."""

LOCAL_TABLE = 100
"""Routing table that delivers any destination to local sockets."""

PEERS_TABLE = 99
"""Routing table that delivers what is to a peer's VM to the sockets that have its address.

That is the kernel's own ICMP errors: without them a VM that answers no ARP would be waited for as
long as one that answers no SYN."""

_LEG_TABLES = {
    SOCKSIFIER_PORT: (SocketMark.SOCKSIFIER, 101),
    SERVER_PORT: (SocketMark.SERVER, 102),
}
HELD_TABLE = 103
"""Routing table that delivers any destination to the workers."""

_FAMILIES: tuple[Family, ...] = (4, 6)
_EVERYTHING: dict[Family, Network] = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


@dataclass(frozen=True, slots=True)
class BridgeFacts:
    """What the plan depends on and only the bridge knows.

    ``checksum_offload`` is False where the datapath passes frames on without the checksums that
    their sender left to the hardware (netdev without userspace-tso-enable).
    ``uplink_segmentation`` is False where it has super-frames cut up wrongly: netdev of Open
    vSwitch 3.1 reckons segments without TCP options, and those of MPTCP make them longer than the
    uplink's MTU. ``mtu`` is the smallest of the bridge's other ports, ``uplink_mtus`` those of the
    uplinks' ports by name.
    """

    checksum_offload: bool = True
    uplink_segmentation: bool = True
    mtu: int = DEFAULT_MTU
    uplink_mtus: Mapping[str, int] = field(default_factory=dict)

    def of(self, site: Site) -> BridgeFacts:
        """Return them without the ports that are no uplinks of the site."""
        names = [uplink.port for uplink in site.uplinks if uplink.port in self.uplink_mtus]
        return replace(self, uplink_mtus={name: self.uplink_mtus[name] for name in names})


@dataclass(frozen=True, slots=True)
class Port:
    """A port of the bridge: access port of VLAN ``tag`` (0: of untagged frames), or trunk."""

    name: str
    tag: int | None = None
    trunks: tuple[int, ...] = ()

    def __str__(self) -> str:
        tag = "" if self.tag is None else f" tag {self.tag}"
        return f"{self.name}{tag}" + (f" trunks {list(self.trunks)}" if self.trunks else "")


@dataclass(frozen=True, slots=True)
class Veth:
    """The wire between a port of the bridge and the interface of the same name inside."""

    name: str
    mac: str
    mtu: int
    checksum_offload: bool
    segmentation_offload: bool

    def __str__(self) -> str:
        checksum, tso = (
            "on" if offload else "off"
            for offload in (self.checksum_offload, self.segmentation_offload)
        )
        return f"{self.name} {self.mac} mtu {self.mtu} tx-checksum {checksum} tso {tso} up"


@dataclass(frozen=True, slots=True)
class Tun:
    """A TUN device of the namespace that stays, with a queue for each worker that reads from it."""

    name: str
    mtu: int

    def __str__(self) -> str:
        return f"{self.name} tun multi_queue mtu {self.mtu} up"


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    """An address on an interface of the namespace, without a route of its own."""

    interface: str
    address: Interface

    def __str__(self) -> str:
        return f"{self.address} dev {self.interface}"


class RouteKind(StrEnum):
    """What a route does with its packets, under the name that ip-route(8) gives it."""

    UNICAST = "unicast"
    LOCAL = "local"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class Route:
    """A route of one of the namespace's tables."""

    table: int
    destination: Network
    kind: RouteKind = RouteKind.UNICAST
    interface: str | None = None
    gateway: Address | None = None
    source: Address | None = None

    def __str__(self) -> str:
        parts = [] if self.kind is RouteKind.UNICAST else [str(self.kind)]
        parts.append(str(self.destination))
        named = {"via": self.gateway, "dev": self.interface, "src": self.source}
        parts += [f"{word} {value}" for word, value in named.items() if value is not None]
        return f"table {self.table}: {' '.join(parts)}"


@dataclass(frozen=True, slots=True)
class Rule:
    """A routing rule: packets from an address, or with a mark, look into a table."""

    priority: int
    family: Family
    table: int
    source: Address | None = None
    mark: int | None = None
    mask: int | None = None
    """The bits of the mark that count; None for all."""
    by_kernel: bool = False
    """Whether it is one that the kernel makes in each namespace, and anybody can delete."""

    def __str__(self) -> str:
        which = f"from {self.source or 'all'}"
        which += "" if self.mark is None else f" fwmark {self.mark:#x}"
        which += "" if self.mask is None else f"/{self.mask:#x}"
        return f"{self.priority}: {which} lookup {self.table} (IPv{self.family})"


@dataclass(frozen=True)
class SitePlan:
    """All that ``fedsdn site up`` makes on a host."""

    site: str
    namespace: str
    bridge: str
    facts: BridgeFacts
    uplink_ports: tuple[str, ...]
    ports: tuple[Port, ...]
    sysctls: tuple[Sysctl, ...]
    ruleset: str
    veths: tuple[Veth, ...]
    held: Tun
    port_sysctls: tuple[Sysctl, ...]
    addresses: tuple[InterfaceAddress, ...]
    routes: tuple[Route, ...]
    rules: tuple[Rule, ...]
    neighbours: tuple[Neighbour, ...]
    endpoints: tuple[Endpoint, ...]

    @cached_property
    def digest(self) -> str:
        """What no other plan has."""
        return sha256(repr(self).encode()).hexdigest()


def port_names(site: Site) -> tuple[str, ...]:
    """Names of the ports that the site adds to its bridge."""
    return (SOCKSIFIER_PORT, SERVER_PORT, *(wan_port(uplink) for uplink in site.uplinks))


def site_plan(federation: Federation, site: Site, facts: BridgeFacts | None = None) -> SitePlan:
    """Work out what ``site`` needs."""
    facts = (facts or BridgeFacts()).of(site)
    return SitePlan(
        site=site.name,
        namespace=PROXY_NAMESPACE,
        bridge=site.provider_network.bridge,
        facts=facts,
        uplink_ports=tuple(uplink.port for uplink in site.uplinks),
        ports=tuple(_ports(site)),
        sysctls=sysctls.namespace_sysctls(federation.proxy_port),
        ruleset=nft.ruleset(federation, site),
        veths=tuple(_veths(site, facts)),
        held=Tun(HELD_DEVICE, facts.mtu),
        port_sysctls=(*sysctls.port_sysctls(port_names(site)), *sysctls.tracking_sysctls()),
        addresses=tuple(_addresses(site)),
        routes=(
            *_leg_routes(federation, site),
            *_uplink_routes(site),
            *_peer_routes(federation, site),
        ),
        rules=(*_kernel_rules(), *_rules(site)),
        neighbours=neighbours(federation, site),
        endpoints=tuple(endpoint_of(uplink) for uplink in site.uplinks),
    )


def _ports(site: Site) -> Iterator[Port]:
    tenant_tag = site.provider_network.segmentation_id or 0
    yield Port(SOCKSIFIER_PORT, tenant_tag)
    yield Port(SERVER_PORT, tenant_tag)
    for uplink in site.uplinks:
        yield Port(wan_port(uplink), trunks=(NOBODYS_VLAN,))


def _veths(site: Site, facts: BridgeFacts) -> Iterator[Veth]:
    for leg in _LEG_TABLES:
        yield Veth(
            name=leg,
            mac=port_mac(site, leg),
            mtu=facts.mtu,
            checksum_offload=facts.checksum_offload,
            segmentation_offload=facts.checksum_offload,
        )
    for uplink in site.uplinks:
        yield Veth(
            name=wan_port(uplink),
            mac=port_mac(site, wan_port(uplink)),
            mtu=facts.uplink_mtus.get(uplink.port, DEFAULT_MTU),
            checksum_offload=facts.checksum_offload,
            segmentation_offload=facts.checksum_offload and facts.uplink_segmentation,
        )


def _addresses(site: Site) -> Iterator[InterfaceAddress]:
    for prefix in site.prefixes:
        address = ip_interface(f"{prefix.proxy_address}/{prefix.network.prefixlen}")
        yield InterfaceAddress(SOCKSIFIER_PORT, address)
        if prefix.family == 4:
            # The server asks by ARP too, and ARP has no link-local address to ask from.
            yield InterfaceAddress(SERVER_PORT, address)
    for uplink in site.uplinks:
        yield InterfaceAddress(wan_port(uplink), uplink.address)


def _leg_routes(federation: Federation, site: Site) -> Iterator[Route]:
    for family in _FAMILIES:
        yield Route(LOCAL_TABLE, _EVERYTHING[family], RouteKind.LOCAL, interface="lo")
        yield Route(HELD_TABLE, _EVERYTHING[family], interface=HELD_DEVICE)
    for interface, (_, table) in _LEG_TABLES.items():
        for prefix in site.prefixes:
            yield Route(table, prefix.network, interface=interface)
        for family in _FAMILIES:
            yield Route(table, _EVERYTHING[family], RouteKind.UNREACHABLE)
    for peer in federation.peers(site.name):
        for prefix in peer.prefixes:
            yield Route(PEERS_TABLE, prefix.network, RouteKind.LOCAL, interface="lo")


def _uplink_routes(site: Site) -> Iterator[Route]:
    for table, uplink in enumerate(site.uplinks, FIRST_UPLINK_TABLE):
        port, source = wan_port(uplink), uplink.address.ip
        yield Route(table, uplink.address.network, interface=port, source=source)
        everything = _EVERYTHING[uplink.family]
        if uplink.gateway is None:
            yield Route(table, everything, RouteKind.UNREACHABLE)
        else:
            yield Route(table, everything, interface=port, gateway=uplink.gateway, source=source)


def _peer_routes(federation: Federation, site: Site) -> Iterator[Route]:
    """Routes of what is not bound to an uplink's address: ping, and other people's proxies."""
    for peer in federation.peers(site.name):
        for remote, local in paired_uplinks(site, peer):
            address, next_hop = remote.peer_address, local.next_hop(remote.peer_address)
            yield Route(
                MAIN_TABLE,
                ip_network(address),
                interface=wan_port(local),
                gateway=None if next_hop == address else next_hop,
                source=local.address.ip,
            )


def paired_uplinks(site: Site, peer: Site) -> Iterator[tuple[Uplink, Uplink]]:
    """Every uplink of ``peer`` that can be reached, with the uplink of ``site`` to reach it by.

    A direct wire comes before a way through gateways; several ways are dealt out in turn, so that
    as many uplinks as there are get used.
    """
    for family in _FAMILIES:
        remotes = [uplink for uplink in peer.uplinks if uplink.family == family]
        for position, remote in enumerate(remotes):
            ways = [uplink for uplink in site.uplinks if uplink.reaches(remote)]
            direct = [uplink for uplink in ways if remote.peer_address in uplink.address.network]
            ways = direct or [uplink for uplink in ways if uplink.gateway is not None]
            if ways:
                yield remote, ways[position % len(ways)]


def _kernel_rules() -> Iterator[Rule]:
    for family in _FAMILIES:
        yield Rule(0, family, _TABLE_OF_LOCAL, by_kernel=True)
        yield Rule(32766, family, MAIN_TABLE, by_kernel=True)
    yield Rule(32767, 4, _TABLE_OF_DEFAULT, by_kernel=True)


def _rules(site: Site) -> Iterator[Rule]:
    for family in _FAMILIES:
        yield Rule(PEERS_TABLE, family, PEERS_TABLE, mark=LEG_MARK, mask=LEG_MASK)
        yield Rule(LOCAL_TABLE, family, LOCAL_TABLE, mark=SocketMark.LOCAL)
        for mark, table in _LEG_TABLES.values():
            yield Rule(table, family, table, mark=mark)
        yield Rule(HELD_TABLE, family, HELD_TABLE, mark=SocketMark.HELD)
        handed_in = Rule(LOCAL_TABLE, family, LOCAL_TABLE, mark=FIRST_HANDED_IN_MARK)
        yield replace(handed_in, mask=HANDED_IN_MASK)
    for table, uplink in enumerate(site.uplinks, FIRST_UPLINK_TABLE):
        yield Rule(table, uplink.family, table, source=uplink.address.ip)
