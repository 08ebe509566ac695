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
from contextlib import AbstractContextManager, contextmanager
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


Watchers = dict[int, tuple[OnEvents, asyncio.Task[object]]]
"""By descriptor."""


class _Watch:
    """A socket that is watched; a class, as it is made five times for a short connection."""

    __slots__ = ("_epoll", "_number", "_on_events", "_watchers")

    def __init__(
        self, epoll: select.epoll, watchers: Watchers, number: int, on_events: OnEvents
    ) -> None:
        self._epoll = epoll
        self._watchers = watchers
        self._number = number
        self._on_events = on_events

    def __enter__(self) -> None:
        self._epoll.register(self._number, _ALL)
        self._watchers[self._number] = (self._on_events, running_task())

    def __exit__(self, *_: object) -> None:
        del self._watchers[self._number]
        self._epoll.unregister(self._number)


class Poller:
    """Reports the events of sockets to the tasks that watch them."""

    def __init__(self, reset: Callable[[asyncio.Task[object], Exception], object]) -> None:
        """Start with no sockets; events are reported while ``run`` does.

        ``reset`` resets the connection of a task after a fault, which has been logged.
        """
        self._reset = reset
        self._log = DampedLog(_LOG)
        self._epoll = select.epoll()
        self._watchers: Watchers = {}

    def watch(self, sock: socket.socket, on_events: OnEvents) -> AbstractContextManager[None]:
        """Call ``on_events`` for each event of ``sock`` during the block; first for its state.

        If that raises, the running task is cancelled, and so its connection is reset.
        """
        return _Watch(self._epoll, self._watchers, sock.fileno(), on_events)

    @contextmanager
    def cancelled_by_reset(
        self, sock: socket.socket, grace: float = 0.0, on_input: Callable[[], object] | None = None
    ) -> Iterator[None]:
        """Cancel the running task if ``sock`` breaks during the block, ``grace`` seconds later.

        ``on_input`` reads what has come, all of it: there is no second event for the same.
        """
        task = running_task()
        loop = asyncio.get_running_loop()
        due: list[asyncio.TimerHandle] = []

        def cancel(events: int) -> None:
            if events & select.EPOLLERR:
                if not due:
                    due.append(loop.call_later(grace, task.cancel))
            elif on_input is not None and events & select.EPOLLIN:
                on_input()

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
