"""The connections that VMs are opening through one worker: their SYNs, and how many there may be.

A SYN is held until its destination has answered. Then it is handed in, to the worker's own
listener, which answers the VM; the opening ends when the VM's connection is accepted. Nothing here
grows with the SYNs that come: what is beyond the bounds is not held, and the VM repeats it.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable

from fedsdn.config.model import Address
from fedsdn.proxy.admission.shares import Shares
from fedsdn.proxy.ended.record import Reason, Who
from fedsdn.proxy.opening.segments import Segment
from fedsdn.proxy.opening.tables import HeldTuples
from fedsdn.socket_address import SocketAddress

MOST_HELD = 1024
"""Connections that are being opened by all VMs of a worker."""

VMS_SHARE = 1 / 4
"""The share of one VM with one peer before others come first."""

MOST_OF_PEER = MOST_HELD * 3 // 4
"""Those to one peer, which may be silent."""

AFTERMATH_SECONDS = 2.0
"""How long a connection that came to nothing counts still. So a VM whose destinations are silent,
or that does not end its handshakes, costs so many requests a second at most."""

ANSWERED_SECONDS = 0.2
"""The same for a VM that was refused, or told of an error: it waits for its answers."""

MOST_FORGOTTEN = 256
"""How many SYNs a second may be forgotten for newer ones."""

_FORGOTTEN_SECONDS = 1.0

MOST_EARLY = 64
"""Connections of one VM whose SYNs are handed in, and not accepted yet, before the destination was
asked: what a VM that never ends a handshake may have the kernel keep."""

ACCEPT_SECONDS = 63.0
"""How long a VM may take to end the handshake: so long the kernel repeats its SYN-ACK, six times in
all (``tcp_synack_retries``, ip-sysctl in the kernel's Documentation/networking)."""

_LAST_SECONDS = 1.0
"""How long VMs may take to end handshakes when the worker stops."""

_SEQUENCES = 0xFFFFFFFF


class Opening:
    """One connection that a VM is opening."""

    def __init__(
        self, segment: Segment, peer: str, *, early: bool, hand_in: Callable[[Segment], None]
    ) -> None:
        """Hold a SYN to ``peer``; ``early`` says that its destination need not be asked before."""
        self.segment = segment
        self.peer = peer
        self.early = early
        self.handed_in = False
        self.answered = False
        """Whether the VM was refused, or told of an error."""
        self.give_up: Callable[[Reason, Who], object] = lambda *_: None
        """Ends the task of this opening: why, and by whom."""
        self._hand_in = hand_in
        self._accepted: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()

    @property
    def over(self) -> asyncio.Future[socket.socket]:
        """Ends when the VM's connection is accepted, or comes to nothing."""
        return self._accepted

    async def let_in(self) -> socket.socket:
        """Have the VM's handshake done, and return its socket, which ``close`` closes.

        Raises:
            TimeoutError: the VM does not end the handshake.

        """
        self.handed_in = True
        self._hand_in(self.segment)
        async with asyncio.timeout(ACCEPT_SECONDS):
            return await self._accepted

    def repeated(self, segment: Segment) -> None:
        """Take the SYN that the VM has sent again, or a newer one between the same sockets."""
        self.segment = segment
        if self.handed_in:
            self._hand_in(segment)

    def is_reset_by(self, segment: Segment) -> bool:
        """Whether a reset is the answer to our SYN-ACK, and no forgery (RFC 9293, 3.10.7.4).

        The listener is told, too.
        """
        ahead = (segment.sequence - self.segment.sequence) & _SEQUENCES
        if ahead > self.segment.length:
            return False
        if self.handed_in:
            self._hand_in(segment)
        return True

    def accepted(self, near: socket.socket) -> None:
        """Take over the VM's socket."""
        if self._accepted.done():
            near.close()
        else:
            self._accepted.set_result(near)

    def close(self) -> None:
        """Close the VM's socket, if there is one."""
        if not self._accepted.done():
            self._accepted.cancel()
        elif not self._accepted.cancelled():
            self._accepted.result().close()


class Openings:
    """Those of one worker, by client and destination."""

    def __init__(self, worker: int, tuples: HeldTuples, count: Callable[[int], None]) -> None:
        """Begin without any. ``count`` is told by how many their number changes."""
        self._worker = worker
        self._tuples = tuples
        self._count = count
        self._openings: dict[tuple[SocketAddress, SocketAddress], Opening] = {}
        self._accepted: dict[tuple[SocketAddress, SocketAddress], Opening] = {}
        """Those whose VMs have ended the handshake, until the connection ends."""
        self._loop = asyncio.get_running_loop()
        self._by_vm = Shares(MOST_HELD)
        """Places by VM and peer."""
        self._by_peer: Counter[str] = Counter()
        self._forgotten = 0
        """SYNs forgotten for newer ones in the last second."""
        self._early: Counter[Address] = Counter()

    async def wind_up(self) -> None:
        """Give up what is not handed in, and let VMs end the handshakes that they are in."""
        for opening in list(self._openings.values()):
            if not opening.handed_in:
                opening.give_up(Reason.STOPPING, Who.HERE)
        if ending := [opening.over for opening in self._openings.values() if opening.handed_in]:
            await asyncio.wait(ending, timeout=_LAST_SECONDS)

    def find(self, client: SocketAddress, destination: SocketAddress) -> Opening | None:
        """Return the connection that ``client`` is opening to ``destination``, if there is one."""
        return self._openings.get((client, destination))

    def is_late(self, segment: Segment) -> bool:
        """Whether a SYN was still in the queue when its connection was accepted."""
        accepted = self._accepted.get((segment.client, segment.destination))
        return accepted is not None and accepted.segment.sequence == segment.sequence

    def is_held(self, segment: Segment) -> bool:
        """Whether any worker holds the SYN: which reads a VM's packets may change."""
        return self._tuples.is_held(segment.client, segment.destination)

    def allow(self, client: SocketAddress, peer: str) -> bool:
        """Whether a VM may open one more connection to ``peer``.

        For a VM that has none there is room as long as others' SYNs wait: it is made by forgetting
        the oldest. Sources may be forged, and there are more of them than places.
        """
        owner = client.address, peer
        if self._by_peer[peer] < MOST_OF_PEER and self._by_vm.allow(owner, VMS_SHARE):
            return True
        return not self._by_vm.held[owner] and self._make_room()

    def _make_room(self) -> bool:
        """Forget the oldest SYN to the peer with most; its VM, if there is one, repeats it."""
        if self._forgotten == MOST_FORGOTTEN:
            return False
        ((crowd, _),) = self._by_peer.most_common(1)
        for opening in self._openings.values():
            if opening.peer == crowd and not opening.handed_in:
                self._forgotten += 1
                self._loop.call_later(_FORGOTTEN_SECONDS, self._may_forget_one_more)
                self._remove(opening)
                self._give_back(opening.segment.client, opening.peer)
                opening.give_up(Reason.UNASKED, Who.HERE)
                return True
        return False

    def _may_forget_one_more(self) -> None:
        self._forgotten -= 1

    def _take(self, client: SocketAddress, peer: str) -> None:
        self._by_vm.take((client.address, peer))
        self._by_peer[peer] += 1

    def _give_back(self, client: SocketAddress, peer: str) -> None:
        self._by_vm.give_back((client.address, peer))
        self._by_peer[peer] -= 1

    def prohibit(self, client: SocketAddress, peer: str) -> None:
        """Note that a VM is told at once that it may not open a connection."""
        self._take(client, peer)
        self._loop.call_later(ANSWERED_SECONDS, self._give_back, client, peer)

    def allow_early(self, client: SocketAddress) -> bool:
        """Whether a VM may have its SYN handed in before the destination is asked."""
        return self._early[client.address] < MOST_EARLY

    def add(self, opening: Opening) -> None:
        """Note one more."""
        client, destination = opening.segment.client, opening.segment.destination
        self._openings[client, destination] = opening
        self._tuples.hold(self._worker, client, destination)
        self._take(client, opening.peer)
        self._early[client.address] += opening.early
        self._count(1)

    def accept(self, opening: Opening, near: socket.socket) -> None:
        """Note that the VM has ended its handshake on ``near``."""
        if self._remove(opening):
            self._give_back(opening.segment.client, opening.peer)
            self._accepted[opening.segment.client, opening.segment.destination] = opening
        opening.accepted(near)

    def end(self, opening: Opening) -> None:
        """Note that one is over; it has come to nothing if it was not accepted before."""
        if self._remove(opening):
            seconds = ANSWERED_SECONDS if opening.answered else AFTERMATH_SECONDS
            client = opening.segment.client
            self._loop.call_later(seconds, self._give_back, client, opening.peer)
        key = opening.segment.client, opening.segment.destination
        if self._accepted.get(key) is opening:
            del self._accepted[key]
        opening.close()

    def _remove(self, opening: Opening) -> bool:
        """Leave one out; say whether it was there."""
        client, destination = opening.segment.client, opening.segment.destination
        if self._openings.get((client, destination)) is not opening:
            return False
        del self._openings[client, destination]
        self._tuples.release(self._worker, client, destination)
        self._early[client.address] -= opening.early
        if not self._early[client.address]:
            del self._early[client.address]
        self._count(-1)
        return True
