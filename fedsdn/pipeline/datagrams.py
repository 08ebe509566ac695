"""Datagrams: all that is IP and not TCP goes to the router, the kernel in the proxy's namespace.

It routes them through tunnels to the peers, and tracks them there: here nothing does, so that
fragments pass as they are and no flow depends on what is carried. ICMP errors alone are looked up
first: those about a connection go to its proxy port (``tenants``). Peers with another's proxy carry
TCP alone; what else is to them goes back to table 0.

What comes from the router is in the name of a peer's VM, or an ICMP error of the proxy's own, and
for a local prefix; TCP never. Whatever else it sends is dropped and counted.
"""

from __future__ import annotations

from collections.abc import Iterator

from fedsdn.config.model import Family
from fedsdn.pipeline.context import ABOVE_DEFAULT, Context, PeerContext
from fedsdn.pipeline.declarations import Table
from fedsdn.pipeline.flows import Action, Flow, Match, Normal, Protocol, Resubmit, Track, icmp, ip
from fedsdn.pipeline.network import HANDED_BACK

ICMP_ERRORS: dict[Family, tuple[int, ...]] = {4: (3, 11, 12), 6: (1, 2, 3, 4)}
"""ICMP types by IP version: unreachable, too big, time exceeded, parameter problem (RFC 792; RFC
4443, section 3)."""

_ICMP: dict[Family, Protocol] = {4: Protocol.ICMP, 6: Protocol.ICMP6}
_FIRST = ABOVE_DEFAULT + 10


def flows(context: Context) -> Iterator[Flow]:
    """Flows between tenants and the router."""
    yield from _to_router(context)
    yield from _from_router(context)


def peer_flows(context: PeerContext) -> Iterator[Flow]:
    """Flows of what is to a peer's prefixes, or in the name of its VMs."""
    for remote in context.peer.prefixes:
        network = remote.network
        if context.peer.proxy == "socks5":
            yield context.flow(
                Table.ROUTED,
                Match(protocol=ip(network), destination=network),
                *HANDED_BACK,
                why="another's proxy carries TCP alone: as if we were not there",
            )
            continue
        yield context.flow(
            Table.ROUTER,
            Match(protocol=ip(network), source=network),
            Resubmit(Table.ROUTER_TO_VM),
            why="in the name of a peer's VM",
        )


def _to_router(context: Context) -> Iterator[Flow]:
    restored = context.site.source_restore == "nat"
    for family in sorted({prefix.family for prefix in context.site.prefixes}):
        for kind in ICMP_ERRORS[family]:
            yield context.flow(
                Table.DATAGRAM,
                Match(protocol=_ICMP[family], icmp_type=kind),
                Track(Table.TENANT_STATE, nat=restored),
                why="an ICMP error: about a connection?",
            )
    yield context.default(
        Table.DATAGRAM, Resubmit(Table.ROUTED), why="of no connection: fragments, too"
    )
    yield context.default(Table.ROUTED, *_onward(context), why="to a peer, by the tunnels")


def _from_router(context: Context) -> Iterator[Flow]:
    for prefix in context.site.prefixes:
        for kind in ICMP_ERRORS[prefix.family]:
            error = Match(
                protocol=icmp(prefix.network),
                source=prefix.proxy_address,
                destination=prefix.network,
                icmp_type=kind,
            )
            yield context.flow(
                Table.ROUTER, error, Normal(), priority=_FIRST, why="the router's own ICMP errors"
            )
        yield context.flow(
            Table.ROUTER_TO_VM,
            Match(protocol=ip(prefix.network), destination=prefix.network),
            Normal(),
            why="to a local prefix: on to the VM",
        )
    for protocol in (Protocol.TCP, Protocol.TCP6):
        yield context.flow(
            Table.ROUTER_TO_VM,
            Match(protocol=protocol),
            priority=_FIRST,
            why="drop: TCP comes from the proxy's sockets alone",
        )
    yield context.default(Table.ROUTER_TO_VM, why="drop what is not for our prefixes")


def _onward(context: Context) -> tuple[Action, ...]:
    """Return what is done with a datagram to a peer; without a router's port, as without us."""
    return (Resubmit(Table.TO_ROUTER),) if context.routed else HANDED_BACK
