"""The socksifier: takes VMs' connections off the bridge and asks the peer's server for them.

TPROXY hands it connections to addresses that are not its own (Linux, Documentation/networking/
tproxy.rst): the accepted socket's own name is where the VM wanted to go.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from fedsdn.channel.connection import Direction
from fedsdn.channel.report import Report
from fedsdn.config.model import Site
from fedsdn.pipeline.declarations import SOCKSIFIER_LISTEN_PORT, SocketMark
from fedsdn.proxy.admission.carried import Carried, Flow, fixed_path
from fedsdn.proxy.admission.policy import Policy, Refusal
from fedsdn.proxy.process.listener import Name
from fedsdn.proxy.relay import records
from fedsdn.proxy.relay.peer_relay import Means
from fedsdn.proxy.relay.records import Kind
from fedsdn.proxy.relay.relay import NothingDoneError
from fedsdn.proxy.sockets import tcp, transparent, transport
from fedsdn.proxy.sockets.handover import Handover, Offer
from fedsdn.proxy.sockets.live_paths import LivePaths
from fedsdn.proxy.sockets.path_manager import Managed, PathManager, Paths
from fedsdn.proxy.sockets.transport import fallen_back
from fedsdn.proxy.socks import protocol as socks
from fedsdn.proxy.socks.messages import read_message
from fedsdn.proxy.socks.protocol import Reply, Request, SocksError
from fedsdn.proxy.stats import Counter
from fedsdn.socket_address import SocketAddress
from fedsdn.uplinks.status import SiteStatus

_LOG = logging.getLogger(__name__)

REPLY_SECONDS = 35.0
"""How long the peer may take to answer: to read the request, and to connect to its VM."""


def listen_for_tenants() -> socket.socket:
    """Listen for what TPROXY hands over.

    Raises:
        OSError: the port is taken, or the process may not be transparent.

    """
    return transparent.listen(SOCKSIFIER_LISTEN_PORT, SocketMark.SOCKSIFIER)


_ATTEMPTS = 3
"""How many times a peer is asked that has done nothing because Multipath TCP had fallen back."""


class Socksifier:
    """Carries connections that this site's VMs open."""

    def __init__(
        self,
        policy: Policy,
        means: Means,
        report: Report,
        carried: Carried,
        handover: Handover,
    ) -> None:
        """Carry what ``policy`` allows; the policy may be replaced at any time.

        The path manager is to run.

        Raises:
            OSError: the kernel has no MPTCP that can be managed.

        """
        self.policy = policy
        self.path_manager = PathManager(
            self._usable_paths, lambda: self.policy.federation.proxy_port
        )
        self._live_paths = LivePaths()
        self._report = report
        self._carried = carried
        self._handover = handover
        self._means = means
        self._statistics = means.statistics
        self._poller = means.poller
        self._turns = itertools.count()

    async def handle(self, near: socket.socket, name: Name) -> None:
        """Carry one connection to its end."""
        with near:
            self._statistics.add(Counter.OUTBOUND)
            self._statistics.add(Counter.OUTBOUND_OPEN)
            try:
                await self._carry(
                    near, Request(_socket_address(name), _socket_address(near.getsockname()))
                )
            finally:
                self._statistics.add(Counter.OUTBOUND_OPEN, -1)

    async def _carry(self, near: socket.socket, request: Request) -> None:
        peer = self.policy.peer_towards(request.destination.address)
        if isinstance(peer, Refusal):
            who = str(request.client.address)
            self._statistics.refused(Counter.REFUSED_UNFEDERATED, who, peer)
            return
        client, destination = request.client.address, request.destination.address
        flow = Flow(Direction.OUTBOUND, peer.name, client, destination)
        with (
            suppress(OSError, SocksError),  # the VM sees a reset
            self._carried.carrying(flow),
            self._handover.offering(request.client, request.destination, near) as offer,
        ):
            first = _FirstSegment(near, request)
            for _ in range(_ATTEMPTS):
                with self._failure_counted(request, peer), self._poller.cancelled_by_reset(near):
                    far = await self._connect(peer)
                path = fixed_path(far, peer)
                with (
                    suppress(NothingDoneError),
                    far,
                    self._carried.carrying(replace(flow, path=path)),
                ):
                    await self._carry_over(far, offer, request, peer, first)
                    return
            self._statistics.add(Counter.OUTBOUND_FAILED)
            self._statistics.fell_back(peer)

    async def _carry_over(
        self,
        far: socket.socket,
        offer: Offer,
        request: Request,
        peer: Site,
        first: _FirstSegment,
    ) -> None:
        """Carry a connection over one with the peer that has been made."""
        if peer.proxy == "fedsdn":
            await first.send(far)
            ready = self._answered(far, request, peer)
            await self._relay(offer, far, request, peer, first.early, ready)
            return
        with self._failure_counted(request, peer), self._poller.cancelled_by_reset(offer.near):
            await _ask_plainly(far, request.destination)
        await self._relay(offer, far, request, peer)

    @contextmanager
    def _failure_counted(self, request: Request, peer: Site) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._statistics.add(Counter.OUTBOUND_FAILED)
            _LOG.debug(
                "%s to %s at site %s: not connected: %s",
                request.client,
                request.destination,
                peer.name,
                error or type(error).__name__,
            )
            raise

    def take(self, status: SiteStatus) -> None:
        """Go by what the application says of uplinks and paths."""
        if self._live_paths.take(status):
            self.path_manager.look()

    def _usable_paths(self, peer_name: str) -> Paths:
        peers = {peer.name: peer for peer in self.policy.federation.peers(self.policy.site.name)}
        peer = peers.get(peer_name)
        if peer is None:
            return ()  # the federation file has it no more
        return self._live_paths.usable(self.policy.paths(peer, 0), peer)

    async def _connect(self, peer: Site) -> socket.socket:
        """Connect to a peer's server; connections take turns in which live path they try first."""
        paths = self._live_paths.live_first(self.policy.paths(peer, next(self._turns)), peer)
        port = self.policy.federation.proxy_port
        far = await transport.connect(paths, port)
        if self._means.carries(far, peer):
            return far
        far.close()
        if peer.proxy == "fedsdn":
            raise fallen_back()
        return await transport.connect(paths, port, socket.IPPROTO_TCP)

    async def _answered(self, far: socket.socket, request: Request, peer: Site) -> None:
        with self._failure_counted(request, peer):
            async with asyncio.timeout(REPLY_SECONDS):
                reply = await read_message(far, socks.parse_response)
            if reply is not Reply.ASK_AGAIN:
                if not self._means.carries(far, peer):
                    raise fallen_back()
                _check_success(reply)
                return
        raise NothingDoneError

    async def _relay(
        self,
        offer: Offer,
        far: socket.socket,
        request: Request,
        peer: Site,
        early: int = 0,
        ready: Awaitable[None] | None = None,
    ) -> None:
        """Relay to the end; ``early`` bytes have gone with the request."""
        client, destination = request.client, request.destination
        with (
            self.path_manager.managing(far, peer.name, _cancel_this_task()) as managed,
            self._report.carried(
                Direction.OUTBOUND, peer.name, client, destination, client, managed.token
            ) as connection,
            self._means.relay(
                *(offer.near, far, peer, connection, lambda: self.path_manager.nudge(far), early),
                taken_over=lambda: offer.taken,
            ) as relay,
        ):
            offer.on_taken = relay.may_be_finished
            await relay.run(far_ready=self._join_when(ready, managed))

    async def _join_when(self, ready: Awaitable[None] | None, managed: Managed) -> None:
        """Have the other subflows opened as soon as the peer has answered."""
        if ready is not None:
            await ready
        self.path_manager.join(managed)


def _cancel_this_task() -> Callable[[], object]:
    task = asyncio.current_task()
    return (lambda: None) if task is None else task.cancel


class _FirstSegment:
    """What one of our servers is sent before it has answered: the request, and the VM's first data.

    It is kept, so that the server can be asked again.
    """

    def __init__(self, near: socket.socket, request: Request) -> None:
        self._near = near
        self._sent = request.encode()
        self._complete = False
        self.early = 0
        """How many of the VM's bytes are in it."""

    async def send(self, far: socket.socket) -> None:
        """Send it.

        Raises:
            OSError: a connection broke.

        """
        if not self._complete:
            room = transport.FIRST_SEGMENT_BYTES - len(self._sent) - records.HEADER.size
            with suppress(BlockingIOError):
                if early := self._near.recv(room):
                    self.early = len(early)
                    self._sent += records.record(Kind.DATA, self.early) + early
            self._complete = True
        await asyncio.get_running_loop().sock_sendall(far, self._sent)


async def _ask_plainly(far: socket.socket, destination: SocketAddress) -> None:
    """Ask another's server for a connection.

    Its dialogue has two turns, and some take what comes in one piece for one message.

    Raises:
        OSError: the connection broke, or the server does not answer in time.
        SocksError: the server refuses, or does not speak SOCKS5.

    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(REPLY_SECONDS):
        await loop.sock_sendall(far, socks.PLAIN_GREETING)
        await read_message(far, socks.parse_plain_selection)
        await loop.sock_sendall(far, socks.encode_connect(destination))
        _check_success(await read_message(far, socks.parse_plain_reply))


def _check_success(reply: Reply) -> None:
    if reply is not Reply.SUCCEEDED:
        raise SocksError(f"the peer says {reply.name.lower().replace('_', ' ')}")


def _socket_address(name: Name) -> SocketAddress:
    return SocketAddress(tcp.unmapped(name[0]), name[1])
