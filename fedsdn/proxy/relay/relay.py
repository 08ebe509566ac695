"""Relaying a connection between a VM and a peer.

An end of stream is passed on as an end of stream, a reset as a reset, both behind the data that
were sent before.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
from collections.abc import Callable
from functools import partial

from fedsdn.proxy.ended.record import Reason, Who
from fedsdn.proxy.relay.buffers import BufferPool
from fedsdn.proxy.relay.poller import Poller, running_task
from fedsdn.proxy.relay.stream import VM_SECONDS, Stream, StreamRelay
from fedsdn.proxy.sockets import tcp

PEER_SECONDS = 5.0
"""How long a VM's reset waits for the other VM to read, so that the window opens for what was sent
before it; and as long again until the peer has acknowledged all: uplinks may be down."""

_UNANSWERED = {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH}
"""Errors of a connection whose other side has not answered for as long as TCP waits."""

_SOONEST, _LATEST = 0.001, 0.1
"""Interval at which unacknowledged data are looked for: short at first, then longer."""


NoteEnd = Callable[[asyncio.Task[object], Reason | None, Who, str], None]
"""Says why the connection of a task ends; what was said of it first counts. A VM that ends it needs
no reason (None)."""

Streams = Callable[[StreamRelay], tuple[Stream, Stream]]
"""Makes the two streams of a relay: from near to far, and from far to near."""


class Relay:
    """Two connected, non-blocking sockets, relayed until both have ended or one is reset.

    Their owner closes them.
    """

    def __init__(
        self,
        near: socket.socket,
        far: socket.socket,
        poller: Poller,
        buffers: BufferPool,
        streams: Streams,
        note_end: NoteEnd,
    ) -> None:
        """Prepare to relay between ``near`` and ``far``."""
        self._note_end = note_end
        self._loop = asyncio.get_running_loop()
        self._task = running_task()
        self.buffers = buffers
        self._poller = poller
        self._near = near
        self._far = far
        self._outward, self._inward = streams(self)
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._giving_up: asyncio.TimerHandle | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._cutting: asyncio.TimerHandle | None = None

    @property
    def over(self) -> bool:
        """Whether both sockets have ended, or have been reset."""
        return self._ended.done()

    @property
    def reset_by_far(self) -> bool:
        """Whether the far side has reset the connection, or lost it, before the near one did."""
        broke = self._inward.source_broke and not self._inward.has_everything
        return broke and not self._outward.source_broke

    async def run(self) -> None:
        """Relay to the end.

        Raises:
            BaseException: the task was cancelled; both sides have been reset.

        """
        self._task = running_task()
        try:
            with (
                self._poller.watch(self._near, self._near_event),
                self._poller.watch(self._far, self._far_event),
            ):
                self._outward.start()
                self._inward.start()
                await self._ended
        except BaseException:
            self.abort()
            raise
        finally:
            for timer in (self._giving_up, self._looking, self._cutting):
                if timer is not None:
                    timer.cancel()
            self._outward.release()
            self._inward.release()

    def _near_event(self, events: int) -> None:
        self._event(self._near, events, read=self._outward, written=self._inward)

    def _far_event(self, events: int) -> None:
        self._event(self._far, events, read=self._inward, written=self._outward)

    def _event(self, sock: socket.socket, events: int, read: Stream, written: Stream) -> None:
        if events & select.EPOLLERR:  # first: a read through TLS would take an error for an end
            self.broke(sock, sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        if events & ~select.EPOLLOUT:
            read.source_has_news()
        if events & select.EPOLLOUT:
            written.sink_has_room()

    def broke(self, sock: socket.socket, error: int | None) -> None:
        """Note that a socket has been reset by its other side, or has failed, with an errno."""
        if self.over:
            return
        if sock is self._far and self._inward.has_everything and self._outward.finished:
            return
        self._note_what_broke(sock, error)
        if sock is self._far:
            self.give_up_within(VM_SECONDS)
        else:
            self.give_up_within(2 * PEER_SECONDS)
            self._cutting = self.later(PEER_SECONDS, self._outward.cut_off)
        for stream in (self._outward, self._inward):
            if stream.sink is sock:
                stream.sink_is_broken()
        for stream in (self._outward, self._inward):
            if stream.source is sock:
                stream.source_is_broken()

    def _note_what_broke(self, sock: socket.socket, error: int | None) -> None:
        if error in _UNANSWERED:
            if sock is self._far:
                self.note(Reason.LOST, Who.PATHS, os.strerror(error))
            else:
                self.note(Reason.SILENT, Who.VM_HERE, os.strerror(error))
        elif sock is self._near:
            self.ended_by_vm(Who.VM_HERE)
        elif error == errno.EPROTO:
            self.note(Reason.PROTOCOL, Who.PATHS, "a TLS record that the peer has not sent so")

    def may_be_finished(self) -> None:
        """End both connections in order if both streams are finished."""
        if self._outward.finished and self._inward.finished and not self.over:
            tcp.end_in_order(self._near)
            tcp.end_in_order(self._far)
            self._ended.set_result(None)

    def reset_in_order(self, sock: socket.socket) -> None:
        """Reset both sockets as soon as ``sock`` has acknowledged all that was sent to it.

        Not at once: the reset would overtake data on another subflow, and data that are
        retransmitted.
        """
        self.give_up_within(PEER_SECONDS if sock is self._far else VM_SECONDS)
        self._look(sock, _SOONEST)

    def _look(self, sock: socket.socket, delay: float) -> None:
        if self.over:
            return
        if self._looking is not None:
            self._looking.cancel()
        if tcp.unacknowledged(sock):
            later = min(2 * delay, _LATEST)
            self._looking = self.later(delay, partial(self._look, sock, later))
        else:
            self.abort()

    def give_up_within(self, seconds: float) -> None:
        """Reset both sockets after so many seconds, unless that is due earlier."""
        if self._giving_up is not None:
            if self._giving_up.when() <= self._loop.time() + seconds:
                return
            self._giving_up.cancel()
        self._giving_up = self.later(seconds, self.abort)

    def soon(self, act: Callable[[], None]) -> None:
        """Call ``act`` after other connections had their turn; if it raises, both are reset."""
        self._loop.call_soon(self._guarded, act)

    def later(self, seconds: float, act: Callable[[], None]) -> asyncio.TimerHandle:
        """Call ``act`` after so many seconds; if it raises, both are reset."""
        return self._loop.call_later(seconds, self._guarded, act)

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:  # a fault of this connection is none of the worker's
            self._poller.reset_after_fault(self._task, error)

    def note(self, reason: Reason, who: Who, detail: str = "") -> None:
        """Say why the connection ends; what was said of it first counts."""
        self._note_end(self._task, reason, who, detail)

    def ended_by_vm(self, who: Who) -> None:
        """Note that a VM has reset the connection: what breaks after that is no failure."""
        self._note_end(self._task, None, who, "")

    def fail(self, reason: Reason, who: Who, detail: str = "") -> None:
        """Reset both sockets, and say why, unless the relay is over."""
        if not self.over:
            self.note(reason, who, detail)
            self.abort()

    def abort(self) -> None:
        """Reset both sockets, unless the relay is over."""
        if not self.over:
            tcp.reset(self._near)
            tcp.reset(self._far)
            self._ended.set_result(None)
