"""Turns at what costs much before anybody is known to be a peer: a step of a TLS handshake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turn:
    """One step at a time, and between two of them whatever else the event loop has to do.

    However many callers shake hands, a relay that has something to do waits for one step.
    """

    def __init__(self) -> None:
        """Begin, with nobody's turn."""
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[None]:
        """Wait for one's turn; the block is to do one step, without awaiting anything."""
        async with self._lock:
            try:
                yield
            finally:
                # Whoever waits is woken in the next round; who comes at once is behind them.
                await asyncio.sleep(0)
