"""A worker's unreported changes of its connections: pure book-keeping."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fedsdn.channel.connection import Connection, Direction
from fedsdn.socket_address import SocketAddress

Page = tuple[list[Connection], list[Connection], list[Connection]]
"""Connections opened, moved and closed."""


class Report:
    """Open connections, and their unreported changes."""

    def __init__(self) -> None:
        """Begin without any."""
        self._numbers = itertools.count(1)
        self._open: dict[int, Connection] = {}
        self._opened: dict[int, Connection] = {}
        self._closed: list[Connection] = []
        self._told: dict[int, int] = {}
        """Reported bytes, by connection."""

    @contextmanager
    def carried(
        self,
        direction: Direction,
        peer: str,
        client: SocketAddress,
        destination: SocketAddress,
        shown: SocketAddress,
        token: int,
    ) -> Iterator[Connection]:
        """Report a connection as open for as long as this lasts."""
        number = next(self._numbers)
        connection = Connection(
            number, direction, peer, client, destination, shown, token, time.time()
        )
        self._open[number] = self._opened[number] = connection
        try:
            yield connection
        finally:
            del self._open[number]
            self._told.pop(number, None)
            # A connection that was never reported needs no report of its end.
            if self._opened.pop(number, None) is None:
                self._closed.append(connection)

    def begin_again(self) -> None:
        """Report everything anew, to another application."""
        self._opened = dict(self._open)
        self._closed.clear()
        self._told.clear()

    def pages(self, most: int, *, traffic: bool) -> Iterator[Page]:
        """Take what has changed, at most ``most`` of a kind at a time; bytes with ``traffic``."""
        moved = [one for one in self._open.values() if traffic and self._has_moved(one)]
        while self._opened or moved or self._closed:
            opened = [self._opened.pop(number) for number in [*self._opened][:most]]
            page = (opened, moved[:most], self._closed[:most])
            del moved[:most], self._closed[:most]
            yield page

    def _has_moved(self, one: Connection) -> bool:
        total = one.sent + one.received
        if one.number in self._opened or self._told.get(one.number, 0) == total:
            return False
        self._told[one.number] = total
        return True
