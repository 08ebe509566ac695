"""The proxy's two tenant-side ports: foreign sources come in here, and nowhere else.

What they send as themselves (ARP, neighbour discovery) is checked against their own addresses.
What they send as somebody else must be TCP from a peer's prefix to one of ours; the direction of
its connection is the port it comes from. Everything else is dropped, and the drop counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fedsdn.pipeline.context import ABOVE_DEFAULT, Context
from fedsdn.pipeline.declarations import (
    SERVER_PORT,
    SOCKSIFIER_PORT,
    CtMark,
    HookPriority,
    Table,
    port_mac,
)
from fedsdn.pipeline.link_local import link_local
from fedsdn.pipeline.rows import (
    Commit,
    ConnState,
    Match,
    Normal,
    Protocol,
    Resubmit,
    Row,
    Track,
    tcp,
)

_ND_SOLICITATION = 135
_ND_ADVERTISEMENT = 136
_NEW = ABOVE_DEFAULT + 10
_OPENING = ABOVE_DEFAULT + 20


@dataclass(frozen=True, slots=True)
class _Port:
    name: str
    table: Table
    state: Table
    mark: CtMark


_SOCKSIFIER = _Port(SOCKSIFIER_PORT, Table.SOCKSIFIER, Table.SOCKSIFIER_STATE, CtMark.OUTBOUND)
_SERVER = _Port(SERVER_PORT, Table.SERVER, Table.SERVER_STATE, CtMark.INBOUND)


def rows(context: Context) -> Iterator[Row]:
    """Rows of the socksifier's and the server's port."""
    for port in (_SOCKSIFIER, _SERVER):
        yield context.row(
            Table.HOOK,
            Match(in_port=port.name),
            Resubmit(port.table),
            priority=HookPriority.PORT,
            why="frames from the proxy to VMs",
        )
        yield from _neighbours(context, port)
        for remote in context.remote_prefixes:
            foreign = Match(protocol=tcp(remote.network), source=remote.network)
            yield context.row(
                port.table, foreign, Track(port.state), why="in the name of a peer's VM"
            )
        yield context.default(port.table, why="drop what the proxy may not send")
    yield from _opening(context)
    for port in (_SOCKSIFIER, _SERVER):
        yield from _to_tenant(context, port)


def _neighbours(context: Context, port: _Port) -> Iterator[Row]:
    mac = port_mac(context.site, port.name)
    sources = [prefix.proxy_address for prefix in context.site.prefixes]
    for source in (*sources, link_local(mac)):
        if source.version == 4:
            arp = Match(protocol=Protocol.ARP, arp_source=source, arp_source_mac=mac)
            yield context.row(port.table, arp, Normal(), why="the proxy asks for VMs as itself")
            continue
        for kind in (_ND_SOLICITATION, _ND_ADVERTISEMENT):
            discovery = Match(protocol=Protocol.ICMP6, source=source, icmp6_type=kind)
            yield context.row(
                port.table, discovery, Normal(), why="the proxy asks for VMs as itself"
            )


def _opening(context: Context) -> Iterator[Row]:
    for prefix in context.site.prefixes:
        opening = Match(protocol=tcp(prefix.network), destination=prefix.network, opening=True)
        yield context.row(
            Table.SOCKSIFIER_STATE,
            opening,
            priority=_OPENING,
            why="drop: the socksifier answers, and opens nothing",
        )
        yield context.row(
            Table.SERVER_STATE,
            opening,
            Commit(CtMark.INBOUND, force=True),
            Normal(),
            priority=_OPENING,
            why="a peer's VM opens a connection: inbound",
        )


def _to_tenant(context: Context, port: _Port) -> Iterator[Row]:
    for prefix in context.site.prefixes:
        protocol = tcp(prefix.network)
        lost = Match(protocol=protocol, destination=prefix.network, conn_state=ConnState.NEW)
        yield context.row(
            port.state,
            lost,
            Commit(port.mark),
            Normal(),
            priority=_NEW,
            why="conntrack has lost it: the sender is its owner",
        )
        known = Match(protocol=protocol, destination=prefix.network)
        yield context.row(port.state, known, Normal(), why="on to the VM")
    yield context.default(port.state, why="drop what is not for our prefixes")
