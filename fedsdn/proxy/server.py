"""The SOCKS server: connects peers' VMs to this site's, from their own addresses."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

from fedsdn.config.model import Site
from fedsdn.pipeline.declarations import SocketMark
from fedsdn.proxy import socks, transport
from fedsdn.proxy.policy import FOREIGN_CLIENT, Policy, Refusal
from fedsdn.proxy.relay import PipePool, Relay, reset
from fedsdn.proxy.socks import Reply, Request, SocksError
from fedsdn.proxy.stats import Counter, WorkerStatistics
from fedsdn.proxy.transparent import connect_as

HANDSHAKE_SECONDS = 10.0
"""How long a peer may take to say what it wants."""


class Server:
    """Carries connections that peers' VMs open."""

    def __init__(self, policy: Policy, statistics: WorkerStatistics, pipes: PipePool) -> None:
        """Carry what ``policy`` allows; the policy may be replaced at any time."""
        self.policy = policy
        self._statistics = statistics
        self._pipes = pipes

    async def handle(self, far: socket.socket) -> None:
        """Carry one connection to its end."""
        try:
            address = transport.unmapped(far.getpeername()[0])
        except OSError:  # gone before it was looked at
            far.close()
            return
        peer = self.policy.peer_behind(address)
        if isinstance(peer, Refusal):
            self._statistics.refused(Counter.REFUSED_NOT_A_PEER, str(address), peer)
            reset(far)
            return
        self._statistics.add(Counter.INBOUND)
        self._statistics.add(Counter.INBOUND_OPEN)
        try:
            await self._carry(far, peer)
        finally:
            self._statistics.add(Counter.INBOUND_OPEN, -1)

    async def _carry(self, far: socket.socket, peer: Site) -> None:
        if transport.fell_back(far):
            self._statistics.add(Counter.FALLBACKS)
            self._statistics.say_once(f"site {peer.name}", "no Multipath TCP, only TCP")
        try:
            near = await self._connect(far, peer)
        except OSError:
            reset(far)
            return
        except asyncio.CancelledError:
            reset(far)
            raise
        if near is None:
            far.close()
            return
        count = self._statistics.add
        await Relay(
            near,
            far,
            self._pipes,
            outward=lambda moved: count(Counter.BYTES_SENT, moved),
            inward=lambda moved: count(Counter.BYTES_RECEIVED, moved),
        ).run()

    async def _connect(self, far: socket.socket, peer: Site) -> socket.socket | None:
        """Do what the peer asks for; None, once it is answered, if that cannot be done."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                request = await _read_request(far)
        except (SocksError, TimeoutError) as error:
            self._refuse_protocol(peer, error)
            if isinstance(error, SocksError):
                await self._answer(far, error.reply)
            return None
        reply = self._judge(peer, request)
        if reply is not None:
            await self._answer(far, reply)
            return None
        try:
            near = await connect_as(request.client, request.destination, SocketMark.SERVER)
        except OSError as error:
            self._statistics.add(Counter.INBOUND_FAILED)
            await self._answer(far, socks.reply_for(error))
            return None
        try:
            answer = socks.METHOD_SELECTION + socks.encode_reply(Reply.SUCCEEDED)
            await loop.sock_sendall(far, answer)
        except BaseException:
            reset(near)
            raise
        return near

    def _judge(self, peer: Site, request: Request) -> Reply | None:
        """Return the answer to a request that is not allowed, None to one that is."""
        refusal = self.policy.admits(peer, request.client.address, request.destination.address)
        if refusal is None:
            return None
        counter = (
            Counter.REFUSED_FOREIGN_CLIENT
            if refusal is FOREIGN_CLIENT
            else Counter.REFUSED_FOREIGN_DESTINATION
        )
        self._statistics.refused(counter, f"site {peer.name}", refusal)
        return Reply.NOT_ALLOWED

    def _refuse_protocol(self, peer: Site, error: SocksError | TimeoutError) -> None:
        reason = str(error) or f"no request within {HANDSHAKE_SECONDS:g} s"
        self._statistics.refused(Counter.REFUSED_PROTOCOL, f"site {peer.name}", Refusal(reason))

    async def _answer(self, far: socket.socket, reply: Reply) -> None:
        with suppress(OSError):
            answer = socks.METHOD_SELECTION + socks.encode_reply(reply)
            await asyncio.get_running_loop().sock_sendall(far, answer)


async def _read_request(far: socket.socket) -> Request:
    """Read the request, and not a byte of what follows it: that stays for the relay.

    Raises:
        OSError: the connection broke.
        SocksError: it is no request of ours.

    """
    loop = asyncio.get_running_loop()
    seen = b""
    while isinstance(found := socks.parse_request(seen), int):
        more = await loop.sock_recv(far, found)
        if not more:
            raise SocksError("connection closed before the request was complete")
        seen += more
    return found
