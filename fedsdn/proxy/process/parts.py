"""The parts of a worker: tasks that run as long as it does, and end it if they fail."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, NoReturn


class PartFailedError(Exception):
    """A part of the worker has failed; the cause is its exception."""


class Parts:
    """Starts parts in a group of tasks: the first that fails ends the others, and the group."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        """Begin without parts, in a ``group`` that has been entered."""
        self._group = group
        self._lasting: set[asyncio.Task[None]] = set()

    def last(self, name: str, work: Coroutine[Any, Any, object]) -> asyncio.Task[None]:
        """Run a part that lasts until it is cancelled; one that returns has failed, too."""
        task = self._group.create_task(self._run(name, work, lasting=True), name=name)
        self._lasting.add(task)
        return task

    def once(self, name: str, work: Coroutine[Any, Any, object]) -> None:
        """Run something to its end."""
        self._group.create_task(self._run(name, work, lasting=False), name=name)

    @staticmethod
    async def _run(name: str, work: Coroutine[Any, Any, object], *, lasting: bool) -> None:
        try:
            await work
        except Exception as error:
            cause = _first(error)
            raise PartFailedError(f"its {name} failed: {type(cause).__name__}: {cause}") from error
        if lasting:
            raise PartFailedError(f"its {name} ended")

    async def end(self, *parts: asyncio.Task[None]) -> None:
        """Cancel parts and wait until they have ended."""
        for part in parts:
            part.cancel()
            self._lasting.discard(part)
        await asyncio.wait(parts)

    async def end_all(self) -> None:
        """Cancel all parts that last, and wait until they have ended."""
        await self.end(*self._lasting)


def _first(error: Exception) -> Exception:
    """Return what went wrong in a part that has a group of tasks of its own."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


async def callbacks_failing() -> NoReturn:
    """Wait for an exception in a callback of the event loop that no task awaits, and raise it.

    Such are signal handlers and timers. asyncio alone would log it and go on.
    """
    loop = asyncio.get_running_loop()
    failed: asyncio.Future[NoReturn] = loop.create_future()

    def note(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if "handle" not in context or not isinstance(error, Exception):
            loop.default_exception_handler(context)  # of one connection; the loop has handled it
        elif not failed.done():
            failed.set_exception(error)

    loop.set_exception_handler(note)
    try:
        await failed
    finally:
        loop.set_exception_handler(None)
    raise AssertionError("a future without a result")
