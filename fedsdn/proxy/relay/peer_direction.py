"""The directions of a relay whose far side is one of our own proxies: bytes in records."""

from __future__ import annotations

import logging
import socket
from collections import deque
from collections.abc import Callable

from fedsdn.proxy.relay.buffers import BUFFER_BYTES
from fedsdn.proxy.relay.direction import VM_SECONDS, Counter, Direction, Owner
from fedsdn.proxy.relay.records import ELSEWHERE, HEADER, Kind, Parser, RecordError, record
from fedsdn.proxy.relay.window import MOST_BYTES, Window
from fedsdn.proxy.sockets import tcp

_LOG = logging.getLogger(__name__)

REPORT_BYTES = 1 << 16
"""How much the VM takes before the peer is told: less than ``window.FIRST_BYTES``, so that a reader
who reads never waits for it."""


HANDOVER_SECONDS = 10.0
"""How long it may take until the connection that brings the rest is there."""

_MOST_RECORDS = 256
"""After so many records others get their turn."""


class ToPeer(Direction):
    """What the VM sends, in records; and the records about the other direction."""

    head = 2 * HEADER.size
    """For the header of data, and for a record before that says that their first is urgent."""

    def __init__(
        self,
        relay: Owner,
        source: socket.socket,
        sink: socket.socket,
        count: Counter,
        window: Window,
        *,
        reads: bool = True,
    ) -> None:
        """Prepare; ``window`` says how much may be sent.

        Without ``reads`` another connection sends what the VM says; this one ends with the peer.
        """
        super().__init__(relay, source, sink, count)
        self.window = window
        self._reads = reads
        self.seen = False
        """Whether the peer has told that it has everything."""
        self._records = bytearray()
        self._urgent = False
        """Whether what is read now begins with an urgent octet."""

    @property
    def finished(self) -> bool:
        """Whether the peer has everything, and has been told everything."""
        return self.ended and self.seen and not self._records

    def say(self, kind: Kind, value: int = 0) -> None:
        """Send a record, behind the data that are being sent."""
        self._records += record(kind, value)

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
        """How many bytes may be read for the peer's VM; an urgent one comes alone."""
        self._urgent = tcp.at_urgent_octet(self.source)
        most = 1 if self._urgent else BUFFER_BYTES - self.head
        return min(self.window.room, most) if self._reads else 0

    def answer_end(self) -> None:
        """Tell the peer that its END has arrived; and end too, if there is nothing to say."""
        self.say(Kind.SEEN)
        if not self._reads and not self.ended:
            self.ended = True
            self.say(Kind.END, ELSEWHERE)

    def filled(self, got: int) -> tuple[int, int]:
        """Put the header in front of the data."""
        self._buffer[: self.head] = record(Kind.URGENT) + record(Kind.DATA, got)
        self.window.sent(got)
        self.count(got)
        return 0 if self._urgent else HEADER.size, self.head + got

    def drain(self) -> bool:
        """Pass on some of the buffer; False when the sink is full."""
        return self.give(self._stop) > 0

    def pass_on_end(self) -> None:
        """Tell the peer that the VM has ended its stream."""
        self.ended = True
        self.say(Kind.END)
        self._flush()

    def pass_on_reset(self) -> None:
        """Tell the peer that the VM has reset the connection."""
        if not self._reads:
            return  # told by the connection that sends what the VM has said before
        self.say(Kind.RESET)
        self._flush()
        # A peer whose VM does not read does not come to the record: a reset follows it.
        super().pass_on_reset()


class FromPeer(Direction):
    """What the peer sends: records with data for the VM, and about the other direction.

    Records about the other direction come behind data that the VM may not read before the other
    direction has gone on. So everything is read, and what the VM does not take is kept: the peer
    sends no more than its window.
    """

    def __init__(
        self,
        relay: Owner,
        source: socket.socket,
        sink: socket.socket,
        count: Counter,
        other: ToPeer,
        trusted: Callable[[], bool],
        taken_over: Callable[[], bool] = lambda: False,
    ) -> None:
        """Prepare; ``other`` is the direction in which records about this one leave.

        ``taken_over`` says whether another connection brings what is for the VM.
        """
        super().__init__(relay, source, sink, count, trusted)
        self._other = other
        self._taken_over = taken_over
        self._parser = Parser()
        self._unreported = 0
        self._kept: deque[tuple[memoryview, int]] = deque()
        """What the VM has not taken, and with what flags it is to be sent."""
        self._kept_bytes = 0
        self._urgent = False
        """Whether the next octet of data is urgent."""
        self._end: Callable[[], None] | None = None
        """What is to follow what is kept."""
        self._has_ended = False
        self._elsewhere = False

    @property
    def finished(self) -> bool:
        """Whether the VM has everything, or another connection sees to that."""
        return self.ended or (self._elsewhere and self._taken_over())

    def source_has_news(self) -> None:
        """Go on, whether the VM takes anything or not."""
        self.pump()

    def sink_is_broken(self) -> None:
        """Throw away what is kept, and what comes."""
        self._kept.clear()
        self._kept_bytes = 0
        super().sink_is_broken()

    def _give_kept(self) -> None:
        """Give the VM what is kept for it, until it takes no more."""
        while self._kept:
            data, flags = self._kept.popleft()
            self._kept_bytes -= len(data)
            moved = self.send(data, flags)
            if moved < len(data):
                self._keep(data[moved:], flags, first=True)
            self._taken(moved)
            if not moved:  # not before: only then is there an event when it has room again
                break

    def _flush(self) -> bool:
        self._give_kept()
        if self._end is not None and not self._kept:
            end, self._end = self._end, None
            end()
        for _ in range(_MOST_RECORDS):
            if self._start == self._stop:
                return True
            if not self.drain():
                return False
        self.pump_later()
        return False

    def drain(self) -> bool:
        """Take the next record, or some of its data; False when that is the end."""
        if self._parser.left:
            most = 1 if self._urgent else self._parser.left
            flags = socket.MSG_OOB if self._urgent else 0
            self._urgent = False
            stop = min(self._stop, self._start + most)
            self._parser.left -= stop - self._start
            moved = 0 if self._kept else self.give(stop, flags)
            left = self._buffer[self._start : stop]
            self._start = stop
            self._keep(memoryview(bytes(left)), flags)
            self._taken(moved)
            if left and moved:
                self._give_kept()
            return not self.relay.over
        try:
            used, found = self._parser.header(self._buffer[self._start : self._stop])
            self._start += used
            if found is not None:
                self._take(*found)
        except RecordError as error:
            _LOG.debug("a peer's records are wrong: %s", error)
            self.relay.abort()
        return not self.relay.over

    def _keep(self, data: memoryview, flags: int, *, first: bool = False) -> None:
        if data and not self.sink_broke:
            (self._kept.appendleft if first else self._kept.append)((data, flags))
            self._kept_bytes += len(data)
            if self._kept_bytes > MOST_BYTES:
                self.relay.abort()

    def _taken(self, moved: int) -> None:
        if self.sink_broke or not moved:
            return
        self.count(moved)
        self._unreported += moved
        if self._unreported >= REPORT_BYTES and not self._has_ended:
            self._other.say(Kind.CONSUMED, self._unreported)
            self._unreported = 0
            self._other.pump()

    def _take(self, kind: Kind, value: int) -> None:
        """Do what a record says.

        Raises:
            RecordError: it has no place here.

        """
        if self._has_ended and kind in (Kind.DATA, Kind.END):
            raise RecordError(f"{kind.name} after END")
        if kind is Kind.CONSUMED:
            self._other.window.consumed(value)
            self._other.pump()
        elif kind is Kind.SEEN:
            if not self._other.ended:
                raise RecordError("SEEN before END")
            self._other.seen = True
            self.relay.may_be_finished()
        elif kind is Kind.END:
            self._has_ended = True
            self._other.answer_end()
            if value == ELSEWHERE:
                self._elsewhere = True
                self.relay.give_up_within(HANDOVER_SECONDS)
                self.relay.may_be_finished()
            else:
                self._then(super().pass_on_end)
            self._other.pump()
        elif kind is Kind.URGENT:
            self._urgent = True
        elif kind is Kind.RESET:
            self.source_broke = self._read_all = True
            self._reset_vm()

    def pass_on_end(self) -> None:
        """Take the end of the connection for a reset: the VM's end would be a record."""
        self.source_broke = True
        self.pass_on_reset()

    def pass_on_reset(self) -> None:
        """Tell the VM that the connection is broken, unless there was no more to come."""
        if not self.has_everything:
            self._reset_vm()

    @property
    def has_everything(self) -> bool:
        """Whether both ends of stream have been said and seen."""
        return self._elsewhere or (self._has_ended and self._other.finished)

    def _reset_vm(self) -> None:
        """Reset the VM's connection, behind what is kept for it."""
        self.relay.give_up_within(VM_SECONDS)
        self._then(super().pass_on_reset)

    def _then(self, end: Callable[[], None]) -> None:
        """Do something when the VM has taken what is kept for it."""
        if self._kept:
            self._end = end
        else:
            end()
