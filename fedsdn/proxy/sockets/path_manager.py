"""The path manager of the connections that this site opens (RFC 8684, section 2.5).

The kernel's own one learns a peer's addresses from announcements, takes eight of them in a
connection's life (mptcp_net-next#498), and forgets an address with its last subflow. Here the
federation file names all addresses, so that nothing is announced: whoever opens a connection opens
its subflows, too, on the uplinks that have an endpoint and to those of the peer that live.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from fedsdn.config.model import Address, AddressPair, Uplink
from fedsdn.mptcp.connection import open_pairs, token
from fedsdn.mptcp.events import SubflowEvents
from fedsdn.mptcp.requests import SubflowRequests
from fedsdn.proxy.sockets.readable import when_readable

_LOG = logging.getLogger(__name__)

RETRY_SECONDS = 2.0
"""How long a connection that has a subflow waits before it asks again for one that was refused."""

_REFUSALS = 3
_REFUSED_SECONDS = 0.5
"""A connection without a subflow is given up when new ones were refused so many times, with so many
seconds between: longer than a round trip, shorter than the time-out of any other failure."""

_AT_ONCE = 50
"""After so many connections others get their turn."""

_IDENTIFIERS = 255
"""Address identifiers are an octet, and 0 is the address that a connection began with."""

Paths = Sequence[tuple[Uplink, Uplink]]
"""Pairs of an own uplink and one of a peer, the best first."""


def lacking(paths: Paths, there: Iterable[AddressPair]) -> list[tuple[Uplink, Uplink]]:
    """Return the paths to open, so that each uplink that is on one of ``paths`` carries something.

    ``there`` are the addresses of the subflows that are open. A path that brings in an uplink of
    both sites comes before two that bring in one each.
    """
    pairs = set(there)
    owns, others = set(), set()
    for own, other in paths:
        if (own.address.ip, other.peer_address) in pairs:
            owns.add(own.name)
            others.add(other.name)
    chosen = []
    for gain in (2, 1):
        for own, other in paths:
            if (own.name not in owns) + (other.name not in others) >= gain:
                owns.add(own.name)
                others.add(other.name)
                chosen.append((own, other))
    return chosen


@dataclass(slots=True, eq=False)
class Managed:
    """A connection that this site has opened. ``token`` is 0 if it is plain TCP.

    ``give_up`` ends it. ``asked`` are the subflows that were asked for when it was looked at last,
    ``rests_until`` is the time before which it asks for no more. ``refused`` is how many times in a
    row it had no subflow at all, nor got one; ``counted`` is when that was counted last.
    """

    sock: socket.socket
    token: int
    peer: str
    give_up: Callable[[], object]
    asked: frozenset[AddressPair] = frozenset()
    rests_until: float = float("-inf")
    refused: int = 0
    counted: float = float("-inf")
    timer: asyncio.TimerHandle | None = None

    def has_lost_its_peer(self, there: Mapping[AddressPair, bool], now: float) -> bool:
        """Whether the peer has the connection no more, by the subflows that are there.

        It refuses new ones at once then. Those that get no answer are there for minutes, and those
        to a neighbour who is away for three seconds, so they are not taken for refused.
        """
        if any(there.values()) or not self.asked or self.asked & there.keys():
            self.refused = 0
        elif now >= self.counted + _REFUSED_SECONDS:
            self.refused += 1
            self.counted = now
        return self.refused >= _REFUSALS


class PathManager:
    """Gives connections their further subflows, and those anew that have ended.

    The kernel tells which connections have lost a subflow; the others are left alone, unless there
    is news of the paths.
    """

    def __init__(self, paths: Callable[[str], Paths], port: Callable[[], int]) -> None:
        """``paths`` are those to a peer that may be used now, ``port`` is where peers listen.

        Raises:
            OSError: the kernel has no userspace path manager.

        """
        self._paths = paths
        self._port = port
        self._requests = SubflowRequests()
        try:
            self._events = SubflowEvents()
        except OSError:
            self._requests.close()
            raise
        self._connections: dict[int, Managed] = {}
        self._due: set[Managed] = set()
        self._identifiers: dict[Address, int] = {}
        self._news = asyncio.Event()
        self._old_paths: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Let go of the kernel."""
        if self._old_paths is not None:
            self._old_paths.cancel()
        self._requests.close()
        self._events.close()

    def look(self) -> None:
        """Look at all connections soon: there is news of the paths."""
        self._due.update(self._connections.values())
        self._news.set()

    def look_in(self, seconds: float) -> None:
        """Look at all connections then: what is known of the paths is out of date.

        If this is called again before, only the later time counts.
        """
        if self._old_paths is not None:
            self._old_paths.cancel()
        self._old_paths = asyncio.get_running_loop().call_later(seconds, self.look)

    @contextmanager
    def managing(
        self, sock: socket.socket, peer: str, give_up: Callable[[], object]
    ) -> Iterator[Managed]:
        """Look after a connection to ``peer`` meanwhile; ``give_up`` if the peer has lost it."""
        connection = Managed(sock, token(sock), peer, give_up)
        if not connection.token:
            yield connection
            return
        self._connections[connection.token] = connection
        self._look_at(connection, RETRY_SECONDS)  # ``join`` comes when the peer has answered
        try:
            yield connection
        finally:
            self._connections.pop(connection.token, None)
            self._due.discard(connection)
            _cancel_timer(connection)

    async def run(self) -> None:
        """Look after connections for ever. One whose turn fails is given up, the others go on.

        Raises:
            ExceptionGroup: the kernel's events cannot be read any more.

        """
        async with asyncio.TaskGroup() as group:
            group.create_task(when_readable(self._events.fileno(), self._take_events))
            group.create_task(self._look_at_due())

    async def _look_at_due(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while self._due:
                for _ in range(min(_AT_ONCE, len(self._due))):
                    self._join_or_give_up(self._due.pop())
                await asyncio.sleep(0)

    def _join_or_give_up(self, connection: Managed) -> None:
        try:
            self.join(connection)
        except Exception:
            _LOG.exception("site %s: a connection is given up", connection.peer)
            connection.give_up()

    def _take_events(self) -> None:
        tokens = self._events.ended()
        if tokens is None:
            self.look()
            return
        for connection in map(self._connections.get, tokens):
            if connection is not None:
                self._look_at(connection)

    def _look_at(self, connection: Managed, seconds: float = 0.0) -> None:
        """Look at a connection after so many seconds, or when it has rested, or as planned."""
        loop = asyncio.get_running_loop()
        when = max(loop.time() + seconds, connection.rests_until)
        if when <= loop.time():
            self._due.add(connection)
            self._news.set()
        elif connection.timer is None:
            connection.timer = loop.call_at(when, self._time_has_come, connection)

    def _time_has_come(self, connection: Managed) -> None:
        connection.timer = None
        self._due.add(connection)
        self._news.set()

    def join(self, connection: Managed) -> None:
        """Open the subflows that a connection lacks, if it is far enough."""
        if not connection.token:
            return
        _cancel_timer(connection)
        there = open_pairs(connection.sock)
        now = asyncio.get_running_loop().time()
        if connection.has_lost_its_peer(there, now):
            _LOG.info("site %s: a connection is given up: the peer has it no more", connection.peer)
            connection.give_up()
            return
        lacks = [
            (own.address.ip, other.peer_address)
            for own, other in lacking(self._paths(connection.peer), there)
        ]
        connection.asked = frozenset(pair for pair in lacks if self._open(connection.token, *pair))
        has_none = not any(there.values())
        if lacks:
            connection.rests_until = now + (_REFUSED_SECONDS if has_none else RETRY_SECONDS)
        if len(lacks) > len(connection.asked) or (lacks and has_none):
            self._look_at(connection)

    def _open(self, name: int, local: Address, remote: Address) -> bool:
        """Have a subflow of a connection opened; False: the kernel does not do it now."""
        with self._identified(local) as identifier:
            self._requests.open_subflow(name, local, identifier, remote, self._port())
            return True
        return False

    def announce(self, sock: socket.socket, peer: str) -> None:
        """Announce the other uplinks on a connection that another's proxy has opened.

        That proxy leaves it to the kernel to open subflows, which knows no federation file.
        """
        if name := token(sock):
            used = {local for local, _ in open_pairs(sock)}
            paths = self._paths(peer)
            others = {own.address.ip for own, _ in paths if own.public is None} - used
            for local in others:
                with self._identified(local) as identifier:
                    self._requests.announce(name, local, identifier)

    @contextmanager
    def _identified(self, local: Address) -> Iterator[int]:
        """Ask the kernel for something that needs the address identifier of ``local``."""
        try:
            yield self._identifiers.setdefault(local, len(self._identifiers) % _IDENTIFIERS + 1)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                _LOG.debug("no subflow from %s: %s", local, error.strerror)


def _cancel_timer(connection: Managed) -> None:
    if connection.timer is not None:
        connection.timer.cancel()
        connection.timer = None
