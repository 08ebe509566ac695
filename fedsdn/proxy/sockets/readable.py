"""A part of the worker that acts whenever one socket is readable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NoReturn


async def when_readable(descriptor: int, act: Callable[[], object]) -> NoReturn:
    """Call ``act`` whenever ``descriptor`` is readable, until cancelled.

    As a callback of the event loop it costs no task switch per event. Unlike there, what ``act``
    raises is not merely logged: it ends this coroutine, and so whoever awaits it.

    Raises:
        Exception: what ``act`` raised.

    """
    loop = asyncio.get_running_loop()
    failed: asyncio.Future[NoReturn] = loop.create_future()

    def act_or_fail() -> None:
        try:
            act()
        except Exception as error:
            if not failed.done():
                failed.set_exception(error)
            loop.remove_reader(descriptor)

    loop.add_reader(descriptor, act_or_fail)
    try:
        await failed
    finally:
        loop.remove_reader(descriptor)
    raise AssertionError("a future without a result")
