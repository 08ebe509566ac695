"""One direction of a relay: bytes from one connected, non-blocking socket to another.

A direction borrows a buffer while bytes are in flight, so an idle connection holds none.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Protocol

from fedsdn.proxy.relay.buffers import BUFFER_BYTES, BufferPool

_ROUNDS = 8
"""How many times a direction may move bytes before others get their turn."""

_NO_BUFFER = memoryview(b"")

VM_SECONDS = 2.0
"""How long a peer's reset waits until the VM has taken the data before it, if it reads."""

Counter = Callable[[int], None]
"""Takes a number of bytes that have been passed on."""


class Owner(Protocol):
    """The relay of a direction."""

    loop: asyncio.AbstractEventLoop
    buffers: BufferPool

    @property
    def over(self) -> bool:
        """Whether both sides have ended, or have been reset."""

    def broke(self, sock: socket.socket) -> None:
        """Note that a socket has been reset by its other side, or has failed."""

    def reset_in_order(self, sock: socket.socket) -> None:
        """Reset both sides as soon as all that was sent to ``sock`` has arrived."""

    def give_up_within(self, seconds: float) -> None:
        """Reset both sides after so many seconds, unless that is due earlier."""

    def abort(self) -> None:
        """Reset both sides."""

    def may_be_finished(self) -> None:
        """See whether everything is done: this direction has ended, or come further."""


class Direction:
    """Bytes as they are: between a VM and another's proxy.

    What the source does, the sink sees, behind all data: its end of stream, and its reset.
    """

    head = 0
    """Octets that are kept free in front of data."""

    def __init__(
        self,
        relay: Owner,
        source: socket.socket,
        sink: socket.socket,
        count: Counter,
        trusted: Callable[[], bool] | None = None,
        end_sent: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; ``count`` is told what was passed on.

        ``trusted`` says, after each reading, whether what was read may be used; if not, both sides
        are reset. ``end_sent`` is called when the sink has been sent the end of the stream.
        """
        self.relay = relay
        self.source = source
        self.sink = sink
        self.count = count
        self._trusted = trusted
        self._end_sent = end_sent
        self.ended = False
        """Whether the source has ended its stream, and all of it has been passed on."""
        self.source_broke = False
        self.sink_broke = False
        """Whether nobody is left to take anything: what comes is thrown away."""
        self._started = False
        self._scheduled = False
        self._read_all = False
        self._sink_is_full = False
        self._buffer = _NO_BUFFER
        self._start = self._stop = 0
        """Where in the buffer is what has not been passed on."""

    @property
    def finished(self) -> bool:
        """Whether nothing remains to be done."""
        return self.ended

    @property
    def has_everything(self) -> bool:
        """Whether the source has no more to say, whatever becomes of it."""
        return self.ended

    def start(self) -> None:
        """Begin to move bytes."""
        self._started = True
        self.pump()

    def source_has_news(self) -> None:
        """Go on: there are bytes, an end or an error."""
        if not self._sink_is_full:
            self.pump()

    def sink_has_room(self) -> None:
        """Go on, if the sink held it up."""
        if self._sink_is_full:
            self.pump()

    def pump(self) -> None:
        """Move what can be moved now; the side that holds it up tells when to go on."""
        if not self._started or self.relay.over:
            return
        for _ in range(_ROUNDS):
            if not (self._flush() and self._fill()):
                return
        self.pump_later()

    def pump_later(self) -> None:
        """Go on when others had their turn."""
        if not self._scheduled:
            self._scheduled = True
            self.relay.loop.call_soon(self._pump_scheduled)

    def _pump_scheduled(self) -> None:
        self._scheduled = False
        self.pump()

    def source_is_broken(self) -> None:
        """Pass on what the source had said before it broke, and then that it broke."""
        if not self.source_broke:
            self.source_broke = True
            if self._read_all:
                self.pass_on_reset()
            else:
                self.pump()

    def sink_is_broken(self) -> None:
        """Throw away what comes from now on."""
        if not self.sink_broke:
            self.sink_broke, self._sink_is_full = True, False
            self.pump_later()

    def _fill(self) -> bool:
        """Read into an empty buffer; False when there is nothing to go on with."""
        room = 0 if self._read_all else self.room()
        if not room and (self._read_all or not self.source_broke):
            self.release()
            return False
        got = self._read(room)
        if got is None:
            self.release()
        elif not got:
            self.release()
            self._read_all = True
            self._pass_on_what_ended_it()
        elif self._trusted is not None and not self._trusted():
            self.relay.abort()
        else:
            self._start, self._stop = self.filled(got)
            return True
        return False

    def _read(self, room: int) -> int | None:
        """Read so much at most; 0 when no more will come, None when nothing comes now."""
        self._buffer = self._buffer or self.relay.buffers.take()
        try:
            # What its reader has no room for is lost with a reset, as it is without a proxy.
            return room and self.source.recv_into(self._buffer[self.head : self.head + room])
        except BlockingIOError:
            return None
        except OSError:
            if self.source_broke:
                return 0
            # An error is told once; reading then finds an end that is none.
            self.relay.broke(self.source)
            return None

    def _pass_on_what_ended_it(self) -> None:
        if self.source_broke:
            self.pass_on_reset()
        else:
            self.pass_on_end()

    def _flush(self) -> bool:
        """Empty the buffer into the sink; False when the sink is full."""
        while self._start < self._stop:
            if not self.drain():
                return False
        return True

    def give(self, stop: int, flags: int = 0) -> int:
        """Send from the buffer up to ``stop``; return how much went, 0 when the sink is full."""
        left = self._buffer[self._start : stop]
        moved = len(left) if self.sink_broke else self.send(left, flags)
        self._start += moved
        return moved

    def send(self, data: memoryview, flags: int = 0) -> int:
        """Send to the sink; return how much it took: 0 when it is full, all when it is broken."""
        try:
            moved = self.sink.send(data, flags)
        except BlockingIOError:
            self._sink_is_full = True
            return 0
        except OSError:
            self.relay.broke(self.sink)
            return len(data)
        self._sink_is_full = False
        return moved

    def release(self) -> None:
        """Give the buffer back, if there is one."""
        self._start = self._stop = 0
        if self._buffer:
            self.relay.buffers.give_back(self._buffer)
            self._buffer = _NO_BUFFER

    # What differs between bytes and records

    def room(self) -> int:
        """How many bytes may be read now."""
        return BUFFER_BYTES

    def filled(self, got: int) -> tuple[int, int]:
        """Note that so many bytes were read; return where in the buffer to send from and up to."""
        return 0, got

    def drain(self) -> bool:
        """Pass on some of the buffer; False when the sink is full."""
        moved = self.give(self._stop)
        if moved and not self.sink_broke:
            self.count(moved)
        return moved > 0

    def pass_on_end(self) -> None:
        """Tell the sink that the source has ended its stream."""
        self.ended = True
        if not self.sink_broke:
            try:
                self.sink.shutdown(socket.SHUT_WR)
            except OSError:
                self.relay.broke(self.sink)
                return
            self._end_sent()
        self.relay.may_be_finished()

    def pass_on_reset(self) -> None:
        """Tell the sink that the source has broken."""
        if self.sink_broke:
            self.relay.abort()
        else:
            self.relay.reset_in_order(self.sink)
