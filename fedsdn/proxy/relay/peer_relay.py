"""The relay between a VM and a peer: what is the same in both roles of the proxy."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fedsdn.channel.connection import Connection
from fedsdn.channel.connection import Direction as FlowDirection
from fedsdn.config.model import Site
from fedsdn.proxy.relay.buffers import BufferPool
from fedsdn.proxy.relay.direction import Direction, Owner
from fedsdn.proxy.relay.peer_direction import FromPeer, ToPeer
from fedsdn.proxy.relay.poller import Poller
from fedsdn.proxy.relay.relay import Relay
from fedsdn.proxy.relay.unheard_end import EndWatch
from fedsdn.proxy.relay.window import Budget, Window
from fedsdn.proxy.sockets import transport
from fedsdn.proxy.sockets.send_queue import SendQueue
from fedsdn.proxy.sockets.transport import Carrier
from fedsdn.proxy.stats import Counter, WorkerStatistics

_LOG = logging.getLogger(__name__)


def is_usable(far: socket.socket, peer: Site) -> bool:
    """Whether a connection with ``peer`` may be used.

    Where Multipath TCP has fallen back to TCP, the kernel may leave out bytes when data that were
    sent again overlap (Linux 6.18). A plain TCP socket has no such fault; but only another proxy
    may come with one.
    """
    carrier = transport.carrier(far)
    return carrier is Carrier.MPTCP or (carrier is Carrier.TCP and peer.proxy == "socks5")


@dataclass(frozen=True, slots=True)
class Means:
    """What the relays of one worker share."""

    poller: Poller
    buffers: BufferPool
    budget: Budget
    statistics: WorkerStatistics

    def carries(self, far: socket.socket, peer: Site) -> bool:
        """Whether a connection with ``peer`` may be used; count it if not."""
        if is_usable(far, peer):
            return True
        self.statistics.fell_back(peer)
        return False

    @contextmanager
    def relay(
        self,
        near: socket.socket,
        far: socket.socket,
        peer: Site,
        connection: Connection,
        nudge: Callable[[], None],
        early: int = 0,
        sends: bool = True,
        taken_over: Callable[[], bool] = lambda: False,
    ) -> Iterator[Relay]:
        """Prepare to relay between ``near``, a VM's socket, and ``far``, one of ``peer``.

        ``nudge`` has the peer's kernel look at the connection. ``early`` is how many of the VM's
        bytes the peer has been sent already. When both VMs have
        opened the connection, there are two with the peer: one ``sends`` what the VM says, and what
        is for the VM is ``taken_over`` by the other.
        """
        queue = SendQueue(far)
        sender = (
            connection.client
            if connection.direction is FlowDirection.OUTBOUND
            else connection.destination
        )
        window = Window(self.budget, sender.address)

        def sent(moved: int) -> None:
            self.statistics.add(Counter.BYTES_SENT, moved)
            connection.sent += moved
            queue.sent(moved)
            window.paths_hold = queue.paths_hold

        def received(moved: int) -> None:
            self.statistics.add(Counter.BYTES_RECEIVED, moved)
            connection.received += moved

        def trusted() -> bool:
            return self.carries(far, peer)

        def directions(relay: Owner) -> tuple[Direction, Direction]:
            if peer.proxy == "socks5":
                watch = EndWatch(relay, far, nudge, lambda: self.statistics.end_unheard(peer))
                outward = Direction(relay, near, far, sent, end_sent=watch.begin)
                return outward, Direction(relay, far, near, received, trusted)
            to_peer = ToPeer(relay, near, far, sent, window, reads=sends)
            from_peer = FromPeer(relay, far, near, received, to_peer, trusted, taken_over)
            return to_peer, from_peer

        try:
            sent(early)
            window.sent(early)
            yield Relay(near, far, self.poller, self.buffers, directions)
        finally:
            window.close()
