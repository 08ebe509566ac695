"""Peers that are asked for connections, over loopback: a pool, and the other ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from ipaddress import ip_address
from typing import cast

from fedsdn.proxy.socks.connection import Connection, Connector
from fedsdn.proxy.socks.order import Order
from fedsdn.proxy.socks.peers import Peers
from fedsdn.proxy.socks.pool import Pool
from fedsdn.proxy.socks.protocol import SELECTION, Reply, Request, encode_reply
from fedsdn.socket_address import SocketAddress
from tests.unit.peer_connections import PEER, connected

CLIENT = SocketAddress(ip_address("10.1.0.11"), 40000)
SERVER = SocketAddress(ip_address("10.2.0.11"), 80)


class FakePool:
    """Has one ready connection, or none."""

    def __init__(self) -> None:
        self.ready: list[Connection] = []
        self.answered = False
        self.looked = asyncio.Event()
        self.given_back: list[Connection] = []

    def take(self, _peer: str) -> Connection | None:
        return self.ready.pop() if self.ready else None

    def is_answered(self, _peer: str, _since: float) -> bool:
        self.looked.set()
        return self.answered

    def give_back(self, connection: Connection) -> None:
        self.given_back.append(connection)
        connection.close()


class Net:
    """Peers that are asked, and the other ends of the connections."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.pool = FakePool()
        self.ends: list[socket.socket] = []
        self.peers = Peers(
            cast("Connector", self),
            cast("Pool", self.pool),
            Order(0),
        )

    async def connect(self, _peer: object) -> Connection:
        connection, end = connected(Connection, lambda *_: None)
        self.ends.append(self._stack.enter_context(end))
        return connection

    async def selected(self, connection: Connection) -> None:
        assert await asyncio.get_running_loop().sock_recv(connection.far, 2) == SELECTION

    async def read(self, end: int, count: int) -> bytes:
        read = b""
        while len(read) < count:
            read += await asyncio.get_running_loop().sock_recv(self.ends[end], count - len(read))
        return read

    async def say(self, end: int, said: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.ends[end], said)


@asynccontextmanager
async def asking(*, ready: bool = True) -> AsyncIterator[tuple[Net, Request]]:
    with ExitStack() as stack:
        net = Net(stack)
        if ready:
            net.pool.ready.append(await net.connect(PEER))
        with net.peers.opening(CLIENT, SERVER) as request:
            yield net, request


SUCCEEDED = encode_reply(Reply.SUCCEEDED)
