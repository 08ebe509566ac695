"""The socksifier's part of the SOCKS dialogue: what is said to a peer's server."""

from __future__ import annotations

import asyncio
import socket

from fedsdn.proxy.sockets.exchange import send_all
from fedsdn.proxy.socks import parsing, protocol
from fedsdn.proxy.socks.protocol import Reply
from fedsdn.proxy.socks.reading import read_message
from fedsdn.socket_address import SocketAddress

REPLY_SECONDS = 35.0
"""How long the peer may take to answer: to read the request, and to connect to its VM."""


async def ask_plainly(far: socket.socket, destination: SocketAddress) -> Reply:
    """Ask another's server for a connection, and return its answer.

    Plain SOCKS5 takes two round trips: some servers take what arrives together for one message.

    Raises:
        OSError: the connection broke, or the server does not answer in time.
        SocksError: the server does not speak SOCKS5.

    """
    async with asyncio.timeout(REPLY_SECONDS):
        await send_all(far, protocol.PLAIN_GREETING)
        await read_message(far, parsing.parse_plain_selection)
        await send_all(far, protocol.encode_connect(destination))
        return await read_reply(far)


async def read_selection(far: socket.socket) -> None:
    """Read the first answer of one of our servers.

    Raises:
        OSError: the connection broke, or the server does not answer in time.
        SocksError: what comes is no such answer.

    """
    async with asyncio.timeout(REPLY_SECONDS):
        await read_message(far, parsing.parse_selection)


async def read_reply(far: socket.socket) -> Reply:
    """Return a server's answer to a request, with or without word before it that it leaves.

    Raises:
        OSError: the connection broke.
        SocksError: what comes is no answer.

    """
    while (reply := await read_message(far, parsing.parse_reply)) is Reply.LEAVING:
        pass
    return reply
