"""Costly steps for callers that are not proven yet, as those of a TLS handshake: one at a time.

Half a millisecond of calculation costs a stranger nothing but a copied message. So there is one
step in each round of the event loop, in which everybody else has done what there was to do: however
many shake hands, a relay waits for one step. Addresses take turns, so that a stranger at one holds
up nobody at others; and of one address the last comes first, since the others are shed before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager


class Steps:
    """The steps of one worker."""

    def __init__(self) -> None:
        """Begin without any, in the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._taken = False
        self._waiting: dict[Hashable, dict[asyncio.Future[None], None]] = {}
        """By address, the one whose turn comes next first; of each, the last comes first."""

    @asynccontextmanager
    async def step(self, address: Hashable) -> AsyncIterator[None]:
        """Wait for a turn; the block does one step, and awaits nothing."""
        if self._taken:
            turn: asyncio.Future[None] = self._loop.create_future()
            self._waiting.setdefault(address, {})[turn] = None
            try:
                await turn
            except asyncio.CancelledError:
                self._give_up(address, turn)
                raise
        self._taken = True
        try:
            yield
        finally:
            self._loop.call_soon(self._next)

    def _give_up(self, address: Hashable, turn: asyncio.Future[None]) -> None:
        if not turn.cancelled():
            self._next()  # its turn has come already
            return
        if turns := self._waiting.get(address):
            turns.pop(turn, None)
            if not turns:
                del self._waiting[address]

    def _next(self) -> None:
        while self._waiting:
            address, turns = next(iter(self._waiting.items()))
            del self._waiting[address]
            turn, _ = turns.popitem()
            if turns:
                self._waiting[address] = turns  # behind all others
            if not turn.done():
                turn.set_result(None)
                return
        self._taken = False
