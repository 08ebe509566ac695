"""Socket events for relays: one edge-triggered epoll(7) for all sockets of a worker.

asyncio's own selector does not tell of a reset while nobody wants to read, and takes two system
calls each time a direction pauses. Here a socket is registered once, and every event is told.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_ALL = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_AT_ONCE = 256

OnEvents = Callable[[int], None]
"""Takes ``EPOLL*`` flags. It may reset sockets, but not close any."""


class Poller:
    """Tells events of sockets to whoever watches them."""

    def __init__(self) -> None:
        """Start with no sockets, in the running event loop."""
        self._epoll = select.epoll()
        self._watchers: dict[int, OnEvents] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._epoll.fileno(), self._tell)

    @contextmanager
    def watch(self, sock: socket.socket, on_events: OnEvents) -> Iterator[None]:
        """Tell ``on_events`` what happens to ``sock`` during the block, and its state at first."""
        number = sock.fileno()
        self._epoll.register(number, _ALL)
        self._watchers[number] = on_events
        try:
            yield
        finally:
            del self._watchers[number]
            self._epoll.unregister(number)

    @contextmanager
    def cancelled_by_reset(self, sock: socket.socket) -> Iterator[None]:
        """Cancel the running task if ``sock`` breaks during the block."""
        task = asyncio.current_task()

        def cancel(events: int) -> None:
            if events & select.EPOLLERR and task is not None:
                task.cancel()

        with self.watch(sock, cancel):
            yield

    def _tell(self) -> None:
        for number, events in self._epoll.poll(0, _AT_ONCE):
            on_events = self._watchers.get(number)
            if on_events is not None:
                on_events(events)

    def close(self) -> None:
        """Tell no more."""
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
