"""Connections to peers that are ready for a request: it needs no handshake of theirs any more."""

from __future__ import annotations

import asyncio
import logging
import select
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack
from typing import Any, NoReturn

from fedsdn.channel.connection import Direction
from fedsdn.damped_log import DampedLog
from fedsdn.proxy.admission.carried import Carried, PeerConnection
from fedsdn.proxy.ended.record import Ended
from fedsdn.proxy.relay.poller import Poller
from fedsdn.proxy.socks.connection import Connection
from fedsdn.proxy.socks.demand import KEEP_SECONDS, Demand
from fedsdn.proxy.socks.protocol import SocksError
from fedsdn.proxy.stats import Counter, WorkerStatistics
from fedsdn.proxy.tls.secured import TlsError

_LOG = logging.getLogger(__name__)

_MAKING_SECONDS = 5.0
"""How long one may take to be made: its path may have been lost meanwhile."""

SURE_SECONDS = 1.5
"""How long ago a peer must have answered on a newer connection before an older one that it does not
acknowledge anything on is lost: after all paths were down, a segment is repeated within a second
where the kernel has ``tcp_rto_max_ms`` (``site.sysctls``, Linux 6.15). Where it has not, whoever
asks waits for longer."""

_RETRY_SECONDS = 1.0
"""Delay after a connection that could not be made."""


class _Ready:
    """A connection that waits for a request."""

    def __init__(self, connection: Connection, begun: float, poller: Poller) -> None:
        """Watch it: the server says nothing without a request, so that any event is its end.

        ``begun`` is when its handshake began, by the event loop's clock.
        """
        self.connection = connection
        self.begun = begun
        self.left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.taken = False
        self._watching = ExitStack()
        self._watching.enter_context(poller.watch(connection.far, self._on_events))
        connection.managed.give_up = lambda *_: self.leave()

    def _on_events(self, events: int) -> None:
        if events & ~select.EPOLLOUT:
            self.leave()

    @property
    def is_good(self) -> bool:
        """Whether a request would reach the peer, as far as is known."""
        return not self.left.done() and self.connection.has_subflow()

    def leave(self) -> None:
        if not self.left.done():
            self.left.set_result(None)

    def take(self) -> Connection:
        """Give the connection to the running task."""
        self.taken = True
        self._watching.close()
        self.leave()
        self.connection.belongs_to_this_task()
        return self.connection

    def close(self) -> None:
        """End the connection, unless it was taken: by a reset if it is not good any more.

        An end in order could wait for a path that is down.
        """
        self._watching.close()
        if self.taken:
            return
        if self.left.done():
            self.connection.close()
        else:
            self.connection.end()


class _PeerPool:
    """What is ready, and being made, for one peer."""

    def __init__(self) -> None:
        self.demand = Demand()
        self.ready: list[_Ready] = []
        self.making = 0
        self.rests_until = float("-inf")
        self.answers: deque[tuple[float, float]] = deque()
        """When connections of late were begun, and made: the last of before ``SURE_SECONDS``, and
        all since."""

    def answered(self, since: float, now: float) -> bool:
        """Whether the peer has answered on a connection begun after ``since``, and some time ago.

        A segment on another connection is repeated within a second, and acknowledged.
        """
        while len(self.answers) > 1 and self.answers[1][1] <= now - SURE_SECONDS:
            self.answers.popleft()
        if not self.answers:
            return False
        begun, made = self.answers[0]
        return begun > since and made <= now - SURE_SECONDS

    @property
    def size(self) -> int:
        return len(self.ready) + self.making


class Pool:
    """The ready connections of a worker, kept while ``run`` does."""

    def __init__(
        self,
        most: int,
        make: Callable[[str], Awaitable[Connection]],
        counts: Callable[[Connection], bool],
        poller: Poller,
        carried: Carried,
        statistics: WorkerStatistics,
    ) -> None:
        """Begin without any; all peers together have at most ``most``.

        ``make`` makes a connection to a peer, or raises ``OSError`` or ``SocksError``. ``counts``
        says whether it is still one to that peer: asked at each request, since the federation file
        may change while a connection is being made, or is asked on.
        """
        self._counts = counts
        self._most = most
        self._make_connection = make
        self._log = DampedLog(_LOG)
        self._poller = poller
        self._carried = carried
        self._statistics = statistics
        self._peers: dict[str, _PeerPool] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._last: set[asyncio.Task[None]] = set()
        """Made behind the end: they show whether a peer answers."""
        self._loop = asyncio.get_running_loop()

    async def run(self) -> NoReturn:
        """Keep connections ready until cancelled, and then end them."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                await self._loop.create_future()
        finally:
            self._tasks = None
        raise AssertionError("a future without a result")

    def take(self, peer: str) -> Connection | None:
        """Take a ready connection for a request, if there is one; the next ones are made."""
        pool = self._peers.setdefault(peer, _PeerPool())
        pool.demand.asked(self._loop.time())
        try:
            for ready in pool.ready:
                if not self._counts(ready.connection):
                    ready.leave()
                elif ready.is_good:
                    pool.ready.remove(ready)
                    self._statistics.add(Counter.FROM_POOL)
                    return ready.take()
        finally:
            self._fill(peer)
        return None

    def is_answered(self, peer: str, since: float) -> bool:
        """Whether the peer answers on connections begun after a time of the event loop's.

        If so, the older ones that are ready are ended: the peer has lost one of them, and probably
        all. If nothing is known yet, one is being made, behind the end of ``run`` as well: what the
        worker still carries may ask.
        """
        pool = self._peers.setdefault(peer, _PeerPool())
        if pool.answered(since, self._loop.time()):
            for ready in pool.ready:
                if ready.begun <= since:
                    ready.leave()
            return True
        if not pool.making and all(begun <= since for begun, _ in pool.answers):
            self._begin(peer, pool)
        return False

    def give_back(self, connection: Connection) -> None:
        """Keep a connection whose request was refused, if it is wanted.

        Another one is being made in its place already, and may be one too many.
        """
        if not self._counts(connection):
            connection.close()
            return
        peer = connection.peer.name
        pool = self._peers.setdefault(peer, _PeerPool())
        if self._tasks is None or pool.size > pool.demand.wanted(self._loop.time()):
            connection.end()
            return
        pool.making += 1
        self._tasks.create_task(self._guarded(self._keep(peer, pool, connection)))

    def renew(self, is_good: Callable[[Connection], bool]) -> None:
        """End the ready connections that are not good any more; others are made in their place."""
        for pool in self._peers.values():
            for ready in pool.ready:
                if not is_good(ready.connection):
                    ready.leave()

    def _fill(self, peer: str) -> None:
        """Make as many connections as are wanted; none when the worker ends."""
        if self._tasks is None:
            return
        pool = self._peers[peer]
        wanted = pool.demand.wanted(self._loop.time())
        in_all = sum(one.size for one in self._peers.values())
        for _ in range(min(wanted - pool.size, self._most - in_all)):
            self._begin(peer, pool)

    def _begin(self, peer: str, pool: _PeerPool) -> None:
        """Begin to make a connection, unless that has just failed."""
        if self._loop.time() < pool.rests_until:
            return
        pool.making += 1
        work = self._guarded(self._make(peer, pool))
        if self._tasks is not None:
            self._tasks.create_task(work)
            return
        task = self._loop.create_task(work)
        self._last.add(task)
        task.add_done_callback(self._last.discard)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something for one connection; a fault there is none of the others'."""
        try:
            await work
        except Exception as error:
            self._log.fault("a ready connection is ended: handling it failed", error)

    async def _make(self, peer: str, pool: _PeerPool) -> None:
        begun = self._loop.time()
        try:
            with self._carried.carrying(PeerConnection(Direction.OUTBOUND, peer)):
                async with asyncio.timeout(_MAKING_SECONDS):
                    connection = await self._make_connection(peer)
        except (OSError, SocksError) as error:
            _LOG.debug("site %s: no connection made ready: %s", peer, error)
            if isinstance(error, TlsError):
                outbound = error.reason, error.who, Direction.OUTBOUND
                self._statistics.ended(Ended(*outbound, peer, detail=error.detail))
            pool.making -= 1
            self._rest(peer, pool)
        except BaseException:
            pool.making -= 1
            raise
        else:
            pool.answers.append((begun, self._loop.time()))
            pool.answered(begun, self._loop.time())
            await self._keep(peer, pool, connection, begun)

    def _rest(self, peer: str, pool: _PeerPool) -> None:
        if self._loop.time() >= pool.rests_until:
            pool.rests_until = self._loop.time() + _RETRY_SECONDS
            self._loop.call_at(pool.rests_until, self._fill, peer)

    async def _keep(
        self, peer: str, pool: _PeerPool, connection: Connection, begun: float = float("-inf")
    ) -> None:
        """Keep a connection ready until it is taken, breaks or is not wanted any more."""
        pool.making -= 1
        if self._tasks is None:
            connection.end()
            return
        ready = _Ready(connection, begun, self._poller)
        pool.ready.append(ready)
        self._statistics.add(Counter.POOL_OPEN)
        try:
            with self._carried.carrying(PeerConnection(Direction.OUTBOUND, peer)):
                while not ready.left.done():
                    await asyncio.wait([ready.left], timeout=KEEP_SECONDS)
                    if len(pool.ready) > pool.demand.wanted(self._loop.time()):
                        break
        finally:
            self._statistics.add(Counter.POOL_OPEN, -1)
            if ready in pool.ready:
                pool.ready.remove(ready)
            ready.close()
        if not ready.taken:
            self._rest(peer, pool)
