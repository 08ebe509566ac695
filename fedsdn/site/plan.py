"""What a site is to have on its host, worked out from the federation alone.

Nothing here touches the host: ``setup`` makes it true, ``show`` compares it with what is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from ipaddress import ip_interface, ip_network

from fedsdn.config.model import Family, Federation, Network, Site, Uplink
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
    ROUTER_PORT,
    ROUTER_TABLE,
    SERVER_PORT,
    SOCKSIFIER_PORT,
    TUNNELS_TABLE,
    SocketMark,
    port_mac,
    tunnel_mark,
    wan_port,
)
from fedsdn.pipeline.on_link import Neighbour, neighbours
from fedsdn.site import nft, sysctls
from fedsdn.site.nft_datagrams import without_rules
from fedsdn.site.sysctls import Sysctl
from fedsdn.site.values import (
    DEFAULT_MTU,
    BridgeFacts,
    InterfaceAddress,
    Port,
    Route,
    RouteKind,
    Rule,
    Tun,
    TunnelLink,
    Veth,
    Vxlan,
)
from fedsdn.tunnels.plan import Tunnel, tunnels

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

ROUTER_MTU = 9216
"""MTU of ``ROUTER_PORT``: it takes whatever a VM sends. What does not fit into a tunnel is answered
or cut up behind it, and so is what is too large for the bridge's other ports on its way to a VM."""

_FAMILIES: tuple[Family, ...] = (4, 6)
_EVERYTHING: dict[Family, Network] = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


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
    tunnels: tuple[TunnelLink, ...]
    held: Tun
    port_sysctls: tuple[Sysctl, ...]
    addresses: tuple[InterfaceAddress, ...]
    routes: tuple[Route, ...]
    rules: tuple[Rule, ...]
    neighbours: tuple[Neighbour, ...]
    endpoints: tuple[Endpoint, ...]

    @cached_property
    def digest(self) -> str:
        """What no other plan has, but for the rules: the application puts others in place."""
        compared = replace(self, ruleset=without_rules(self.ruleset))
        return sha256(repr(compared).encode()).hexdigest()


def port_names(site: Site) -> tuple[str, ...]:
    """Names of the ports that the site adds to its bridge."""
    proxy = (SOCKSIFIER_PORT, SERVER_PORT, ROUTER_PORT)
    return (*proxy, *(wan_port(uplink) for uplink in site.uplinks))


def settings(federation: Federation, site: Site) -> tuple[Sysctl, ...]:
    """Return the settings of the namespace that come behind its interfaces and its filter."""
    return _settings(site, tunnels(federation, site))


def _settings(site: Site, found: Iterable[Tunnel]) -> tuple[Sysctl, ...]:
    return (
        *sysctls.port_sysctls(port_names(site)),
        *sysctls.tunnel_sysctls(tunnel.name for tunnel in found),
        *sysctls.tracking_sysctls(),
    )


def site_plan(federation: Federation, site: Site, facts: BridgeFacts | None = None) -> SitePlan:
    """Work out what ``site`` needs."""
    facts = (facts or BridgeFacts()).of(site)
    found = tunnels(federation, site)
    return SitePlan(
        site=site.name,
        namespace=PROXY_NAMESPACE,
        bridge=site.provider_network.bridge,
        facts=facts,
        uplink_ports=tuple(uplink.port for uplink in site.uplinks),
        ports=tuple(_ports(site)),
        sysctls=sysctls.namespace_sysctls(federation.proxy_port, federation.datagrams_port),
        ruleset=nft.ruleset(federation, site),
        veths=tuple(_veths(site, facts)),
        tunnels=tuple(_tunnel_links(found, site, facts)),
        held=Tun(HELD_DEVICE, facts.mtu),
        port_sysctls=_settings(site, found),
        addresses=tuple(_addresses(site)),
        routes=(
            *_leg_routes(federation, site),
            *_router_routes(site, facts),
            *_uplink_routes(site),
            *_peer_routes(federation, site),
        ),
        rules=(*_kernel_rules(), *_rules(site)),
        neighbours=(*neighbours(federation, site), *_tunnel_neighbours(found)),
        endpoints=tuple(endpoint_of(uplink) for uplink in site.uplinks),
    )


def _ports(site: Site) -> Iterator[Port]:
    tenant_tag = site.provider_network.segmentation_id or 0
    yield Port(SOCKSIFIER_PORT, tenant_tag)
    yield Port(SERVER_PORT, tenant_tag)
    yield Port(ROUTER_PORT, tenant_tag)
    for uplink in site.uplinks:
        yield Port(wan_port(uplink), trunks=(NOBODYS_VLAN,))


def _veths(site: Site, facts: BridgeFacts) -> Iterator[Veth]:
    for leg in (*_LEG_TABLES, ROUTER_PORT):
        yield Veth(
            name=leg,
            mac=port_mac(site, leg),
            mtu=ROUTER_MTU if leg == ROUTER_PORT else facts.mtu,
            checksum_offload=facts.checksum_offload,
            segmentation_offload=facts.checksum_offload,
        )
    for uplink in site.uplinks:
        yield Veth(
            name=wan_port(uplink),
            mac=port_mac(site, wan_port(uplink)),
            mtu=_uplink_mtu(uplink, facts),
            checksum_offload=facts.checksum_offload,
            segmentation_offload=facts.checksum_offload and facts.uplink_segmentation,
        )


def _uplink_mtu(uplink: Uplink, facts: BridgeFacts) -> int:
    return facts.uplink_mtus.get(uplink.port, DEFAULT_MTU)


def _tunnel_links(found: Iterable[Tunnel], site: Site, facts: BridgeFacts) -> Iterator[TunnelLink]:
    mtus = {uplink.name: _uplink_mtu(uplink, facts) for uplink in site.uplinks}
    for tunnel in found:
        vxlan = None
        if tunnel.identifier is not None and tunnel.mac is not None:
            (peer,) = tunnel.peers
            ends = tunnel.local, peer.address
            vxlan = Vxlan(tunnel.identifier, *ends, tunnel.port, tunnel.mac)
        yield TunnelLink(tunnel.name, tunnel.mtu(mtus[tunnel.uplink]), vxlan)


def _tunnel_neighbours(found: Iterable[Tunnel]) -> Iterator[Neighbour]:
    for tunnel in found:
        for peer in tunnel.peers:
            if peer.next_hop is not None and peer.mac is not None:
                yield Neighbour(tunnel.name, peer.next_hop, peer.mac)


def _addresses(site: Site) -> Iterator[InterfaceAddress]:
    for prefix in site.prefixes:
        address = ip_interface(f"{prefix.proxy_address}/{prefix.network.prefixlen}")
        yield InterfaceAddress(SOCKSIFIER_PORT, address)
        if prefix.family == 4:
            # They ask by ARP too, and ARP has no link-local address to ask from.
            yield InterfaceAddress(SERVER_PORT, address)
            yield InterfaceAddress(ROUTER_PORT, address)
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


def _router_routes(site: Site, facts: BridgeFacts) -> Iterator[Route]:
    """Routes of what comes from tunnels; errors about it come from the proxy's own address."""
    for prefix in site.prefixes:
        yield Route(
            ROUTER_TABLE,
            prefix.network,
            interface=ROUTER_PORT,
            source=prefix.proxy_address,
            mtu=facts.mtu,
        )


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
        sent = tunnel_mark(table - FIRST_UPLINK_TABLE)
        yield Rule(table, uplink.family, table, mark=sent)
    for family in _FAMILIES:
        for number in (ROUTER_TABLE, TUNNELS_TABLE):
            yield Rule(number, family, number, mark=SocketMark.ROUTED)
