"""Relaying bytes between two sockets with splice(2).

A direction borrows a pipe from the pool while bytes are in flight and gives it back when it is
empty, so an idle connection holds two descriptors. What one side does, the other sees: its end
of stream as an end of stream, its reset as a reset.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Awaitable, Callable

from fedsdn.proxy import tcp
from fedsdn.proxy.pipes import Memory, Pipe, PipePool
from fedsdn.proxy.poller import Poller

_ROUNDS = 8
"""How many times a direction may move bytes before others get their turn."""

Counter = Callable[[int], None]
"""Takes a number of bytes that have been passed on."""


class _Direction:
    """Bytes from ``source`` to ``sink``; ``ended`` when the source's end has been passed on."""

    def __init__(
        self, relay: Relay, source: socket.socket, sink: socket.socket, count: Counter
    ) -> None:
        self._relay = relay
        self._source = source
        self._sink = sink
        self._count = count
        self._pipe: Pipe | Memory | None = None
        self._started = False
        self._sink_is_full = False
        self.ended = False

    def start(self) -> None:
        self._started = True
        self._pump()

    def source_has_news(self) -> None:
        if not self._sink_is_full:
            self._pump()

    def sink_has_room(self) -> None:
        if self._sink_is_full:
            self._pump()

    def _pump(self) -> None:
        """Move what can be moved now; the side that holds it up tells when to go on."""
        if not self._started or self.ended or self._relay.over:
            return
        try:
            for _ in range(_ROUNDS):
                if not (self._drain() and self._fill()):
                    return
        except OSError:
            self._relay.abort()
            return
        self._relay.loop.call_soon(self._pump)

    def _fill(self) -> bool:
        """Read into an empty pipe; False when there is nothing to go on with."""
        pipe = self._pipe = self._pipe or self._relay.pipes.take()
        try:
            pipe.fill(self._source)
        except BlockingIOError:
            self.release()
            return False
        if pipe.filled:
            return True
        self.release()
        self.ended = True
        self._sink.shutdown(socket.SHUT_WR)
        self._relay.direction_ended()
        return False

    def _drain(self) -> bool:
        """Empty the pipe into the sink; False when the sink is full."""
        pipe = self._pipe
        while pipe is not None and pipe.filled:
            try:
                self._count(pipe.drain(self._sink))
            except BlockingIOError:
                self._sink_is_full = True
                return False
        self._sink_is_full = False
        return True

    def release(self) -> None:
        """Give the pipe back, if there is one."""
        if self._pipe is not None:
            self._relay.pipes.give_back(self._pipe)
            self._pipe = None


class Relay:
    """Two connected, non-blocking sockets, relayed until both have ended or one is reset.

    Closing them is left to their owner.
    """

    def __init__(
        self,
        near: socket.socket,
        far: socket.socket,
        poller: Poller,
        pipes: PipePool,
        outward: Counter,
        inward: Counter,
    ) -> None:
        """Prepare; ``outward`` counts bytes from near to far."""
        self.loop = asyncio.get_running_loop()
        self.pipes = pipes
        self._poller = poller
        self._near = near
        self._far = far
        self._outward = _Direction(self, near, far, outward)
        self._inward = _Direction(self, far, near, inward)
        self._ended: asyncio.Future[None] = self.loop.create_future()

    @property
    def over(self) -> bool:
        """Whether both sides have ended, or have been reset."""
        return self._ended.done()

    async def run(self, far_ready: Awaitable[None] | None = None) -> None:
        """Relay to the end.

        What comes from far is left alone until ``far_ready`` returns.

        Raises:
            BaseException: what ``far_ready`` raised, or the task was cancelled; both sides have
                been reset.

        """
        try:
            with (
                self._poller.watch(self._near, self._near_event),
                self._poller.watch(self._far, self._far_event),
            ):
                self._outward.start()
                if far_ready is not None:
                    await far_ready
                self._inward.start()
                await self._ended
        except BaseException:
            self.abort()
            raise
        finally:
            self._outward.release()
            self._inward.release()

    def _near_event(self, events: int) -> None:
        self._event(events, read=self._outward, written=self._inward)

    def _far_event(self, events: int) -> None:
        self._event(events, read=self._inward, written=self._outward)

    def _event(self, events: int, read: _Direction, written: _Direction) -> None:
        if events & ~select.EPOLLOUT:
            read.source_has_news()
        if events & select.EPOLLOUT:
            written.sink_has_room()
        if events & select.EPOLLERR:
            self.abort()

    def direction_ended(self) -> None:
        """Note that one more direction has ended."""
        if self._outward.ended and self._inward.ended and not self.over:
            tcp.end_in_order(self._near)
            tcp.end_in_order(self._far)
            self._ended.set_result(None)

    def abort(self) -> None:
        """Reset both sides, unless it is over."""
        if not self.over:
            tcp.reset(self._near)
            tcp.reset(self._far)
            self._ended.set_result(None)
