"""What one of our own proxies sends for a VM: bytes in records."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable

from fedsdn.proxy.ended.record import Reason, Who
from fedsdn.proxy.relay.records import Kind, Parser, RecordError
from fedsdn.proxy.relay.stream import VM_SECONDS, Count, Stream, StreamRelay
from fedsdn.proxy.relay.to_peer import ToPeer
from fedsdn.proxy.relay.vm_watch import VmWatch
from fedsdn.proxy.relay.window import MOST_BYTES

CONSUMED_BYTES = 1 << 16
"""Whenever the VM has taken so many bytes, CONSUMED is sent: less than ``window.FIRST_BYTES``, so
that the peer never waits for it while the VM reads."""

_MOST_RECORDS = 256
"""After so many records other connections get their turn."""


class FromPeer(Stream):
    """The peer's records: data for the VM, and what concerns the other stream.

    A record about the other stream may stand behind data that the VM does not read before that
    stream goes on. So everything is read, and kept while the VM does not take it; the window of the
    peer limits how much that is.
    """

    def __init__(
        self,
        relay: StreamRelay,
        source: socket.socket,
        sink: socket.socket,
        count: Count,
        other: ToPeer,
        trusted: Callable[[], bool],
        watch: VmWatch,
    ) -> None:
        """Prepare; records about this stream are sent in the ``other``.

        ``watch`` is told when the peer's VM is silent.
        """
        super().__init__(relay, source, sink, count, trusted)
        self._other = other
        self._vms = watch
        self._parser = Parser()
        self._consumed = 0
        self._kept: deque[tuple[memoryview, int]] = deque()
        """Data that the VM has not taken yet, each with its flags for send(2)."""
        self._kept_bytes = 0
        self._urgent = False
        """Whether the next octet of data is urgent."""
        self._end: Callable[[], None] | None = None
        """What is done when the VM has taken all that is kept: its end, or a reset."""
        self._has_ended = False

    def source_has_news(self) -> None:
        """Read on, whether the VM takes anything or not."""
        self.pump()

    def sink_is_broken(self) -> None:
        """Discard what is kept, and what comes."""
        self._kept.clear()
        self._kept_bytes = 0
        super().sink_is_broken()

    def _give_kept(self) -> None:
        """Send the VM what is kept for it, until its socket is full."""
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
        """Handle the next record, or some of its data; False when the relay is over."""
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
            self.relay.fail(Reason.PROTOCOL, Who.PEER, str(error))
        return not self.relay.over

    def _keep(self, data: memoryview, flags: int, *, first: bool = False) -> None:
        if data and not self.sink_broke:
            (self._kept.appendleft if first else self._kept.append)((data, flags))
            self._kept_bytes += len(data)
            if self._kept_bytes > MOST_BYTES:
                self.relay.fail(Reason.PROTOCOL, Who.PEER, "more data than the window allows")

    def _taken(self, moved: int) -> None:
        if self.sink_broke or not moved:
            return
        self.count(moved)
        self._consumed += moved
        if self._consumed >= CONSUMED_BYTES and not self._has_ended:
            self._other.say(Kind.CONSUMED, self._consumed)
            self._consumed = 0
            self._other.pump()

    def _take(self, kind: Kind, value: int) -> None:
        """Handle a record.

        Raises:
            RecordError: it is not allowed here.

        """
        if self._has_ended and kind in (Kind.DATA, Kind.END):
            raise RecordError(f"{kind.name} after END")
        if self._vms.other_is_silent and kind in (Kind.DATA, Kind.END):
            self._vms.peer_says(silent=False)
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
            self._then(super().pass_on_end)
            self._other.pump()
        elif kind is Kind.URGENT:
            self._urgent = True
        elif kind is Kind.SILENT:
            self._vms.peer_says(silent=bool(value))
        elif kind is Kind.RESET:
            self.source_broke = self._read_all = True
            self.relay.ended_by_vm(Who.VM_THERE)
            self._reset_vm()

    def pass_on_end(self) -> None:
        """Take the end of the connection for a reset: the end of the VM's stream is a record."""
        self.source_broke = True
        self.pass_on_reset()

    def pass_on_reset(self) -> None:
        """Reset the VM's connection, unless everything had been said."""
        if not self.has_everything:
            if not self.sink_broke:
                self.relay.note(Reason.LOST, Who.PEER)
            self._reset_vm()

    @property
    def has_everything(self) -> bool:
        """Whether both streams have ended, and both ENDs are acknowledged."""
        return self._has_ended and self._other.finished

    def _reset_vm(self) -> None:
        """Reset the VM's connection, behind the data that are kept for it."""
        self.relay.give_up_within(VM_SECONDS)
        self._then(super().pass_on_reset)

    def _then(self, end: Callable[[], None]) -> None:
        """Call ``end`` as soon as the VM has taken all that is kept for it."""
        if self._kept:
            self._end = end
        else:
            end()
