"""The SOCKS server's connections from the proxy's own address.

Where ``source_restore`` is ``nat``, the bridge restores the client's. The first segment of each
connection finds a flow of its own, made for it a moment before: conntrack then translates all its
packets. What has no such connection is dropped here, so nothing ever reaches a VM from the proxy's
address, or from another client's that an older connection between the same sockets had.

Where it is ``none``, or a peer has another's proxy, which names no client, the proxy's address
reaches the VMs, and their answers reach the server.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fedsdn.config.model import Federation, Site
from fedsdn.pipeline.context import ABOVE_DEFAULT, Context
from fedsdn.pipeline.declarations import RESTORE_SECONDS, Feature, HookPriority, Table
from fedsdn.pipeline.flows import Flow, Match, Normal, Restore, Resubmit, Track, tcp
from fedsdn.socket_address import SocketAddress

_OPENING = ABOVE_DEFAULT + 10
_LOST = ABOVE_DEFAULT + 30


@dataclass(frozen=True, slots=True)
class Restoration:
    """A connection of the SOCKS server, from ``own`` to ``destination``, and whose it is."""

    own: SocketAddress
    client: SocketAddress
    destination: SocketAddress


def flows(context: Context) -> Iterator[Flow]:
    """Flows for what the server sends as itself, where it does."""
    if context.site.source_restore == "nat":
        yield from _restored(context)
    elif context.federation.unrestored_peers(context.site.name):
        yield from _unrestored(context)


def _unrestored(context: Context) -> Iterator[Flow]:
    for prefix in context.site.prefixes:
        own, to = prefix.proxy_address, prefix.network
        yield context.flow(
            Table.HOOK,
            Match(protocol=tcp(to), destination=own),
            Resubmit(Table.TENANT),
            priority=HookPriority.PREFIX,
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
    """Flows that lead to those of single connections."""
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
    """Flows that restore the client's address of one connection, about to be opened."""
    context = Context(federation, site, Feature.RESTORE)
    return (
        context.flow(
            Table.RESTORE,
            _segments(wanted.own, wanted.destination),
            Restore(wanted.client, Table.RESTORED),
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
