"""Turns to connect to VMs that may not exist.

An address that nobody has occupies an entry of the kernel's neighbour table until its resolution
fails. Linux has one such table per family for the whole host, of 1,024 entries unless the
host's ``net.ipv4.neigh.default.gc_thresh3`` (and ``net.ipv6``) say otherwise; a network namespace
has no such setting (ip-sysctl in Documentation/networking; net/core/neighbour.c). If it is full,
no new neighbour can be resolved. So only few addresses are resolved at a time, and a client that
scans many waits for itself and keeps nobody else waiting.
"""

from __future__ import annotations

import asyncio
import errno
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager

from fedsdn.config.model import Address

PLACES = 256
"""Addresses that all workers together may be resolving: a quarter of the kernel's table."""

_LEAST_PLACES = 8
_SHARE = 8
"""One client may have one in so many places."""

WAITING = 1000
"""The most connections of one client that may wait for a turn."""

WAIT_SECONDS = 10.0
"""How long they may wait."""

FINDING_SECONDS = 4.0
"""How long an address may hold a place: the kernel sends three requests, a second apart. A VM that
has not answered the SYN by then has at least a MAC address."""


class _Place:
    """A place that one connection holds; giving it back a second time does nothing."""

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back: Callable[[], None] | None = give_back

    def give_back(self) -> None:
        if self._give_back is not None:
            give_back, self._give_back = self._give_back, None
            give_back()


class Turns:
    """Turns to connect, dealt out in rotation among clients."""

    def __init__(self, workers: int) -> None:
        """Deal out this worker's part of the ``PLACES``."""
        self._places = max(_LEAST_PLACES, PLACES // workers)
        self._share = max(1, self._places // _SHARE)
        self._asked: Counter[Address] = Counter()
        """Connections being opened, by destination; all to one address need only one place."""
        self._held: Counter[Hashable] = Counter()
        self._waiting: dict[Hashable, deque[tuple[Address, asyncio.Future[_Place]]]] = {}
        """By client, in the order of their turns."""

    @asynccontextmanager
    async def turn(self, client: Hashable, destination: Address) -> AsyncIterator[None]:
        """Wait until ``client`` may be connected to ``destination``, which the block does.

        Raises:
            OSError: ``ETIMEDOUT``: its turn does not come in time.

        """
        place = await self._place(client, destination)
        expiry = asyncio.get_running_loop().call_later(FINDING_SECONDS, place.give_back)
        try:
            yield
        finally:
            expiry.cancel()
            place.give_back()

    async def _place(self, client: Hashable, destination: Address) -> _Place:
        if client not in self._waiting and self._is_free(client, destination):
            return self._take(client, destination)
        queue = self._waiting.setdefault(client, deque())
        if len(queue) >= WAITING:
            raise OSError(errno.ETIMEDOUT, f"{client} waits for {WAITING} others")
        turn: asyncio.Future[_Place] = asyncio.get_running_loop().create_future()
        queue.append((destination, turn))
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                return await turn
        except (TimeoutError, asyncio.CancelledError) as error:
            if turn.done() and not turn.cancelled():
                turn.result().give_back()
            if isinstance(error, TimeoutError):
                raise OSError(errno.ETIMEDOUT, f"{client} waits for many others") from error
            raise

    def _is_free(self, client: Hashable, destination: Address) -> bool:
        if destination in self._asked:
            return True
        return len(self._asked) < self._places and self._held[client] < self._share

    def _take(self, client: Hashable, destination: Address) -> _Place:
        first = destination not in self._asked
        self._asked[destination] += 1
        self._held[client] += first
        return _Place(lambda: self._give_back(client, destination, first=first))

    def _give_back(self, client: Hashable, destination: Address, *, first: bool) -> None:
        self._asked[destination] -= 1
        self._held[client] -= first
        self._asked, self._held = +self._asked, +self._held
        while any([self._deal_to(waiting) for waiting in list(self._waiting)]):  # noqa: C419
            pass

    def _deal_to(self, client: Hashable) -> bool:
        """Let one connection of a client have its turn, if it may; other clients are next then."""
        queue = self._waiting[client]
        while queue and queue[0][1].done():
            queue.popleft()  # it has waited too long, or has gone
        dealt = bool(queue) and self._is_free(client, queue[0][0])
        if dealt:
            destination, turn = queue.popleft()
            turn.set_result(self._take(client, destination))
        if dealt or not queue:
            del self._waiting[client]
        if dealt and queue:
            self._waiting[client] = queue
        return dealt
