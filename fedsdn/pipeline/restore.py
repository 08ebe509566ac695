"""Clients' addresses, restored by the bridge, where ``source_restore`` is ``nat``.

The SOCKS server connects to a VM from the proxy's own address. The first segment of each connection
finds a row of its own, made for it a moment before: conntrack then translates all its packets.
What has no such connection is dropped here, so nothing ever reaches a VM from the proxy's address,
or from another client's that an older connection between the same sockets had.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fedsdn.config.model import Federation, Site
from fedsdn.pipeline.context import ABOVE_DEFAULT, Context
from fedsdn.pipeline.declarations import RESTORE_SECONDS, Feature, Table
from fedsdn.pipeline.rows import Match, Normal, Restore, Resubmit, Row, Track, tcp
from fedsdn.socket_address import SocketAddress

_OPENING = ABOVE_DEFAULT + 10
_UNRESTORED = ABOVE_DEFAULT + 30


@dataclass(frozen=True, slots=True)
class Restoration:
    """A connection of the SOCKS server, from ``own`` to ``destination``, and whose it is."""

    own: SocketAddress
    client: SocketAddress
    destination: SocketAddress


def rows(context: Context) -> Iterator[Row]:
    """Rows that lead to those of single connections."""
    if context.site.source_restore != "nat":
        return
    for prefix in context.site.prefixes:
        own, to = prefix.proxy_address, prefix.network
        match = Match(protocol=tcp(to), source=own, destination=to)
        opening = Match(protocol=tcp(to), source=own, destination=to, opening=True)
        restored = Track(Table.SERVER_STATE, nat=True)
        yield context.row(Table.SERVER, opening, Resubmit(Table.RESTORE), priority=_OPENING)
        yield context.row(Table.SERVER, match, restored)
        unrestored = Match(protocol=tcp(to), source=own)
        yield context.row(Table.SERVER_STATE, unrestored, priority=_UNRESTORED)
    yield context.default(Table.RESTORE)
    yield context.default(Table.RESTORED)


def restoring_rows(federation: Federation, site: Site, wanted: Restoration) -> tuple[Row, Row]:
    """Rows that restore the client's address of one connection, about to be opened."""
    context = Context(federation, site, Feature.RESTORE)
    return (
        context.row(
            Table.RESTORE,
            _segments(wanted.own, wanted.destination),
            Restore(wanted.client, Table.RESTORED),
            hard_timeout=RESTORE_SECONDS,
        ),
        context.row(
            Table.RESTORED,
            _segments(wanted.client, wanted.destination),
            Normal(),
            hard_timeout=RESTORE_SECONDS,
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
