"""Tasks that run for ever: when one of them ends, all do, and the log says which one and why."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

_LOG = logging.getLogger(__name__)

Work = Callable[[], Awaitable[None]]


async def supervise(tasks: Mapping[str, Work]) -> None:
    """Run tasks, by name, until one ends.

    Raises:
        ExceptionGroup: always: none of them is to end.

    """
    async with asyncio.TaskGroup() as group:
        for name, work in tasks.items():
            group.create_task(_for_ever(name, work), name=name)


async def _for_ever(name: str, work: Work) -> None:
    try:
        await work()
    except Exception as error:
        _LOG.critical("task '%s' failed: %r", name, error)
        raise
    _LOG.critical("task '%s' has ended", name)
    raise RuntimeError(f"task {name!r} has ended")
