"""Waiting for an event, for ever or not."""

from __future__ import annotations

import asyncio
from contextlib import suppress


async def happened(event: asyncio.Event, seconds: float | None) -> bool:
    """Wait for an event, for so long at most (None: for ever); say whether it came."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):  # wait_for may swallow a cancellation (Python 3.11)
            await event.wait()
    return event.is_set()
