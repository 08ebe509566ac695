"""The socksifier: accepts connections of this site's VMs, and asks the peer's server for them.

TPROXY gives it connections to addresses that are not its own (Linux, Documentation/networking/
tproxy.rst): the local address of the accepted socket is the VM's destination.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial

from fedsdn.channel.connection import Direction
from fedsdn.channel.report import Report
from fedsdn.config.model import Site
from fedsdn.pipeline.declarations import SOCKSIFIER_LISTEN_PORT, SocketMark
from fedsdn.proxy.admission.carried import Carried, PeerConnection
from fedsdn.proxy.admission.policy import Policy, Refusal
from fedsdn.proxy.relay.peer_relay import Relays, fixed_path
from fedsdn.proxy.relay.relay import NothingDoneError
from fedsdn.proxy.sockets import tcp, transparent, transport
from fedsdn.proxy.sockets.handover import Handover, Offer
from fedsdn.proxy.sockets.live_paths import LivePaths
from fedsdn.proxy.sockets.path_manager import Managed, PathManager
from fedsdn.proxy.sockets.transport import fallen_back
from fedsdn.proxy.socks.asking import FirstSegment, ask_plainly, check_success, read_reply
from fedsdn.proxy.socks.protocol import Reply, Request, SocksError
from fedsdn.proxy.stats import Counter
from fedsdn.socket_address import SocketAddress

_LOG = logging.getLogger(__name__)


def listen_for_vms() -> socket.socket:
    """Listen for the connections that TPROXY redirects.

    Raises:
        OSError: the port is taken, or the process may not be transparent.

    """
    return transparent.listen(SOCKSIFIER_LISTEN_PORT, SocketMark.SOCKSIFIER)


_ATTEMPTS = 3
"""How many times a request is made if the peer refuses it because Multipath TCP had fallen back."""


class Socksifier:
    """Carries connections that this site's VMs open."""

    def __init__(
        self,
        policy: Policy,
        relays: Relays,
        report: Report,
        carried: Carried,
        handover: Handover,
        live_paths: LivePaths,
        path_manager: PathManager,
    ) -> None:
        """Carry what ``policy`` allows; the policy may be replaced at any time."""
        self.policy = policy
        self._live_paths = live_paths
        self._path_manager = path_manager
        self._report = report
        self._carried = carried
        self._handover = handover
        self._relays = relays
        self._statistics = relays.statistics
        self._poller = relays.poller
        self._turns = itertools.count()

    async def handle(self, near: socket.socket, client: SocketAddress) -> None:
        """Carry one connection to its end."""
        with near:
            self._statistics.add(Counter.OUTBOUND)
            self._statistics.add(Counter.OUTBOUND_OPEN)
            try:
                destination = tcp.socket_address(near.getsockname())
                await self._carry(near, Request(client, destination))
            finally:
                self._statistics.add(Counter.OUTBOUND_OPEN, -1)

    async def _carry(self, near: socket.socket, request: Request) -> None:
        peer = self.policy.peer_towards(request.destination.address)
        if isinstance(peer, Refusal):
            who = str(request.client.address)
            self._statistics.refused(Counter.REFUSED_UNFEDERATED, who, peer.reason)
            return
        client, destination = request.client.address, request.destination.address
        asked = PeerConnection(Direction.OUTBOUND, peer.name, client, destination)
        with (
            suppress(OSError, SocksError),  # the VM sees a reset
            self._carried.carrying(asked),
            self._handover.offering(request.client, request.destination, near) as offer,
        ):
            first = FirstSegment(near, request)
            for _ in range(_ATTEMPTS):
                with self._failure_counted(request, peer), self._poller.cancelled_by_reset(near):
                    far = await self._connect(peer)
                path = fixed_path(far, peer)
                with (
                    suppress(NothingDoneError),
                    far,
                    self._carried.carrying(replace(asked, path=path)),
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
        first: FirstSegment,
    ) -> None:
        """Carry a connection over ``far``, which is connected to the peer."""
        if peer.proxy == "fedsdn":
            await first.send(far)
            ready = self._answered(far, request, peer)
            await self._relay(offer, far, request, peer, first.early, ready)
            return
        with self._failure_counted(request, peer), self._poller.cancelled_by_reset(offer.near):
            await ask_plainly(far, request.destination)
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

    async def _connect(self, peer: Site) -> socket.socket:
        """Connect to a peer's server; the live path that is tried first rotates."""
        paths = self._live_paths.live_first(self.policy.paths(peer, next(self._turns)), peer)
        port = self.policy.federation.proxy_port
        far = await transport.connect(paths, port)
        if self._relays.carries(far, peer):
            return far
        far.close()
        if peer.proxy == "fedsdn":
            raise fallen_back()
        return await transport.connect(paths, port, socket.IPPROTO_TCP)

    async def _answered(self, far: socket.socket, request: Request, peer: Site) -> None:
        with self._failure_counted(request, peer):
            reply = await read_reply(far)
            if reply is not Reply.ASK_AGAIN:
                if not self._relays.carries(far, peer):
                    raise fallen_back()
                check_success(reply)
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
        """Relay to the end; ``early`` bytes were sent with the request."""
        client, destination = request.client, request.destination
        with (
            self._path_manager.managing(far, peer.name, _cancel_this_task()) as managed,
            self._report.carried(
                Direction.OUTBOUND, peer.name, client, destination, client, managed.token
            ) as connection,
            self._relays.between(
                *(offer.near, far, peer, connection, lambda: self._path_manager.nudge(far), early),
                taken_over=lambda: offer.taken,
            ) as relay,
        ):
            offer.on_taken = partial(relay.soon, relay.may_be_finished)
            await relay.run(far_ready=self._join_when(ready, managed))

    async def _join_when(self, ready: Awaitable[None] | None, managed: Managed) -> None:
        """Have the other subflows opened as soon as the peer has answered."""
        if ready is not None:
            await ready
        self._path_manager.join(managed)


def _cancel_this_task() -> Callable[[], object]:
    task = asyncio.current_task()
    return (lambda: None) if task is None else task.cancel
