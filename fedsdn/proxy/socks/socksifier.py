"""The socksifier: asks the peer's server for the connections that this site's VMs open.

A VM's first segment is held, and answered as the far VM answers: by a connection, a refusal, an
error, or not at all. TPROXY then makes the near connection out of that segment (Linux,
Documentation/networking/tproxy.rst). If the destination is known to listen, the near connection is
made first, and the request takes the VM's first data along.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial

from fedsdn.channel.connection import Direction
from fedsdn.channel.report import Report
from fedsdn.config.model import Site
from fedsdn.pipeline.declarations import SOCKSIFIER_LISTEN_PORTS, SocketMark
from fedsdn.proxy.admission.carried import Carried, PeerConnection
from fedsdn.proxy.admission.policy import Policy, Refusal
from fedsdn.proxy.admission.revocation import revoked
from fedsdn.proxy.admission.slots import Slots
from fedsdn.proxy.ended.record import Reason, Who
from fedsdn.proxy.ended.unasked import Unasked
from fedsdn.proxy.opening.device import HeldDevice, TooManyError
from fedsdn.proxy.opening.held import Opening, Openings
from fedsdn.proxy.opening.segments import Segment, Unreachable, read_segment
from fedsdn.proxy.opening.tables import KnownDestinations
from fedsdn.proxy.relay.peer_relay import Relays
from fedsdn.proxy.sockets import tcp, traffic_class, transparent
from fedsdn.proxy.sockets.live_paths import LivePaths
from fedsdn.proxy.socks.causes import (
    ASKING,
    CONNECTING,
    HANDSHAKE,
    Phase,
    in_words,
    not_opened,
    refused_by_peer,
)
from fedsdn.proxy.socks.peers import Asked, Peers
from fedsdn.proxy.socks.protocol import Reply, Request, SocksError
from fedsdn.proxy.stats import Counter
from fedsdn.socket_address import SocketAddress

_VMS_SHARE = 5 / 8
"""The share of a worker's connections that one VM may have before others come first."""

_TOO_MANY = "too many SYNs are held or connections carried"

_UNANSWERED_SECONDS = 1.0
"""How long a VM's reset waits for the answer to the request, which may carry its first data."""

_UNREACHABLE = {
    Reply.HOST_UNREACHABLE: Unreachable.HOST,
    Reply.NETWORK_UNREACHABLE: Unreachable.NETWORK,
    Reply.NOT_ALLOWED: Unreachable.PROHIBITED,
}
"""The errors that the VM is told; any other failure is silence, and the VM asks again."""

_DSCP = 0xFC
"""The bits of a traffic class that are no ECN (RFC 2474, section 3)."""


def listen_for_vms(worker: int) -> socket.socket:
    """Listen for the connections that a worker hands in.

    Raises:
        OSError: the port is taken, or the process may not be transparent.

    """
    return transparent.listen(SOCKSIFIER_LISTEN_PORTS[worker], SocketMark.SOCKSIFIER)


class _NotConnectedError(Exception):
    """The peer's server has not connected to the VM; its answer."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(f"the peer says {reply.name.lower().replace('_', ' ')}")
        self.reply = reply

    @property
    def by_both(self) -> bool:
        """Whether the other VM opens the same connection, and its site makes it."""
        return self.reply is Reply.OPENED_BY_BOTH


@dataclass(frozen=True, slots=True)
class Means:
    """What the socksifier does its work with; others of the worker share some of it."""

    relays: Relays
    report: Report
    carried: Carried
    peers: Peers
    live_paths: LivePaths
    known: KnownDestinations
    openings: Openings
    device: HeldDevice
    slots: Slots


class Socksifier:
    """Carries connections that this site's VMs open."""

    def __init__(self, policy: Policy, means: Means) -> None:
        """Carry what ``policy`` allows; the policy may be replaced at any time."""
        self.policy = policy
        self._means = means
        self._known, self._openings, self._device = means.known, means.openings, means.device
        self._statistics = means.relays.statistics
        self._poller = means.relays.poller
        self._unasked = Unasked(self._statistics.ended)

    # What comes from VMs

    def take(self, packet: bytes) -> None:
        """Take a packet that was held: a SYN, or a reset.

        Raises:
            TooManyError: it is a SYN more than its VM may have held.

        """
        segment = read_segment(packet)
        if segment is None:
            return
        opening = self._openings.find(segment.client, segment.destination)
        if segment.resets:
            if opening is not None and opening.is_reset_by(segment):
                opening.give_up(Reason.GIVEN_UP, Who.VM_HERE)
        elif opening is not None and segment.opens:
            opening.repeated(segment)
        elif segment.opens and not self._openings.is_late(segment):
            self._begin(segment)

    def _begin(self, segment: Segment) -> None:
        client, destination = segment.client, segment.destination
        slots = self._means.slots
        policy = self.policy
        peer = policy.opens(client.address, destination)
        name = peer.peer if isinstance(peer, Refusal) else peer.name
        if self._openings.is_held(segment):
            return
        if not (slots.allow(client.address, _VMS_SHARE) and self._openings.allow(client, name)):
            self._unasked.note(client, destination, Reason.UNASKED, _TOO_MANY)
            raise TooManyError
        if isinstance(peer, Refusal):
            self._unasked.note(client, destination, peer.reason, peer.detail, name)
            self._openings.prohibit(client, name)
            self._tell(segment, Reply.NOT_ALLOWED)
            return
        early = (
            self._known.listens(destination)
            and self._openings.allow_early(client)
            and bool(self._means.live_paths.usable(policy.paths(peer, 0), peer))
        )
        opening = Opening(segment, peer.name, early=early, hand_in=self._device.hand_in)
        self._openings.add(opening)
        task = slots.run(client.address, lambda: self._carry(opening, peer, policy))
        opening.give_up = partial(self._means.carried.end, task)
        task.add_done_callback(lambda _: self._openings.end(opening))

    def accept(self, near: socket.socket, client: SocketAddress) -> None:
        """Take over the socket of a VM whose handshake has ended."""
        opening = self._openings.find(client, tcp.socket_address(near.getsockname()))
        if opening is None:
            near.close()  # it was given up meanwhile
        else:
            self._openings.accept(opening, near)

    def _tell(self, segment: Segment, reply: Reply) -> bool:
        """Tell a VM what the peer has answered, or would have; False if that is silence."""
        if reply is Reply.REFUSED:
            self._device.refuse(segment)
        elif reply in _UNREACHABLE:
            prefix = self.policy.prefix_at(self.policy.site, segment.client.address)
            if prefix is not None:
                self._device.tell_unreachable(segment, _UNREACHABLE[reply], prefix.proxy_address)
        return reply is Reply.REFUSED or reply in _UNREACHABLE

    # One connection

    async def _carry(self, opening: Opening, peer: Site, policy: Policy) -> None:
        """Carry one connection to its end; ``policy`` has allowed it."""
        client, destination = opening.segment.client, opening.segment.destination
        judged = PeerConnection(Direction.OUTBOUND, peer.name, client, destination)
        self._statistics.add(Counter.OUTBOUND)
        self._statistics.add(Counter.OUTBOUND_OPEN)
        try:
            async with AsyncExitStack() as opened:
                opened.enter_context(suppress(OSError, SocksError, _NotConnectedError))
                opened.enter_context(self._means.carried.carrying(judged))
                if policy is not self.policy and revoked(judged, policy, self.policy):
                    return  # the file changed since; when its VM asks again, it is told
                connect = self._connect_early if opening.early else self._connect_first
                near, asked, request = await connect(opening, peer, judged, opened)
                await self._relay(near, asked, request, peer)
        finally:
            self._statistics.add(Counter.OUTBOUND_OPEN, -1)

    async def _connect_first(
        self, opening: Opening, peer: Site, judged: PeerConnection, opened: AsyncExitStack
    ) -> tuple[socket.socket, Asked, Request]:
        """Ask the peer, then answer the VM.

        Raises:
            OSError: no connection, or the VM does not end its handshake.
            SocksError: what the peer says is no answer.
            _NotConnectedError: the peer does not connect; the VM is told.

        """
        with self._asking(opening) as request:
            try:
                with self._forgetting(request.destination):
                    asked = await self._ask(opened, peer, request, judged)
            except _NotConnectedError as error:
                opening.answered = self._tell(opening.segment, error.reply)
                raise
        with self._failing(HANDSHAKE):
            return await opening.let_in(), asked, request

    async def _connect_early(
        self, opening: Opening, peer: Site, judged: PeerConnection, opened: AsyncExitStack
    ) -> tuple[socket.socket, Asked, Request]:
        """Answer the VM, then ask the peer.

        Raises:
            OSError: the VM does not end its handshake, or no connection.
            SocksError: what the peer says is no answer.
            _NotConnectedError: the peer does not connect.

        """
        self._statistics.add(Counter.OUTBOUND_EARLY)
        with self._asking(opening) as request:
            with self._failing(HANDSHAKE):
                near = await opening.let_in()
            with self._forgetting(request.destination):
                asked = await self._ask(opened, peer, request, judged, near)
        return near, asked, request

    @contextmanager
    def _asking(self, opening: Opening) -> Iterator[Request]:
        """Make a request; the block asks, and what comes of it is noted."""
        client, destination = opening.segment.client, opening.segment.destination
        asked_at = self._known.now()
        dscp = opening.segment.traffic_class & _DSCP
        with self._means.peers.opening(client, destination, dscp) as request:
            try:
                yield request
            except BaseException as error:
                if not (isinstance(error, _NotConnectedError) and error.by_both):
                    self._statistics.add(Counter.OUTBOUND_FAILED)
                raise
        self._known.learn(destination, asked_at)

    @contextmanager
    def _forgetting(self, destination: SocketAddress) -> Iterator[None]:
        """Make a destination unknown if the block asks for it in vain.

        That our VM gives up, or that we stop, says nothing about the destination.
        """
        try:
            yield
        except (OSError, SocksError):
            self._known.forget(destination)
            raise
        except _NotConnectedError as error:
            if not error.by_both:
                self._known.forget(destination)
            raise

    @contextmanager
    def _failing(self, phase: Phase) -> Iterator[None]:
        """Say why the connection is not opened, if this part of it fails."""
        try:
            yield
        except BaseException as error:
            if cause := not_opened(error, phase):
                self._means.carried.ended(*cause, in_words(error))
            raise

    async def _ask(
        self,
        opened: AsyncExitStack,
        peer: Site,
        request: Request,
        judged: PeerConnection,
        near: socket.socket | None = None,
    ) -> Asked:
        """Have the peer connect; ``opened`` closes the connection with it.

        The first data of ``near`` go with the request; if ``near`` is reset, this ends.

        Raises:
            OSError: no connection.
            SocksError: what the peer says is no answer.
            _NotConnectedError: the peer does not connect.

        """
        if near is None:
            with self._failing(CONNECTING):
                asked = await opened.enter_async_context(self._means.peers.asked(peer, request))
            opened.enter_context(self._means.carried.carrying(replace(judged, path=asked.path)))
            with self._failing(ASKING):
                reply = await asked.answer()
        else:
            asking = self._means.peers.asked(peer, request, partial(_read_early, near))
            with self._failing(CONNECTING), self._poller.cancelled_by_reset(near):
                asked = await opened.enter_async_context(asking)
            opened.enter_context(self._means.carried.carrying(replace(judged, path=asked.path)))
            with (
                self._failing(ASKING),
                self._poller.cancelled_by_reset(near, _UNANSWERED_SECONDS),
                asked.forwarding(near),
            ):
                reply = await asked.answer()
        if reply is not Reply.SUCCEEDED:
            if reply is not Reply.OPENED_BY_BOTH:
                self._means.carried.ended(*refused_by_peer(reply))
            raise _NotConnectedError(reply)
        return asked

    async def _relay(self, near: socket.socket, asked: Asked, request: Request, peer: Site) -> None:
        client, destination = request.client, request.destination
        traffic_class.towards_vm(near, request.traffic_class)
        with (
            self._means.report.carried(
                Direction.OUTBOUND, peer.name, client, destination, client, asked.token
            ) as connection,
            self._means.relays.between(
                near, asked.far, peer, connection, asked.nudge, asked.early
            ) as relay,
        ):
            await relay.run()
            if relay.reset_by_far:
                self._known.forget(destination)


def _read_early(near: socket.socket, most: int) -> bytes:
    """Read what the VM has said already, up to an urgent octet, which the relay passes on."""
    if tcp.is_broken(near) or tcp.at_urgent_octet(near):
        return b""  # the relay finds it out: an error is read once
    try:
        return near.recv(most)
    except OSError:
        return b""
