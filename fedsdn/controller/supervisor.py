"""Tasks that run for ever: when one of them ends, all do, and the log says which one and why."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

_LOG = logging.getLogger(__name__)

Work = Callable[[], Awaitable[None]]


async def supervise(tasks: Mapping[str, Work]) -> None:
    """Run tasks, by name, until one ends; the others are not waited for.

    Raises:
        Exception: always: what the task failed by, or that it has ended.

    """
    running = [
        asyncio.create_task(_for_ever(name, work), name=name) for name, work in tasks.items()
    ]
    try:
        done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for one in done:
            one.result()
    finally:
        for one in running:
            one.cancel()


async def _for_ever(name: str, work: Work) -> None:
    try:
        await work()
    except Exception as error:
        _LOG.critical("task '%s' failed: %r", name, error)
        raise
    _LOG.critical("task '%s' has ended", name)
    raise RuntimeError(f"task {name!r} has ended")
