"""The thread of the application's event loop, and the way into it from other threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any


class LoopThread(threading.Thread):
    """One thread with one event loop, in which ``main`` runs.

    What leaves ``main``, or a callback of the loop, leaves the thread (``threading.excepthook``).
    """

    def __init__(self, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Prepare; ``main`` begins before anything that is posted."""
        super().__init__(name="loop", daemon=True)
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._callback_failed)
        self._failure: asyncio.Future[None] = self._loop.create_future()
        self._main = self._loop.create_task(main())

    def post(self, call: Callable[..., object], *arguments: object) -> None:
        """Have something called in the loop, soon."""
        self._loop.call_soon_threadsafe(call, *arguments)

    def finish(self, work: Coroutine[Any, Any, None], seconds: float) -> None:
        """Wait until ``work`` is done in the loop, at most so long."""
        if not self.is_alive():
            work.close()
            return
        with suppress(TimeoutError, CancelledError):
            asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)

    def run(self) -> None:
        """Run the loop until something fails."""
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._first())

    async def _first(self) -> None:
        done, _ = await asyncio.wait(
            {self._main, self._failure}, return_when=asyncio.FIRST_COMPLETED
        )
        for one in done:
            one.result()

    def _callback_failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        of_a_transport = isinstance(error, OSError) and "handle" not in context
        if error is None or of_a_transport:
            loop.default_exception_handler(context)
        elif not self._failure.done():
            self._failure.set_exception(error)
