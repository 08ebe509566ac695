"""The socksifier's part of the SOCKS dialogue: asking a peer's server for a connection."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

from fedsdn.proxy.relay import records
from fedsdn.proxy.relay.records import Kind
from fedsdn.proxy.sockets import transport
from fedsdn.proxy.socks import parsing, protocol
from fedsdn.proxy.socks.protocol import Reply, Request, SocksError
from fedsdn.proxy.socks.reading import read_message
from fedsdn.socket_address import SocketAddress

REPLY_SECONDS = 35.0
"""How long the peer may take to answer: to read the request, and to connect to its VM."""


class FirstSegment:
    """What is sent to one of our servers at first: the request and the VM's first data.

    It is kept, so that the request can be repeated.
    """

    def __init__(self, near: socket.socket, request: Request) -> None:
        """Prepare; the VM's first data are read from ``near`` when they are sent."""
        self._near = near
        self._sent = request.encode()
        self._complete = False
        self.early = 0
        """How many bytes of the VM it holds."""

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


async def ask_plainly(far: socket.socket, destination: SocketAddress) -> None:
    """Ask another's server for a connection.

    Plain SOCKS5 takes two round trips: some servers take what arrives together for one message.

    Raises:
        OSError: the connection broke, or the server does not answer in time.
        SocksError: the server refuses, or does not speak SOCKS5.

    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(REPLY_SECONDS):
        await loop.sock_sendall(far, protocol.PLAIN_GREETING)
        await read_message(far, parsing.parse_plain_selection)
        await loop.sock_sendall(far, protocol.encode_connect(destination))
        check_success(await read_message(far, parsing.parse_plain_reply))


async def read_reply(far: socket.socket) -> Reply:
    """Return the answer of one of our servers.

    Raises:
        OSError: the connection broke, or the server does not answer in time.
        SocksError: what comes is no answer.

    """
    async with asyncio.timeout(REPLY_SECONDS):
        return await read_message(far, parsing.parse_response)


def check_success(reply: Reply) -> None:
    """Check that a server has connected to the VM.

    Raises:
        SocksError: it has not.

    """
    if reply is not Reply.SUCCEEDED:
        raise SocksError(f"the peer says {reply.name.lower().replace('_', ' ')}")
