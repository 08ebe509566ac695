"""The end of a worker's connections when it is told to stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

_LOG = logging.getLogger(__name__)


async def drain(
    connections: set[asyncio.Task[None]],
    seconds: float,
    at_once: asyncio.Event,
    reset: Callable[[asyncio.Task[None]], None],
) -> None:
    """Let connections end by themselves for a while, then reset the rest."""
    if not connections:
        return
    told = asyncio.create_task(at_once.wait())
    ended = asyncio.create_task(asyncio.wait(connections))
    try:
        await asyncio.wait({told, ended}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        told.cancel()
        ended.cancel()
    if left := {connection for connection in connections if not connection.done()}:
        _LOG.warning("resetting %d connections that did not end in time", len(left))
        for connection in left:
            reset(connection)
        await asyncio.wait(left)
