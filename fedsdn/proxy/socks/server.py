"""The SOCKS server: connects peers' VMs to this site's."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from contextlib import suppress
from dataclasses import replace

from fedsdn.channel.connection import Direction
from fedsdn.channel.report import Report
from fedsdn.config.model import Site
from fedsdn.pipeline.declarations import SocketMark
from fedsdn.proxy.admission.carried import Carried, Flow, fixed_path
from fedsdn.proxy.admission.policy import FOREIGN_CLIENT, Policy, Refusal
from fedsdn.proxy.admission.turns import Turns
from fedsdn.proxy.process.listener import Name
from fedsdn.proxy.relay.peer_relay import Means, is_usable
from fedsdn.proxy.sockets import tcp, transport
from fedsdn.proxy.sockets.handover import Handover
from fedsdn.proxy.sockets.path_manager import PathManager
from fedsdn.proxy.sockets.restored import Restore, connect_restored
from fedsdn.proxy.sockets.transparent import ANY_PORT, connect_as
from fedsdn.proxy.socks import protocol as socks
from fedsdn.proxy.socks.messages import read_message
from fedsdn.proxy.socks.protocol import Reply, Request, SocksError
from fedsdn.proxy.stats import Counter
from fedsdn.socket_address import SocketAddress

_LOG = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 10.0
"""How long a peer may take to say what it wants."""

_FAREWELL_SECONDS = 5.0
_FAREWELL_BYTES = 1 << 16


class Server:
    """Carries connections that peers' VMs open."""

    def __init__(
        self,
        policy: Policy,
        means: Means,
        report: Report,
        carried: Carried,
        restore: Restore,
        path_manager: PathManager,
        turns: Turns,
        handover: Handover,
    ) -> None:
        """Carry what ``policy`` allows; the policy may be replaced at any time.

        ``restore`` has the bridge restore a client's address.
        """
        self.policy = policy
        self._report = report
        self._carried = carried
        self._restore = restore
        self._path_manager = path_manager
        self._turns = turns
        self._handover = handover
        self._means = means
        self._statistics = means.statistics
        self._poller = means.poller

    def peer_called(self, name: Name) -> str:
        """Return which peer has this name of a socket; the address, if none has it."""
        address = tcp.unmapped(name[0])
        peer = self.policy.peer_behind(address)
        return str(address) if isinstance(peer, Refusal) else f"site {peer.name}"

    async def handle(self, far: socket.socket, name: Name) -> None:
        """Carry one connection to its end."""
        with far:
            address = tcp.unmapped(name[0])
            try:
                transport.prepare(far)
                peer = self.policy.peer_behind(address)
                if isinstance(peer, Refusal):
                    self._statistics.refused(Counter.REFUSED_NOT_A_PEER, str(address), peer)
                    return
                asking = SocketAddress(address, name[1])
                flow = Flow(Direction.INBOUND, peer.name, path=fixed_path(far, peer))
                with self._carried.carrying(flow):
                    request = await self._read_request(far, asking, peer)
                    # Only now: it may fall back when the first data come.
                    if request is not None and not is_usable(far, peer):
                        self._statistics.add(Counter.ASKED_AGAIN)
                        await _turn_away(far, _answer(Reply.ASK_AGAIN, peer))
                    elif request is not None:
                        with self._carried.carrying(
                            replace(
                                flow,
                                client=request.client.address,
                                destination=request.destination.address,
                            )
                        ):
                            await self._carry(far, request, peer)
            except OSError as error:
                _LOG.debug("connection from %s: %s", address, error)

    async def _read_request(
        self, far: socket.socket, asking: SocketAddress, peer: Site
    ) -> Request | None:
        """Return what the peer asks for; None, once it is answered, if that is refused.

        The client of another's proxy is not known; ``asking`` is the proxy, and stands for it.

        Raises:
            OSError: the connection broke.

        """
        who = f"site {peer.name}"
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                if peer.proxy == "socks5":
                    request = Request(asking, await _read_plain_request(far))
                else:
                    request = await read_message(far, socks.parse_request)
        except TimeoutError:
            late = Refusal(f"no request within {HANDSHAKE_SECONDS:g} s")
            self._statistics.refused(Counter.REFUSED_PROTOCOL, who, late)
            return None
        except SocksError as error:
            self._statistics.refused(Counter.REFUSED_PROTOCOL, who, Refusal(str(error)))
            await _turn_away(far, error.answer)
            return None
        peer = self.policy.federation.site(peer.name)  # as the file has it by now
        refusal = self.policy.admits(peer, request.client.address, request.destination.address)
        if refusal is None:
            return request
        counter = (
            Counter.REFUSED_FOREIGN_CLIENT
            if refusal is FOREIGN_CLIENT
            else Counter.REFUSED_FOREIGN_DESTINATION
        )
        self._statistics.refused(counter, who, refusal)
        await _turn_away(far, _answer(Reply.NOT_ALLOWED, peer))
        return None

    async def _carry(self, far: socket.socket, request: Request, peer: Site) -> None:
        self._statistics.add(Counter.INBOUND)
        self._statistics.add(Counter.INBOUND_OPEN)
        try:
            near = await self._connect(far, request, peer)
            if near is not None:
                with near:
                    success = _answer(Reply.SUCCEEDED, peer)
                    await asyncio.get_running_loop().sock_sendall(far, success)
                    await self._relay(near, far, request, peer)
        finally:
            self._statistics.add(Counter.INBOUND_OPEN, -1)

    async def _connect(
        self, far: socket.socket, request: Request, peer: Site
    ) -> socket.socket | None:
        """Connect to the VM; None, once the peer is told, if that fails."""
        try:
            client, destination = request.client.address, request.destination.address
            with self._poller.cancelled_by_reset(far):
                async with self._turns.turn(client, destination):
                    return await self._connect_to_vm(request, peer)
        except OSError as error:
            self._statistics.add(Counter.INBOUND_FAILED)
            _LOG.debug("%s to %s: %s", request.client, request.destination, error)
            await _turn_away(far, _answer(socks.reply_for(error), peer))
            return None

    async def _connect_to_vm(self, request: Request, peer: Site) -> socket.socket:
        """Connect to the VM so that it sees the client's address, or as ourselves.

        Raises:
            OSError: the connection failed.

        """
        how = self.policy.source_restore(peer)
        if how == "transparent":
            return await self._connect_as_client(request)
        own = self.policy.own_address(request.destination.address)
        if how == "none":
            ourselves = SocketAddress(own, ANY_PORT)
            return await connect_as(ourselves, request.destination, SocketMark.SERVER)
        near = await connect_restored(request, own, self._restore)
        self._statistics.add(Counter.INBOUND_RESTORED)
        return near

    async def _connect_as_client(self, request: Request) -> socket.socket:
        """Connect from the client's address; or take the socket of the VM that connects to it.

        Raises:
            OSError: the connection failed.

        """
        client, destination = request.client, request.destination
        try:
            return await connect_as(client, destination, SocketMark.SERVER, reuse_seconds=0)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
        opened_by_both = await self._handover.taken(destination, client)
        if opened_by_both is not None:
            return opened_by_both
        return await connect_as(client, destination, SocketMark.SERVER)

    async def _relay(
        self, near: socket.socket, far: socket.socket, request: Request, peer: Site
    ) -> None:
        if peer.proxy == "socks5":
            self._path_manager.announce(far, peer.name)
            if transport.carrier(far) is transport.Carrier.TCP:
                self._statistics.fell_back(peer)
        with (
            self._report.carried(
                Direction.INBOUND,
                peer.name,
                request.client,
                request.destination,
                self._shown(near, request, peer),
                transport.token(far),
            ) as connection,
            self._means.relay(
                *(near, far, peer, connection, lambda: self._path_manager.nudge(far)),
                sends=_is_ours(near),
            ) as relay,
        ):
            await relay.run()

    def _shown(self, near: socket.socket, request: Request, peer: Site) -> SocketAddress:
        """As whom the VM sees the client; the bridge may have made another of us."""
        if self.policy.source_restore(peer) == "nat":
            return request.client
        address, port = near.getsockname()[:2]
        return SocketAddress(tcp.unmapped(address), port)


def _is_ours(near: socket.socket) -> bool:
    """Whether the server made a socket; else it is the socksifier's, which reads it."""
    return near.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == SocketMark.SERVER


async def _read_plain_request(far: socket.socket) -> SocketAddress:
    """Read what another's proxy asks for: the destination.

    Raises:
        OSError: the connection broke.
        SocksError: it does not speak SOCKS5, or asks for what there is not.

    """
    await read_message(far, socks.parse_plain_greeting)
    await asyncio.get_running_loop().sock_sendall(far, socks.PLAIN_SELECTION)
    return await read_message(far, socks.parse_plain_connect)


def _answer(reply: Reply, peer: Site) -> bytes:
    return (socks.encode_reply if peer.proxy == "socks5" else socks.encode_response)(reply)


async def _turn_away(far: socket.socket, answer: bytes) -> None:
    """Answer, and let the connection end in order.

    The peer's data are read to their end: if they were left, a reset would overtake the answer.
    """
    loop = asyncio.get_running_loop()
    with suppress(OSError):
        async with asyncio.timeout(_FAREWELL_SECONDS):
            await loop.sock_sendall(far, answer)
            far.shutdown(socket.SHUT_WR)
            while await loop.sock_recv(far, _FAREWELL_BYTES):
                pass
            tcp.end_in_order(far)
