"""The server's part of the order: a request comes after another, which any worker may have."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from fedsdn.proxy.memory import SECRET_WORDS, Memory, digest, secret_in, words

FOLLOW_SECONDS = 1.0
"""How long a request waits at most for the one that it comes after, whose connection may have
failed. That one may need a handshake first: so much is one on the longest paths."""

_LOOK_SECONDS = 0.001
"""How often a worker that waits looks what the others have begun."""

PLACES = 1 << 16
"""512 KiB: thousands of requests a second hardly ever fall together while one waits."""


class Begun:
    """The requests for which some worker has begun to connect; made before workers are forked.

    A request whose place another has taken since is waited for in vain.
    """

    def __init__(self, memory: Memory | None = None) -> None:
        """Make the table."""
        found = words(SECRET_WORDS + PLACES, memory)
        self._secret, self._table = secret_in(found[:SECRET_WORDS]), found[SECRET_WORDS:]

    def name(self, peer: str, number: int) -> int:
        """Return the name of a request of a peer."""
        return digest(self._secret, number.to_bytes(4, "big"), peer.encode())

    def add(self, name: int) -> None:
        """Note that a request has begun, or has ended."""
        self._table[name % PLACES] = name

    def has(self, name: int) -> bool:
        """Whether that was noted."""
        return self._table[name % PLACES] == name


class Sequence:
    """Has the requests of one worker begin in their order."""

    def __init__(self, begun: Begun) -> None:
        """``begun`` is shared by all workers."""
        self._begun = begun
        self._waiting: defaultdict[int, list[asyncio.Future[None]]] = defaultdict(list)
        self._looking = False
        self._loop = asyncio.get_running_loop()

    async def turn(self, peer: str, after: int) -> None:
        """Wait until the request ``after`` which another comes has begun, or has ended."""
        if not after:
            return
        name = self._begun.name(peer, after)
        if self._begun.has(name):
            return
        turn: asyncio.Future[None] = self._loop.create_future()
        self._waiting[name].append(turn)
        self._look_later()
        with suppress(TimeoutError):
            async with asyncio.timeout(FOLLOW_SECONDS):
                await turn

    @contextmanager
    def beginning(self, peer: str, number: int) -> Iterator[Callable[[], None]]:
        """Yield what is to be called when a request has begun; after the block it has ended."""
        name = self._begun.name(peer, number)

        def begun() -> None:
            self._begun.add(name)
            self._wake(name)

        try:
            yield begun
        finally:
            begun()

    def _wake(self, name: int) -> None:
        for turn in self._waiting.pop(name, ()):
            if not turn.done():
                turn.set_result(None)

    def _look_later(self) -> None:
        if not self._looking:
            self._looking = True
            self._loop.call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        """Wake those whose predecessor another worker has begun, and forget those who gave up."""
        self._looking = False
        for name, turns in list(self._waiting.items()):
            if self._begun.has(name) or all(turn.done() for turn in turns):
                self._wake(name)
        if self._waiting:
            self._look_later()
