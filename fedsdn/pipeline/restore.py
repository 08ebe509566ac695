"""Connections of the SOCKS server with the proxy's own address.

With ``source_restore: nat`` the bridge restores the client's. The SYN of each connection meets a
flow of its own, added a moment before, and conntrack then translates the whole connection. Packets
without such a connection are dropped, so no VM ever sees the proxy's address, or the client of an
older connection with the same 4-tuple.

With ``none``, or for a peer with a plain SOCKS5 proxy, which names no client, VMs see the proxy's
address, and their answers are steered to the server.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fedsdn.config.model import Federation, Site
from fedsdn.pipeline.context import ABOVE_DEFAULT, Context
from fedsdn.pipeline.declarations import RESTORE_SECONDS, Feature, Table
from fedsdn.pipeline.flows import Flow, Match, Normal, RestoreSource, Resubmit, Track, tcp
from fedsdn.socket_address import SocketAddress

_OPENING = ABOVE_DEFAULT + 10
_LOST = ABOVE_DEFAULT + 30


@dataclass(frozen=True, slots=True)
class Restoration:
    """The client of a SOCKS server's connection from ``own`` to ``destination``."""

    own: SocketAddress
    client: SocketAddress
    destination: SocketAddress


def flows(context: Context) -> Iterator[Flow]:
    """Flows for the server's own address, where it uses that."""
    if context.site.source_restore == "nat":
        yield from _restored(context)
    elif context.federation.unrestored_peers(context.site.name):
        yield from _unrestored(context)


def _unrestored(context: Context) -> Iterator[Flow]:
    for prefix in context.site.prefixes:
        own, to = prefix.proxy_address, prefix.network
        yield context.flow(
            Table.REMOTE,
            Match(protocol=tcp(to), destination=own),
            Resubmit(Table.NETWORK),
            why="VMs' answers to the server's own address (sources are not restored)",
        )
        match = Match(protocol=tcp(to), source=own, destination=to)
        yield context.flow(
            Table.SERVER,
            match,
            Track(Table.SERVER_STATE),
            why="as itself (sources are not restored)",
        )


def _restored(context: Context) -> Iterator[Flow]:
    """Flows that lead to the tables with a flow per connection."""
    for prefix in context.site.prefixes:
        own, to = prefix.proxy_address, prefix.network
        match = Match(protocol=tcp(to), source=own, destination=to)
        opening = Match(protocol=tcp(to), source=own, destination=to, opening=True)
        restored = Track(Table.SERVER_STATE, nat=True)
        yield context.flow(
            Table.SERVER,
            opening,
            Resubmit(Table.RESTORE),
            priority=_OPENING,
            why="first segments: each needs its client's address",
        )
        yield context.flow(Table.SERVER, match, restored, why="later ones: conntrack translates")
        lost = Match(protocol=tcp(to), source=own)
        yield context.flow(
            Table.SERVER_STATE,
            lost,
            priority=_LOST,
            why="drop what conntrack has lost: nobody knows its client any more",
        )
    yield context.default(Table.RESTORE, why="drop what nobody asked to restore, or too long ago")
    yield context.default(
        Table.RESTORED, why="drop what was translated to another client's address"
    )


def restoring_flows(federation: Federation, site: Site, wanted: Restoration) -> tuple[Flow, Flow]:
    """Flows that restore the source of one connection before its SYN."""
    context = Context(site, Feature.RESTORE, federation)
    return (
        context.flow(
            Table.RESTORE,
            _segments(wanted.own, wanted.destination),
            RestoreSource(wanted.client, Table.RESTORED),
            hard_timeout=RESTORE_SECONDS,
            why="one connection that is being opened: give it its client's address",
        ),
        context.flow(
            Table.RESTORED,
            _segments(wanted.client, wanted.destination),
            Normal(),
            hard_timeout=RESTORE_SECONDS,
            why="the same, restored: on to the VM",
        ),
    )


def _segments(source: SocketAddress, destination: SocketAddress) -> Match:
    return Match(
        protocol=tcp(source.address),
        source=source.address,
        destination=destination.address,
        source_port=source.port,
        destination_port=destination.port,
    )
