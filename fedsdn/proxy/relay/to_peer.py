"""What a VM sends to one of our own proxies: bytes in records."""

from __future__ import annotations

import socket

from fedsdn.proxy.relay.buffers import BUFFER_BYTES
from fedsdn.proxy.relay.records import HEADER, Kind, record
from fedsdn.proxy.relay.stream import Count, Stream, StreamRelay
from fedsdn.proxy.relay.window import Window
from fedsdn.proxy.sockets import tcp


class ToPeer(Stream):
    """The VM's data in records, and our records about the other stream."""

    head = 2 * HEADER.size
    """Room for the header of data, and for an URGENT record before it."""

    def __init__(
        self,
        relay: StreamRelay,
        source: socket.socket,
        sink: socket.socket,
        count: Count,
        window: Window,
    ) -> None:
        """Prepare; ``window`` limits what is under way."""
        super().__init__(relay, source, sink, count)
        self.window = window
        self.seen = False
        """Whether the peer has acknowledged our END (SEEN)."""
        self._records = bytearray()
        self._urgent = False
        """Whether the next octet to read is urgent."""

    @property
    def finished(self) -> bool:
        """Whether the peer has acknowledged our END, and all our records are sent."""
        return self.ended and self.seen and not self._records

    def say(self, kind: Kind, value: int = 0) -> None:
        """Send a record, behind the data in the buffer."""
        self._records += record(kind, value)

    def say_silence(self, silent: bool) -> None:
        """Say whether the VM is silent, unless it is gone: nothing follows RESET."""
        if not self.source_broke:
            self.say(Kind.SILENT, int(silent))
            self.pump()

    def _flush(self) -> bool:
        if not super()._flush():
            return False
        while self._records:
            moved = self.send(memoryview(bytes(self._records)))
            if not moved:
                return False
            del self._records[:moved]
            if not self._records:
                self.relay.may_be_finished()
        return True

    def room(self) -> int:
        """How many bytes the window, and the buffer, have room for; an urgent one comes alone."""
        self._urgent = tcp.at_urgent_octet(self.source)
        most = 1 if self._urgent else BUFFER_BYTES - self.head
        return min(self.window.room, most)

    def answer_end(self) -> None:
        """Acknowledge the peer's END."""
        self.say(Kind.SEEN)

    def filled(self, got: int) -> tuple[int, int]:
        """Put the header in front of the data."""
        self._buffer[: self.head] = record(Kind.URGENT) + record(Kind.DATA, got)
        self.window.sent(got)
        self.count(got)
        return 0 if self._urgent else HEADER.size, self.head + got

    def drain(self) -> bool:
        """Send some of the buffer; False when the socket is full."""
        return self.give(self._stop) > 0

    def pass_on_end(self) -> None:
        """Say END."""
        self.ended = True
        self.say(Kind.END)
        self._flush()

    def pass_on_reset(self) -> None:
        """Say RESET, and reset the connection when that is acknowledged."""
        self.say(Kind.RESET)
        self._flush()
        # A peer whose VM does not read never gets to the record: a reset follows it.
        super().pass_on_reset()
