"""The socksifier: accepts connections of this site's VMs, and asks the peer's server for them.

TPROXY gives it connections to addresses that are not its own (Linux, Documentation/networking/
tproxy.rst): the local address of the accepted socket is the VM's destination.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial

from fedsdn.channel.connection import Direction
from fedsdn.channel.report import Report
from fedsdn.config.model import Site
from fedsdn.pipeline.declarations import SOCKSIFIER_LISTEN_PORT, SocketMark
from fedsdn.proxy.admission.carried import Carried, PeerConnection
from fedsdn.proxy.admission.policy import Policy, Refusal
from fedsdn.proxy.relay.peer_relay import Relays
from fedsdn.proxy.sockets import tcp, transparent
from fedsdn.proxy.sockets.handover import Handover, Offer
from fedsdn.proxy.socks.peers import Asked, Peers
from fedsdn.proxy.socks.protocol import Request, SocksError, check_success
from fedsdn.proxy.stats import Counter
from fedsdn.socket_address import SocketAddress

_LOG = logging.getLogger(__name__)


def listen_for_vms() -> socket.socket:
    """Listen for the connections that TPROXY redirects.

    Raises:
        OSError: the port is taken, or the process may not be transparent.

    """
    return transparent.listen(SOCKSIFIER_LISTEN_PORT, SocketMark.SOCKSIFIER)


UNANSWERED_SECONDS = 1.0
"""How long a VM's reset waits for the answer to the request, if that carried its first data."""


class Socksifier:
    """Carries connections that this site's VMs open."""

    def __init__(
        self,
        policy: Policy,
        relays: Relays,
        report: Report,
        carried: Carried,
        handover: Handover,
        peers: Peers,
    ) -> None:
        """Carry what ``policy`` allows; the policy may be replaced at any time."""
        self.policy = policy
        self._peers = peers
        self._report = report
        self._carried = carried
        self._handover = handover
        self._relays = relays
        self._statistics = relays.statistics
        self._poller = relays.poller

    async def handle(self, near: socket.socket, client: SocketAddress) -> None:
        """Carry one connection to its end."""
        with near:
            self._statistics.add(Counter.OUTBOUND)
            self._statistics.add(Counter.OUTBOUND_OPEN)
            try:
                destination = tcp.socket_address(near.getsockname())
                await self._carry(near, client, destination)
            finally:
                self._statistics.add(Counter.OUTBOUND_OPEN, -1)

    async def _carry(
        self, near: socket.socket, client: SocketAddress, destination: SocketAddress
    ) -> None:
        peer = self.policy.peer_towards(destination.address)
        if isinstance(peer, Refusal):
            self._statistics.refused(Counter.REFUSED_UNFEDERATED, str(client.address), peer.reason)
            return
        judged = PeerConnection(Direction.OUTBOUND, peer.name, client.address, destination.address)
        async with AsyncExitStack() as opened:
            opened.enter_context(suppress(OSError, SocksError))  # the VM sees a reset
            opened.enter_context(self._carried.carrying(judged))
            offer = opened.enter_context(self._handover.offering(client, destination, near))
            with (
                self._peers.opening(client, destination) as request,
                self._failure_counted(request, peer),
            ):
                asking = self._peers.asked(peer, request, partial(_read_early, near))
                with self._poller.cancelled_by_reset(near):
                    asked = await opened.enter_async_context(asking)
                opened.enter_context(self._carried.carrying(replace(judged, path=asked.path)))
                grace = UNANSWERED_SECONDS if asked.early else 0.0
                with self._poller.cancelled_by_reset(near, grace):
                    check_success(await asked.answer())
            await self._relay(offer, asked, request, peer)

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

    async def _relay(self, offer: Offer, asked: Asked, request: Request, peer: Site) -> None:
        client, destination = request.client, request.destination
        with (
            self._report.carried(
                Direction.OUTBOUND, peer.name, client, destination, client, asked.token
            ) as connection,
            self._relays.between(
                *(offer.near, asked.far, peer, connection, asked.nudge, asked.early),
                taken_over=lambda: offer.taken,
            ) as relay,
        ):
            offer.on_taken = partial(relay.soon, relay.may_be_finished)
            await relay.run()


def _read_early(near: socket.socket, most: int) -> bytes:
    """Read what the VM has said already."""
    try:
        return near.recv(most)
    except OSError:  # nothing, or it is reset, which the relay finds out
        return b""
