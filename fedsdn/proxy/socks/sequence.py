"""The server's part of the order: requests that come after others."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

FOLLOW_SECONDS = 3.0
"""How long a request waits at most for the one that it comes after, which may never arrive."""

_MOST = 1 << 13
"""Requests that are remembered."""

_Name = tuple[str, int]
"""Peer, and number of the request."""


class Sequence:
    """The requests for which this worker has begun to connect to the VM."""

    def __init__(self, most: int = _MOST) -> None:
        """Begin without any."""
        self._most = most
        self._begun: OrderedDict[_Name, asyncio.Event] = OrderedDict()

    async def turn(self, peer: str, after: int) -> None:
        """Wait until the request ``after`` which another comes has begun, or has ended."""
        if after:
            with suppress(TimeoutError):
                async with asyncio.timeout(FOLLOW_SECONDS):
                    await self._event(peer, after).wait()

    @contextmanager
    def beginning(self, peer: str, number: int) -> Iterator[Callable[[], None]]:
        """Yield what is to be called when a request has begun; after the block it has ended."""
        begun = self._event(peer, number).set
        try:
            yield begun
        finally:
            begun()

    def _event(self, peer: str, number: int) -> asyncio.Event:
        event = self._begun.setdefault((peer, number), asyncio.Event())
        while len(self._begun) > self._most:
            self._begun.popitem(last=False)
        return event
