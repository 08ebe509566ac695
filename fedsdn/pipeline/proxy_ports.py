"""The proxy's tenant-side ports: foreign sources come in here, and nowhere else.

Their own ARP and neighbour discovery is checked against their own addresses, and so are the ICMP
errors by which the socksifier tells a VM that a destination is not reached. Everything else must be
from a remote prefix to a local one: TCP from socksifier and server, all but TCP from the router
(``datagrams``). The rest is dropped and counted.

A connection's direction is set by the port it comes from, socksifier's or server's, and by nothing
else: no VM can set it. Both ports lead into one namespace, where a 4-tuple has at most one socket,
so the port that speaks owns the connection. Only a reset may come without a socket, so it sets
nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fedsdn.pipeline.context import ABOVE_DEFAULT, Context, PeerContext
from fedsdn.pipeline.declarations import (
    ROUTER_PORT,
    SERVER_PORT,
    SOCKSIFIER_PORT,
    CtMark,
    HookPriority,
    Table,
    port_mac,
)
from fedsdn.pipeline.flows import (
    Commit,
    Flow,
    Match,
    Normal,
    Protocol,
    Resubmit,
    Track,
    icmp,
    tcp,
)
from fedsdn.pipeline.link_local import link_local

_UNREACHABLE = {4: 3, 6: 1}
"""ICMP types by IP version (RFC 792; RFC 4443, section 3.1)."""

_ND_SOLICITATION = 135
_ND_ADVERTISEMENT = 136
_OWN = ABOVE_DEFAULT + 10
_RESET = ABOVE_DEFAULT + 20
_OPENING = ABOVE_DEFAULT + 30


@dataclass(frozen=True, slots=True)
class _Port:
    name: str
    table: Table
    state: Table
    mark: CtMark


_SOCKSIFIER = _Port(SOCKSIFIER_PORT, Table.SOCKSIFIER, Table.SOCKSIFIER_STATE, CtMark.OUTBOUND)
_SERVER = _Port(SERVER_PORT, Table.SERVER, Table.SERVER_STATE, CtMark.INBOUND)
_PORTS = {
    SOCKSIFIER_PORT: Table.SOCKSIFIER,
    SERVER_PORT: Table.SERVER,
    ROUTER_PORT: Table.ROUTER,
}


def flows(context: Context) -> Iterator[Flow]:
    """Flows of the proxy's ports, and of the connections of socksifier and server."""
    for name, table in _PORTS.items():
        yield context.flow(
            Table.HOOK,
            Match(in_port=name, handed_back=False),
            Resubmit(table),
            priority=HookPriority.PORT,
            why="frames from the proxy to VMs",
        )
        yield from _neighbours(context, name, table)
        yield context.default(table, why="drop what the proxy may not send")
    yield from _errors(context)
    yield from _socksifier_opens_nothing(context)
    for port in (_SOCKSIFIER, _SERVER):
        yield from _to_tenant(context, port)


def peer_flows(context: PeerContext) -> Iterator[Flow]:
    """Flows of what the proxy sends in the name of a peer's VMs."""
    for port in (_SOCKSIFIER, _SERVER):
        for remote in context.peer.prefixes:
            foreign = Match(protocol=tcp(remote.network), source=remote.network)
            yield context.flow(
                port.table, foreign, Track(port.state), why="in the name of a peer's VM"
            )


def _neighbours(context: Context, port: str, table: Table) -> Iterator[Flow]:
    mac = port_mac(context.site, port)
    sources = [prefix.proxy_address for prefix in context.site.prefixes]
    for source in (*sources, link_local(mac)):
        if source.version == 4:
            arp = Match(protocol=Protocol.ARP, arp_source=source, arp_source_mac=mac)
            yield context.flow(table, arp, Normal(), why="the proxy asks for VMs as itself")
            continue
        for kind in (_ND_SOLICITATION, _ND_ADVERTISEMENT):
            discovery = Match(protocol=Protocol.ICMP6, source=source, icmp_type=kind)
            yield context.flow(table, discovery, Normal(), why="the proxy asks for VMs as itself")


def _errors(context: Context) -> Iterator[Flow]:
    for prefix in context.site.prefixes:
        error = Match(
            protocol=icmp(prefix.network),
            source=prefix.proxy_address,
            destination=prefix.network,
            icmp_type=_UNREACHABLE[prefix.family],
        )
        yield context.flow(
            Table.SOCKSIFIER, error, Normal(), why="the proxy tells a VM what it cannot reach"
        )


def _socksifier_opens_nothing(context: Context) -> Iterator[Flow]:
    for prefix in context.site.prefixes:
        yield context.flow(
            Table.SOCKSIFIER_STATE,
            Match(protocol=tcp(prefix.network), destination=prefix.network, opening=True),
            priority=_OPENING,
            why="drop: the socksifier answers, and opens nothing",
        )


def _to_tenant(context: Context, port: _Port) -> Iterator[Flow]:
    for prefix in context.site.prefixes:
        protocol, to = tcp(prefix.network), prefix.network
        yield context.flow(
            port.state,
            Match(protocol=protocol, destination=to, reset=True),
            Normal(),
            priority=_RESET,
            why="a reset makes nobody the owner: on to the VM",
        )
        yield context.flow(
            port.state,
            Match(protocol=protocol, destination=to, ct_mark=port.mark),
            Normal(),
            priority=_OWN,
            why="from its connection's owner: on to the VM",
        )
        yield context.flow(
            port.state,
            Match(protocol=protocol, destination=to),
            Commit(port.mark),
            Normal(),
            why="new, lost, or another's before: the sender is its owner",
        )
    yield context.default(port.state, why="drop what is not for our prefixes")
