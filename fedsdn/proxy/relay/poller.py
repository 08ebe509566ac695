"""Socket events for relays: one edge-triggered epoll(7) for all sockets of a worker.

asyncio's own selector does not report a reset while nobody wants to read, and takes two system
calls each time a stream pauses. Here a socket is registered once, and every event is reported once.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, cast

from fedsdn.damped_log import DampedLog
from fedsdn.proxy.sockets.readable import when_readable

_LOG = logging.getLogger(__name__)

_ALL = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_AT_ONCE = 256

OnEvents = Callable[[int], None]
"""Takes ``EPOLL*`` flags. It may reset sockets, but not close any."""


def running_task() -> asyncio.Task[object]:
    """Return the task that runs now, which is that of a connection."""
    return cast("asyncio.Task[object]", asyncio.current_task())


class Poller:
    """Reports the events of sockets to the tasks that watch them."""

    def __init__(self, reset: Callable[[asyncio.Task[object], Exception], object]) -> None:
        """Start with no sockets; events are reported while ``run`` does.

        ``reset`` resets the connection of a task after a fault, which has been logged.
        """
        self._reset = reset
        self._log = DampedLog(_LOG)
        self._epoll = select.epoll()
        self._watchers: dict[int, tuple[OnEvents, asyncio.Task[object]]] = {}

    @contextmanager
    def watch(self, sock: socket.socket, on_events: OnEvents) -> Iterator[None]:
        """Call ``on_events`` for each event of ``sock`` during the block; first for its state.

        If that raises, the running task is cancelled, and so its connection is reset.
        """
        number = sock.fileno()
        self._epoll.register(number, _ALL)
        self._watchers[number] = (on_events, running_task())
        try:
            yield
        finally:
            del self._watchers[number]
            self._epoll.unregister(number)

    @contextmanager
    def cancelled_by_reset(self, sock: socket.socket, grace: float = 0.0) -> Iterator[None]:
        """Cancel the running task if ``sock`` breaks during the block, ``grace`` seconds later."""
        task = running_task()
        loop = asyncio.get_running_loop()
        due: list[asyncio.TimerHandle] = []

        def cancel(events: int) -> None:
            if events & select.EPOLLERR and not due:
                due.append(loop.call_later(grace, task.cancel))

        try:
            with self.watch(sock, cancel):
                yield
        finally:
            for timer in due:
                timer.cancel()

    async def run(self) -> NoReturn:
        """Report events until cancelled."""
        await when_readable(self._epoll.fileno(), self._report)

    def _report(self) -> None:
        for number, events in self._epoll.poll(0, _AT_ONCE):
            if watcher := self._watchers.get(number):
                on_events, task = watcher
                try:
                    on_events(events)
                except Exception as error:  # the rest of the batch is not reported again
                    self.reset_after_fault(task, error)

    def reset_after_fault(self, task: asyncio.Task[object], error: Exception) -> None:
        """Log ``error``, which is being handled, and have the connection of ``task`` reset."""
        self._log.fault("a connection is reset: handling it failed", error)
        self._reset(task, error)

    def close(self) -> None:
        """Close the epoll descriptor; no socket is watched any more."""
        self._epoll.close()
