"""Waiting, in the event loop, for what comes on a socket, and until all is sent.

asyncio's own functions refuse sockets with TLS. These ask the socket first, and wait only if it has
nothing: what TLS has decrypted already raises no event.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress


async def receive(sock: socket.socket, most: int) -> bytes:
    """Read at most so many bytes of a non-blocking socket; none at the end of the stream.

    Raises:
        OSError: the connection broke.

    """
    loop = asyncio.get_running_loop()
    while True:
        with suppress(BlockingIOError):
            return sock.recv(most)
        await _event(sock, loop.add_reader, loop.remove_reader)


async def send_all(sock: socket.socket, data: bytes) -> None:
    """Send all of ``data`` to a non-blocking socket.

    Raises:
        OSError: the connection broke.

    """
    loop = asyncio.get_running_loop()
    left = memoryview(data)
    while left:
        try:
            left = left[sock.send(left) :]
        except BlockingIOError:
            await _event(sock, loop.add_writer, loop.remove_writer)


async def readable(sock: socket.socket) -> None:
    """Wait until a socket has something to read for whoever looks below TLS."""
    loop = asyncio.get_running_loop()
    await _event(sock, loop.add_reader, loop.remove_reader)


async def writable(sock: socket.socket) -> None:
    """Wait until a socket takes something of whoever writes below TLS."""
    loop = asyncio.get_running_loop()
    await _event(sock, loop.add_writer, loop.remove_writer)


async def _event(
    sock: socket.socket,
    watch: Callable[..., object],
    leave: Callable[[int], object],
) -> None:
    number = sock.fileno()
    happened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake() -> None:
        if not happened.done():
            happened.set_result(None)

    watch(number, wake)
    try:
        await happened
    finally:
        leave(number)
