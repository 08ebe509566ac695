"""When a worker is ready to take the place of another one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

ALONE_SECONDS = 1.0
"""How long a worker waits for an application, which may just be starting."""

TOLD_SECONDS = 10.0
"""How long it waits for what an application that is there has to tell."""


async def until_paths_are_known(told: asyncio.Event, has_application: Callable[[], bool]) -> None:
    """Return when ``told`` is set: connections would else begin on paths that are down.

    Without an application nobody tells, and connections begin all the same.
    """
    for seconds in (ALONE_SECONDS, TOLD_SECONDS):
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await told.wait()
        if told.is_set() or not has_application():
            return
