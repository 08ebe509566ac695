"""The server's part of the SOCKS dialogue: what a peer asks for, and what it is answered."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

from fedsdn.config.model import Site
from fedsdn.proxy.sockets import tcp
from fedsdn.proxy.socks import parsing, protocol
from fedsdn.proxy.socks.protocol import Reply, Request
from fedsdn.proxy.socks.reading import read_message
from fedsdn.socket_address import SocketAddress

HANDSHAKE_SECONDS = 10.0
"""How long a peer may take to say what it wants."""

_FAREWELL_SECONDS = 5.0
_FAREWELL_BYTES = 1 << 16


async def read_request(far: socket.socket, caller: SocketAddress, peer: Site) -> Request:
    """Return what ``peer`` asks for on ``far``.

    The client of another's proxy is not known; ``caller`` is the proxy, and stands for it.

    Raises:
        OSError: the connection broke.
        SocksError: it does not speak our SOCKS, or asks for something else than a connection.
        TimeoutError: it does not ask in time.

    """
    async with asyncio.timeout(HANDSHAKE_SECONDS):
        if peer.proxy == "socks5":
            return Request(caller, await _read_plain_request(far))
        return await read_message(far, parsing.parse_request)


async def _read_plain_request(far: socket.socket) -> SocketAddress:
    """Read the request of another's proxy: the destination.

    Raises:
        OSError: the connection broke.
        SocksError: it does not speak SOCKS5, or asks for something else than a connection.

    """
    await read_message(far, parsing.parse_plain_greeting)
    await asyncio.get_running_loop().sock_sendall(far, protocol.PLAIN_SELECTION)
    return await read_message(far, parsing.parse_plain_connect)


def answer(reply: Reply, peer: Site) -> bytes:
    """Make the answer to a request of ``peer``."""
    return (protocol.encode_reply if peer.proxy == "socks5" else protocol.encode_response)(reply)


async def turn_away(far: socket.socket, farewell: bytes) -> None:
    """Answer, and end the connection in order.

    The peer's data are read to their end: if they were left unread, a reset would overtake the
    answer.
    """
    loop = asyncio.get_running_loop()
    with suppress(OSError):
        async with asyncio.timeout(_FAREWELL_SECONDS):
            await loop.sock_sendall(far, farewell)
            far.shutdown(socket.SHUT_WR)
            while await loop.sock_recv(far, _FAREWELL_BYTES):
                pass
            tcp.end_in_order(far)
