"""The relay between a VM and a peer: what both roles of the proxy share."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from fedsdn.channel.connection import Connection, Direction
from fedsdn.config.model import Address, AddressPair, Site
from fedsdn.mptcp.connection import Carrier, carrier
from fedsdn.proxy.relay.buffers import BufferPool
from fedsdn.proxy.relay.from_peer import FromPeer
from fedsdn.proxy.relay.poller import Poller
from fedsdn.proxy.relay.relay import NoteEnd, Relay
from fedsdn.proxy.relay.stream import Stream, StreamRelay
from fedsdn.proxy.relay.to_peer import ToPeer
from fedsdn.proxy.relay.unheard_end import EndWatch
from fedsdn.proxy.relay.vm_watch import Sweep, VmWatch
from fedsdn.proxy.relay.window import Budget, Window
from fedsdn.proxy.sockets import tcp
from fedsdn.proxy.sockets.send_queue import SendQueue
from fedsdn.proxy.stats import Counter, WorkerStatistics


def is_usable(far: socket.socket, peer: Site) -> bool:
    """Whether a connection with ``peer`` may be used.

    Where Multipath TCP has fallen back to TCP, the kernel may leave out bytes when data that were
    sent again overlap (Linux 6.18). A plain TCP socket has no such fault; but only another proxy
    may come with one.
    """
    what = carrier(far)
    return what is Carrier.MPTCP or (what is Carrier.TCP and peer.proxy == "socks5")


def fixed_path(far: socket.socket, peer: Site) -> AddressPair | None:
    """Return the path that a connection with another's proxy depends on; None for fedsdn's own.

    Raises:
        OSError: the connection is gone.

    """
    if peer.proxy == "fedsdn":
        return None
    return tcp.unmapped(far.getsockname()[0]), tcp.unmapped(far.getpeername()[0])


@dataclass(frozen=True, slots=True)
class Relays:
    """Makes the relays of one worker, and has what they share."""

    poller: Poller
    buffers: BufferPool
    budget: Budget
    sweep: Sweep
    statistics: WorkerStatistics
    note_end: NoteEnd

    @contextmanager
    def between(
        self,
        near: socket.socket,
        far: socket.socket,
        peer: Site,
        connection: Connection,
        nudge: Callable[[], None],
        early: int = 0,
    ) -> Iterator[Relay]:
        """Prepare to relay between ``near``, a VM's socket, and ``far``, one of ``peer``.

        ``nudge`` wakes the peer's kernel. ``early`` is how many of the VM's bytes the peer has been
        sent already.
        """
        window = Window(self.budget, _sender(connection))
        traffic = _Traffic(self.statistics, connection, SendQueue(far), window)

        def streams(vms: VmWatch, relay: StreamRelay) -> tuple[Stream, Stream]:
            trusted = partial(is_usable, far, peer)
            if peer.proxy == "socks5":
                watch = EndWatch(relay, far, nudge)
                outward = Stream(relay, near, far, traffic.sent, end_sent=watch.begin)
                return outward, Stream(relay, far, near, traffic.received, trusted)
            to_peer = ToPeer(relay, near, far, traffic.sent, window)
            from_peer = FromPeer(relay, far, near, traffic.received, to_peer, trusted, vms)
            vms.tell = to_peer.say_silence
            return to_peer, from_peer

        try:
            traffic.sent(early)
            window.sent(early)
            with self.sweep.watching(near) as vms:
                made = partial(streams, vms)
                yield Relay(near, far, self.poller, self.buffers, made, self.note_end)
        finally:
            window.close()


def _sender(connection: Connection) -> Address:
    """Return the address of the VM here, which sends to the peer."""
    outbound = connection.direction is Direction.OUTBOUND
    return (connection.client if outbound else connection.destination).address


class _Traffic:
    """Accounts for the bytes of one connection: for statistics, channel, window and send queue."""

    def __init__(
        self,
        statistics: WorkerStatistics,
        connection: Connection,
        queue: SendQueue,
        window: Window,
    ) -> None:
        self._statistics = statistics
        self._connection = connection
        self._queue = queue
        self._window = window

    def sent(self, moved: int) -> None:
        """Count bytes that the socket to the peer has taken."""
        self._statistics.add(Counter.BYTES_SENT, moved)
        self._connection.sent += moved
        self._queue.sent(moved)
        self._window.paths_hold = self._queue.paths_hold

    def received(self, moved: int) -> None:
        """Count bytes of the peer that the VM's socket has taken."""
        self._statistics.add(Counter.BYTES_RECEIVED, moved)
        self._connection.received += moved
