"""One of the two byte streams of a relay: from one connected, non-blocking socket to another.

A stream borrows a buffer while bytes are in flight, so an idle connection holds none.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Protocol

from fedsdn.proxy.ended.record import Reason, Who
from fedsdn.proxy.relay.buffers import BUFFER_BYTES, BufferPool

_ROUNDS = 8
"""How many times a stream may move bytes before other connections get their turn."""

_NO_BUFFER = memoryview(b"")

VM_SECONDS = 2.0
"""How long a peer's reset waits until the VM has taken the data before it, if it reads."""

Count = Callable[[int], None]
"""Takes a number of bytes that have been passed on."""


class StreamRelay(Protocol):
    """What a stream needs of the relay that it belongs to."""

    buffers: BufferPool

    @property
    def over(self) -> bool:
        """Whether both sockets have ended, or have been reset."""

    def broke(self, sock: socket.socket, error: int | None) -> None:
        """Note that a socket has been reset by its other side, or has failed, with an errno."""

    def reset_in_order(self, sock: socket.socket) -> None:
        """Reset both sockets as soon as ``sock`` has acknowledged all that was sent to it."""

    def give_up_within(self, seconds: float) -> None:
        """Reset both sockets after so many seconds, unless that is due earlier."""

    def note(self, reason: Reason, who: Who, detail: str = "") -> None:
        """Say why the connection ends; what was said of it first counts."""

    def ended_by_vm(self, who: Who) -> None:
        """Note that a VM has reset the connection: what breaks after that is no failure."""

    def fail(self, reason: Reason, who: Who, detail: str = "") -> None:
        """Reset both sockets, and say why."""

    def abort(self) -> None:
        """Reset both sockets."""

    def may_be_finished(self) -> None:
        """End in order if both streams are finished; one has ended, or has got further."""

    def soon(self, act: Callable[[], None]) -> None:
        """Call ``act`` after other connections had their turn."""

    def later(self, seconds: float, act: Callable[[], None]) -> object:
        """Call ``act`` after so many seconds."""


class Stream:
    """Bytes as they are, as to and from another's proxy.

    The source's end of stream and its reset are passed on to the sink, behind all data.
    """

    head = 0
    """Octets left free in the buffer in front of the data, for a header."""

    def __init__(
        self,
        relay: StreamRelay,
        source: socket.socket,
        sink: socket.socket,
        count: Count,
        trusted: Callable[[], bool] | None = None,
        end_sent: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare; ``count`` is called with the number of bytes that were passed on.

        ``trusted`` says after each read whether the data may be used; if not, both sockets are
        reset. ``end_sent`` is called when the end of the stream has been sent to the sink.
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
        """Whether the sink is gone: what the source sends is discarded."""
        self._started = False
        self._scheduled = False
        self._read_all = False
        self._sink_is_full = False
        self._buffer = _NO_BUFFER
        self._start = self._stop = 0
        """The part of the buffer that has not been sent."""

    @property
    def finished(self) -> bool:
        """Whether the stream has ended and needs nothing more."""
        return self.ended

    @property
    def has_everything(self) -> bool:
        """Whether the source has said everything: a reset of it loses nothing."""
        return self.ended

    def start(self) -> None:
        """Begin to move bytes."""
        self._started = True
        self.pump()

    def source_has_news(self) -> None:
        """Read on: there are bytes, an end of stream or an error."""
        if not self._sink_is_full:
            self.pump()

    def sink_has_room(self) -> None:
        """Send on, if the sink was full."""
        if self._sink_is_full:
            self.pump()

    def pump(self) -> None:
        """Move bytes until the source is empty or the sink is full; an event says when to go on."""
        if not self._started or self.relay.over:
            return
        for _ in range(_ROUNDS):
            if not (self._flush() and self._fill()):
                return
        self.pump_later()

    def pump_later(self) -> None:
        """Go on after other connections had their turn."""
        if not self._scheduled:
            self._scheduled = True
            self.relay.soon(self._pump_scheduled)

    def _pump_scheduled(self) -> None:
        self._scheduled = False
        self.pump()

    def source_is_broken(self) -> None:
        """Pass on what the source sent before its reset, and then the reset."""
        if not self.source_broke:
            self.source_broke = True
            if self._read_all:
                self.pass_on_reset()
            else:
                self.pump()

    def cut_off(self) -> None:
        """Pass on the source's reset without what the sink has had no room for in all this time."""
        if not self._read_all:
            self._read_all = True
            self.pass_on_reset()

    def sink_is_broken(self) -> None:
        """Discard what comes from now on."""
        if not self.sink_broke:
            self.sink_broke, self._sink_is_full = True, False
            self.pump_later()

    def _fill(self) -> bool:
        """Read into the empty buffer; False when there is nothing to send."""
        room = 0 if self._read_all else self.room()
        if not room:
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
            self.relay.fail(Reason.FALLBACK, Who.PATHS)
        else:
            self._start, self._stop = self.filled(got)
            return True
        return False

    def _read(self, room: int) -> int | None:
        """Read at most ``room`` bytes; 0 at the end, None when nothing is there now."""
        self._buffer = self._buffer or self.relay.buffers.take()
        try:
            return self.source.recv_into(self._buffer[self.head : self.head + room])
        except BlockingIOError:
            return None
        except OSError as error:
            if self.source_broke:
                return 0
            # The kernel reports an error once; the next read finds an end of stream that is none.
            self.relay.broke(self.source, error.errno)
            return None

    def _pass_on_what_ended_it(self) -> None:
        if self.source_broke:
            self.pass_on_reset()
        else:
            self.pass_on_end()

    def _flush(self) -> bool:
        """Send all of the buffer; False when the sink is full."""
        while self._start < self._stop:
            if not self.drain():
                return False
        return True

    def give(self, stop: int, flags: int = 0) -> int:
        """Send the buffer up to ``stop``; return how many bytes went, 0 when the sink is full."""
        left = self._buffer[self._start : stop]
        moved = len(left) if self.sink_broke else self.send(left, flags)
        self._start += moved
        return moved

    def send(self, data: memoryview, flags: int = 0) -> int:
        """Send; return how many bytes the sink took: 0 when it is full, all when it is gone."""
        try:
            moved = self.sink.send(data, flags)
        except BlockingIOError:
            self._sink_is_full = True
            return 0
        except OSError as error:
            self.relay.broke(self.sink, error.errno)
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
        """Prepare what was read for sending; return its start and stop in the buffer."""
        return 0, got

    def drain(self) -> bool:
        """Send some of the buffer; False when the sink is full."""
        moved = self.give(self._stop)
        if moved and not self.sink_broke:
            self.count(moved)
        return moved > 0

    def pass_on_end(self) -> None:
        """Pass on the end of the source's stream."""
        self.ended = True
        if not self.sink_broke:
            try:
                self.sink.shutdown(socket.SHUT_WR)
            except OSError as error:
                self.relay.broke(self.sink, error.errno)
                return
            self._end_sent()
        self.relay.may_be_finished()

    def pass_on_reset(self) -> None:
        """Pass on the reset of the source."""
        if self.sink_broke:
            self.relay.abort()
        else:
            self.relay.reset_in_order(self.sink)
