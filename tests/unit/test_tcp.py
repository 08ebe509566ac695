"""When a socket that connects is connected."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import pytest

from fedsdn.proxy.sockets import tcp


@dataclass
class Connecting:
    """A socket of which poll(2) tells something each time; what it is then comes in ``states``.

    Each state is the socket's error, and whether it is connected. ``woken_by`` can be written to.
    """

    woken_by: socket.socket
    states: list[tuple[int, bool]]
    emptied: int = 0
    connected: bool = field(default=False, init=False)

    def connect(self, _address: tuple[str, int]) -> None:
        raise BlockingIOError

    def fileno(self) -> int:
        return self.woken_by.fileno()

    def getsockopt(self, level: int, option: int) -> int:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_ERROR)
        error, self.connected = self.states.pop(0)
        return error

    def getpeername(self) -> tuple[str, int]:
        if not self.connected:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return "192.0.2.1", 80

    def recvmsg(self, _size: int, _control: int, flags: int) -> None:
        assert flags == socket.MSG_ERRQUEUE
        self.emptied += 1
        if self.emptied > 1:
            raise BlockingIOError


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        yield one, other


def connect(sock: Connecting) -> None:
    begun: list[None] = []

    async def run() -> None:
        async with asyncio.timeout(60):
            address = ("192.0.2.1", 80)
            await tcp.connect(cast("socket.socket", sock), address, lambda: begun.append(None))

    try:
        asyncio.run(run())
    finally:
        assert begun == [None]


def test_an_icmp_error_that_is_told_before_the_socket_has_it_is_no_connection(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    """Linux wakes by the queue of errors, and sets the socket's error a moment later."""
    sock = Connecting(ends[0], [(0, False), (errno.EHOSTUNREACH, False)])
    with pytest.raises(OSError, match=os.strerror(errno.EHOSTUNREACH)):
        connect(sock)
    assert sock.emptied == 1, "or it would be told of that error for ever"


def test_a_connection_that_survives_an_icmp_error_is_one(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    """Linux does so if the error comes while the socket is in use."""
    sock = Connecting(ends[0], [(0, False), (0, False), (0, True)])
    connect(sock)
    assert sock.states == []


def test_a_socket_that_is_closed_without_an_error_is_not_waited_for(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ends[1].close()
    assert tcp._happens(ends[0], select.POLLHUP)
    with pytest.raises(OSError, match=os.strerror(errno.ENOTCONN)):
        connect(Connecting(ends[0], [(0, False)]))


def test_a_connection_is_made() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as sock:
        sock.setblocking(False)
        asyncio.run(tcp.connect(sock, listener.getsockname()))
        assert sock.getpeername() == listener.getsockname()
