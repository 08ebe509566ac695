"""Relaying bytes between two sockets with splice(2).

A direction borrows a pipe from the pool while bytes are in flight and gives it back when it is
empty, so an idle connection holds two descriptors. What one side does, the other sees: its end
of stream as an end of stream, its reset as a reset.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

PIPE_BYTES = 1 << 18
"""Capacity asked for a pipe, and so the most that waits between two sockets."""

_ROUNDS = 8
"""How many times a direction may move bytes before others get their turn."""

_POOL_MOST = 64
_FLAGS = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE
_RESET = struct.pack("ii", 1, 0)

Counter = Callable[[int], None]
"""Takes a number of bytes that have been passed on."""


@dataclass(slots=True)
class Pipe:
    """A pipe and how much is in it."""

    read: int
    write: int
    filled: int = 0

    def close(self) -> None:
        """Close both ends."""
        os.close(self.read)
        os.close(self.write)


class PipePool:
    """Empty pipes, kept for the next direction that needs one."""

    def __init__(self) -> None:
        """Start empty."""
        self._free: list[Pipe] = []

    def take(self) -> Pipe:
        """Get an empty pipe.

        Raises:
            OSError: no descriptors are left.

        """
        if self._free:
            return self._free.pop()
        read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        return Pipe(read, write)

    def give_back(self, pipe: Pipe) -> None:
        """Take a pipe back; one that still holds bytes is closed."""
        if pipe.filled or len(self._free) >= _POOL_MOST:
            pipe.close()
        else:
            self._free.append(pipe)


def reset(sock: socket.socket) -> None:
    """Close a connection so that the other side sees a reset (socket(7), SO_LINGER)."""
    with suppress(OSError):  # already disconnected: there is nobody left to tell
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()


class _Direction:
    """Bytes from ``source`` to ``sink``; ``ended`` when the source's end has been passed on."""

    def __init__(
        self, relay: Relay, source: socket.socket, sink: socket.socket, count: Counter
    ) -> None:
        self._relay = relay
        self._source = source
        self._sink = sink
        self._count = count
        self._pipe: Pipe | None = None
        self._source_ended = False
        self.ended = False

    def start(self) -> None:
        self._relay.loop.add_reader(self._source.fileno(), self._pump)

    def _pump(self) -> None:
        """Move what can be moved, then wait for whichever side holds it up."""
        try:
            for _ in range(_ROUNDS):
                if not self._fill() or not self._drain():
                    return
        except OSError:
            self._relay.abort()

    def _fill(self) -> bool:
        """Read into the pipe; False when there is nothing to go on with."""
        if self._pipe is None:
            self._pipe = self._relay.pipes.take()
        try:
            moved = os.splice(self._source.fileno(), self._pipe.write, PIPE_BYTES, flags=_FLAGS)
        except BlockingIOError:
            self._release()
            return False
        if moved:
            self._pipe.filled += moved
            return True
        self._source_ended = True
        self._relay.loop.remove_reader(self._source.fileno())
        self._finish()
        return False

    def _drain(self) -> bool:
        """Empty the pipe into the sink; False when the sink holds it up."""
        pipe = self._pipe
        while pipe is not None and pipe.filled:
            try:
                moved = os.splice(pipe.read, self._sink.fileno(), pipe.filled, flags=_FLAGS)
            except BlockingIOError:
                self._relay.loop.remove_reader(self._source.fileno())
                self._relay.loop.add_writer(self._sink.fileno(), self._resume)
                return False
            pipe.filled -= moved
            self._count(moved)
        return True

    def _resume(self) -> None:
        """Go on when the sink takes bytes again."""
        try:
            if not self._drain():
                return
        except OSError:
            self._relay.abort()
            return
        self._relay.loop.remove_writer(self._sink.fileno())
        self._release()
        self.start()

    def _finish(self) -> None:
        self._release()
        self.ended = True
        try:
            self._sink.shutdown(socket.SHUT_WR)
        except OSError:
            self._relay.abort()
            return
        self._relay.direction_ended()

    def _release(self) -> None:
        if self._pipe is not None:
            self._relay.pipes.give_back(self._pipe)
            self._pipe = None

    def close(self) -> None:
        self._release()


class Relay:
    """Two connected, non-blocking sockets, relayed until both have ended or one is reset."""

    def __init__(
        self,
        near: socket.socket,
        far: socket.socket,
        pipes: PipePool,
        outward: Counter,
        inward: Counter,
    ) -> None:
        """Take over both sockets; ``outward`` counts bytes from near to far."""
        self.loop = asyncio.get_running_loop()
        self.pipes = pipes
        self._sockets = (near, far)
        self._directions = (
            _Direction(self, near, far, outward),
            _Direction(self, far, near, inward),
        )
        self._over: asyncio.Future[None] = self.loop.create_future()

    async def run(self, far_ready: Coroutine[Any, Any, None] | None = None) -> None:
        """Relay to the end. Cancelled, it resets both sides.

        What comes from far is left alone until ``far_ready`` has returned; if that raises, both
        sides are reset and the error is passed on.
        """
        outward, inward = self._directions
        try:
            outward.start()
            if far_ready is not None:
                await self._await_far(far_ready)
            if not self._over.done():
                inward.start()
            await self._over
        except BaseException:
            self.abort()
            raise

    async def _await_far(self, far_ready: Coroutine[Any, Any, None]) -> None:
        ready = self.loop.create_task(far_ready)
        try:
            await asyncio.wait({ready, self._over}, return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                ready.result()
        finally:
            ready.cancel()

    def direction_ended(self) -> None:
        """Close both sockets once both directions have ended."""
        if all(direction.ended for direction in self._directions):
            self._detach()
            for sock in self._sockets:
                sock.close()
            self._set_over()

    def abort(self) -> None:
        """Reset both sides: one of them is gone, or no descriptors are left."""
        if self._over.done():
            return
        self._detach()
        for sock in self._sockets:
            reset(sock)
        self._set_over()

    def _detach(self) -> None:
        for sock in self._sockets:
            self.loop.remove_reader(sock.fileno())
            self.loop.remove_writer(sock.fileno())
        for direction in self._directions:
            direction.close()

    def _set_over(self) -> None:
        if not self._over.done():
            self._over.set_result(None)
