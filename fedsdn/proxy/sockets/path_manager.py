"""The path manager of the connections that this site opens (RFC 8684, section 2.5).

The kernel's path manager learns a peer's addresses from ADD_ADDR, accepts eight of these in a
connection's life (mptcp_net-next#498), and forgets an address with its last subflow. Here the
federation file has all addresses, so that nothing is announced: the site that opens a connection
opens its subflows, too, from uplinks with an endpoint to live uplinks of the peer.
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
from fedsdn.damped_log import DampedLog
from fedsdn.mptcp.connection import open_pairs, token
from fedsdn.mptcp.events import SubflowEvents
from fedsdn.mptcp.requests import SubflowRequests
from fedsdn.proxy.ended.record import Reason, Who
from fedsdn.proxy.sockets.readable import when_readable

_LOG = logging.getLogger(__name__)

RETRY_SECONDS = 2.0
"""Interval between a connection's requests for subflows, while it has one."""

_REFUSALS = 3
_REFUSED_SECONDS = 0.5
"""A connection without subflows is given up after so many refusals, at this interval: longer than a
round trip, shorter than the time-out of any other failure."""

_SETTLE_SECONDS = 0.1
"""Delay after the end of a subflow. If the controller has ended it because its path is down, that
state is about to be reported; and retransmissions need the processor first."""

_AT_ONCE = 50
"""Connections looked at before other tasks get their turn."""

_IDENTIFIERS = 255
"""Address identifiers are an octet, and 0 is the address that a connection began with."""

GiveUp = Callable[[Reason, Who, str], object]
"""Ends a connection: why, by whom, and a few words."""

Paths = Sequence[tuple[Uplink, Uplink]]
"""Pairs of a local and a remote uplink, the best first."""


def lacking(paths: Paths, there: Iterable[AddressPair]) -> list[tuple[Uplink, Uplink]]:
    """Return the paths to open, so that each uplink of ``paths`` has a subflow.

    ``there`` are the addresses of the open subflows. One path with a new uplink at both ends is
    preferred to two with a new uplink at one end each.
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

    ``give_up`` ends it. ``asked`` are the subflows requested at the last look, ``rests_until`` is
    the earliest time of the next request. ``refused`` counts consecutive looks that found no
    subflow and the last request refused; ``counted`` is the time of the last of them.
    """

    sock: socket.socket
    token: int
    peer: str
    give_up: GiveUp
    asked: frozenset[AddressPair] = frozenset()
    rests_until: float = float("-inf")
    refused: int = 0
    counted: float = float("-inf")
    timer: asyncio.TimerHandle | None = None

    def has_lost_its_peer(self, there: Mapping[AddressPair, bool], now: float) -> bool:
        """Whether the peer no longer has the connection, judging by the subflows ``there``.

        Such a peer refuses new subflows at once. Unanswered ones stay for minutes, and ones to an
        unresolved neighbour for three seconds, so they do not count as refused.
        """
        if any(there.values()) or not self.asked or self.asked & there.keys():
            self.refused = 0
        elif now >= self.counted + _REFUSED_SECONDS:
            self.refused += 1
            self.counted = now
        return self.refused >= _REFUSALS


class PathManager:
    """Opens the further subflows of connections, and replaces those that have ended.

    The kernel reports the connections that lost a subflow; others are looked at only after a change
    of the paths.
    """

    def __init__(self, paths: Callable[[str], Paths], port: Callable[[], int]) -> None:
        """``paths`` returns the usable paths to a peer, ``port`` the port on which peers listen.

        Raises:
            OSError: the kernel has no userspace path manager.

        """
        self._paths = paths
        self._port = port
        self._log = DampedLog(_LOG)
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
        """Close the netlink sockets."""
        if self._old_paths is not None:
            self._old_paths.cancel()
        self._requests.close()
        self._events.close()

    def look(self) -> None:
        """Look at all connections soon: the paths have changed."""
        self._due.update(self._connections.values())
        self._news.set()

    def look_in(self, seconds: float) -> None:
        """Look at all connections then, when the paths' states are out of date.

        A later call replaces an earlier one.
        """
        if self._old_paths is not None:
            self._old_paths.cancel()
        self._old_paths = asyncio.get_running_loop().call_later(seconds, self.look)

    @contextmanager
    def managing(self, sock: socket.socket, peer: str, give_up: GiveUp) -> Iterator[Managed]:
        """Manage a connection to ``peer`` during the block; ``give_up`` if the peer has lost it."""
        connection = Managed(sock, token(sock), peer, give_up)
        if not connection.token:
            yield connection
            return
        self._connections[connection.token] = connection
        self._schedule(connection, RETRY_SECONDS)  # unless the peer answers before, as it should
        try:
            yield connection
        finally:
            self._connections.pop(connection.token, None)
            self._due.discard(connection)
            _cancel_timer(connection)

    async def run(self) -> None:
        """Manage connections for ever. An exception in one of them gives up that one alone.

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
        except Exception as error:
            self._log.fault(f"site {connection.peer}: a connection is given up", error)
            connection.give_up(Reason.FAULT, Who.HERE, f"{type(error).__name__}: {error}")

    def _take_events(self) -> None:
        tokens = self._events.ended()
        if tokens is None:
            self.look()
            return
        for connection in map(self._connections.get, tokens):
            if connection is not None:
                self._schedule(connection, _SETTLE_SECONDS)

    def _schedule(self, connection: Managed, seconds: float) -> None:
        """Look at a connection after ``seconds``, and not before its rest is over.

        A look that is scheduled already stays as it is.
        """
        if connection.timer is None:
            loop = asyncio.get_running_loop()
            when = max(loop.time() + seconds, connection.rests_until)
            connection.timer = loop.call_at(when, self._timer_expired, connection)

    def _timer_expired(self, connection: Managed) -> None:
        connection.timer = None
        self._due.add(connection)
        self._news.set()

    def join(self, connection: Managed) -> None:
        """Request the subflows that a connection lacks; retry if it is not established yet."""
        if not connection.token:
            return
        _cancel_timer(connection)
        there = open_pairs(connection.sock)
        now = asyncio.get_running_loop().time()
        if connection.has_lost_its_peer(there, now):
            connection.give_up(Reason.LOST, Who.PEER, "the peer has it no more")
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
            self._schedule(connection, 0.0)

    def _open(self, name: int, local: Address, remote: Address) -> bool:
        """Request a subflow of a connection; False: the kernel refuses for now."""
        with self._identified(local) as identifier:
            self._requests.open_subflow(name, local, identifier, remote, self._port())
            return True
        return False

    def announce(self, sock: socket.socket, peer: str) -> None:
        """Announce the other uplinks on a connection that a foreign proxy has opened.

        There the kernel opens the subflows, and it has no federation file.
        """
        if name := token(sock):
            used = {local for local, _ in open_pairs(sock)}
            paths = self._paths(peer)
            others = {own.address.ip for own, _ in paths if own.public is None} - used
            for local in others:
                with self._identified(local) as identifier:
                    self._requests.announce(name, local, identifier)

    def nudge(self, sock: socket.socket) -> None:
        """Wake the peer's kernel by announcing an address that has a subflow already."""
        if name := token(sock):
            for local in {local for local, _ in open_pairs(sock)}:
                with self._identified(local) as identifier:
                    self._requests.announce(name, local, identifier)

    @contextmanager
    def _identified(self, local: Address) -> Iterator[int]:
        """Provide the address identifier of ``local`` for a request; a refusal is logged."""
        try:
            yield self._identifiers.setdefault(local, len(self._identifiers) % _IDENTIFIERS + 1)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                _LOG.debug("no subflow from %s: %s", local, error.strerror)


def _cancel_timer(connection: Managed) -> None:
    if connection.timer is not None:
        connection.timer.cancel()
        connection.timer = None
