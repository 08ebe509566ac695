"""The server's part of the SOCKS dialogue: what a peer asks for, and what it is answered."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

from fedsdn.config.model import Site
from fedsdn.proxy.relay import records
from fedsdn.proxy.relay.records import Kind
from fedsdn.proxy.sockets import tcp
from fedsdn.proxy.sockets.exchange import receive, send_all
from fedsdn.proxy.socks import parsing, protocol
from fedsdn.proxy.socks.protocol import Reply, Request
from fedsdn.proxy.socks.reading import read_message
from fedsdn.socket_address import SocketAddress

REQUEST_SECONDS = 10.0
"""How long a peer may take to say what it wants, once it has begun to."""

_EARLY = records.record(Kind.DATA)[:1]
"""The VM's first data behind a refused request begin with this octet, and no request does."""

_FAREWELL_SECONDS = 5.0
_FAREWELL_BYTES = 1 << 16


class Dialogue:
    """What is said on one connection with ``peer`` until a VM is connected."""

    def __init__(self, far: socket.socket, caller: SocketAddress, peer: Site) -> None:
        """Begin. The client of another's proxy is not known: ``caller`` stands for it."""
        self.far = far
        self.caller = caller
        self.peer = peer
        self.pauses = False
        """Whether the peer has asked for nothing when ``request`` looked, and may do so later."""
        self._plain: Request | None = None
        self._refused = False
        self._over = False

    async def greet(self) -> None:
        """Take the greeting and answer it; of another's proxy, take its request, too.

        Raises:
            CutOffError: the other side stops in the middle.
            OSError: the connection broke.
            SocksError: the other side does not speak our SOCKS.

        """
        if self.peer.proxy == "socks5":
            await read_message(self.far, parsing.parse_plain_greeting)
            await send_all(self.far, protocol.PLAIN_SELECTION)
            destination = await read_message(self.far, parsing.parse_plain_connect)
            self._plain = Request(self.caller, destination, number=0)
        else:
            await read_message(self.far, parsing.parse_greeting)
            await send_all(self.far, protocol.SELECTION)

    async def request(self) -> Request | None:
        """Return what the peer asks for; None if it pauses, or asks for nothing more.

        Raises:
            OSError: the connection broke.
            SocksError: it asks for something else than a connection.
            TimeoutError: it does not ask in time.

        """
        if self._over or self._plain is not None:
            plain, self._plain = self._plain, None
            return plain
        self.pauses = False
        async with asyncio.timeout(REQUEST_SECONDS):
            try:
                first = self.far.recv(1)
            except BlockingIOError:
                self.pauses = True
                return None
            if first and not (self._refused and first == _EARLY):
                return await read_message(self.far, parsing.parse_request, first)
        await self.turn_away(b"")
        return None

    async def accept(self) -> None:
        """Say that the VM is connected.

        Raises:
            OSError: the connection broke.

        """
        self._over = True
        await send_all(self.far, protocol.encode_reply(Reply.SUCCEEDED))

    async def refuse(self, reply: Reply) -> None:
        """Refuse a request; another one may follow.

        Raises:
            OSError: the connection broke.

        """
        if self.peer.proxy == "socks5":
            await self.turn_away(protocol.encode_reply(reply))
        else:
            self._refused = True
            await send_all(self.far, protocol.encode_reply(reply))

    async def turn_away(self, farewell: bytes) -> None:
        """Say a last thing, and end the connection in order.

        The peer's data are read to their end: if they were left unread, a reset would overtake
        what is said.
        """
        self._over = True
        with suppress(OSError):
            async with asyncio.timeout(_FAREWELL_SECONDS):
                await send_all(self.far, farewell)
                self.far.shutdown(socket.SHUT_WR)
                while await receive(self.far, _FAREWELL_BYTES):
                    pass
                tcp.end_in_order(self.far)
