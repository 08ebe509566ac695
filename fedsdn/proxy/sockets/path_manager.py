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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice

from fedsdn.config.model import Address, AddressPair, Uplink
from fedsdn.mptcp.connection_info import open_pairs
from fedsdn.mptcp.requests import SubflowRequests
from fedsdn.proxy.sockets import transport

_LOG = logging.getLogger(__name__)

ROUND_SECONDS = 2.0
"""How often every connection is looked at, when nothing is told: a subflow may end by itself."""

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

    ``give_up`` ends it. ``asked`` are the subflows that were asked for when it was looked at last;
    ``refused`` is how many times in a row it then had none at all, nor got one.
    """

    sock: socket.socket
    token: int
    peer: str
    give_up: Callable[[], object]
    asked: frozenset[AddressPair] = frozenset()
    refused: int = 0
    counted: float = float("-inf")
    look_again: asyncio.TimerHandle | None = None

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
    """Gives connections their further subflows, and those anew that have ended."""

    def __init__(self, paths: Callable[[str], Paths], port: Callable[[], int]) -> None:
        """``paths`` are those to a peer that may be used now, ``port`` is where peers listen.

        Raises:
            OSError: the kernel has no userspace path manager.

        """
        self._paths = paths
        self._port = port
        self._requests = SubflowRequests()
        self._connections: set[Managed] = set()
        self._identifiers: dict[Address, int] = {}
        self._news = asyncio.Event()

    def close(self) -> None:
        """Let go of the kernel."""
        self._requests.close()

    def look(self) -> None:
        """Look at all connections soon: there is news of the paths."""
        self._news.set()

    @contextmanager
    def managing(
        self, sock: socket.socket, peer: str, give_up: Callable[[], object]
    ) -> Iterator[Managed]:
        """Look after a connection to ``peer`` meanwhile; ``give_up`` if the peer has lost it."""
        connection = Managed(sock, transport.token(sock), peer, give_up)
        self._connections.add(connection)
        try:
            yield connection
        finally:
            self._connections.discard(connection)
            if connection.look_again is not None:
                connection.look_again.cancel()

    async def run(self) -> None:
        """Look after connections for ever."""
        while True:
            self._news.clear()
            every = iter(list(self._connections))
            while some := list(islice(every, _AT_ONCE)):
                for connection in some:
                    if connection in self._connections:
                        self.join(connection)
                await asyncio.sleep(0)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), ROUND_SECONDS)

    def join(self, connection: Managed) -> None:
        """Open the subflows that a connection lacks, if it is far enough."""
        if not connection.token:
            return
        there = open_pairs(connection.sock)
        loop = asyncio.get_running_loop()
        if connection.has_lost_its_peer(there, loop.time()):
            _LOG.info("site %s: a connection is given up: the peer has it no more", connection.peer)
            connection.give_up()
            return
        asked = set()
        for own, other in lacking(self._paths(connection.peer), there):
            local, remote = own.address.ip, other.peer_address
            with self._identified(local) as identifier:
                self._requests.open_subflow(
                    connection.token, local, identifier, remote, self._port()
                )
                asked.add((local, remote))
        connection.asked = frozenset(asked)
        if asked and not any(there.values()):
            self._look_again(connection)

    def _look_again(self, connection: Managed) -> None:
        """Look at a connection without subflows before its next turn."""

        def look() -> None:
            connection.look_again = None
            if connection in self._connections:
                self.join(connection)

        if connection.look_again is None:
            loop = asyncio.get_running_loop()
            connection.look_again = loop.call_later(_REFUSED_SECONDS, look)

    def announce(self, sock: socket.socket, peer: str) -> None:
        """Announce the other uplinks on a connection that another's proxy has opened.

        That proxy leaves it to the kernel to open subflows, which knows no federation file.
        """
        if name := transport.token(sock):
            used = {local for local, _ in open_pairs(sock)}
            paths = self._paths(peer)
            others = {own.address.ip for own, _ in paths if own.public is None} - used
            for local in others:
                with self._identified(local) as identifier:
                    self._requests.announce(name, local, identifier)

    def nudge(self, sock: socket.socket) -> None:
        """Wake the peer's kernel: announce an address that a subflow has, which opens none."""
        if name := transport.token(sock):
            for local in {local for local, _ in open_pairs(sock)}:
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
