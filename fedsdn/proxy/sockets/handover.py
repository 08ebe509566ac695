"""Handing a VM's socket from one worker to another.

Two VMs may connect to each other at once, from the same two ports (simultaneous open, RFC 9293,
section 3.5). Each site then has an accepted socket of its own VM already when the peer asks for the
same addresses and ports the other way round. Which worker has that socket, only that worker knows:
so all are asked, by datagrams on abstract Unix sockets (unix(7)), which belong to the proxy's
network namespace. The answer carries a duplicate of the socket (SCM_RIGHTS), or nothing.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import NoReturn

from fedsdn.mptcp.connection import tcp_info
from fedsdn.mptcp.info import ESTABLISHED
from fedsdn.proxy.sockets.readable import when_readable
from fedsdn.socket_address import SocketAddress

ANSWER_SECONDS = 0.5
"""How long the other workers may take to answer; who does not, has not got the socket."""

_OFFERED_SECONDS = 10.0
"""How long after its beginning a connection may turn out to be half of a simultaneous open."""

_NAME = "\0fedsdn-handover-{}"
_MOST_BYTES = 256
_CREDENTIALS = struct.Struct("3i")
_SPACE = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(struct.calcsize("i"))

Ends = tuple[SocketAddress, SocketAddress]
"""The VM that opened a connection, and where it wanted to go."""


@dataclass(slots=True)
class Offer:
    """A VM's socket; ``taken`` says whether another connection brings what goes to the VM.

    ``on_taken`` is called when that becomes true.
    """

    near: socket.socket
    until: float
    taken: bool = False
    on_taken: Callable[[], None] = lambda: None


class Handover:
    """What one worker offers to others, and asks them for."""

    def __init__(self, worker: int, workers: int) -> None:
        """Be known to the other ``workers`` as the one with the number ``worker``.

        They are answered while ``run`` does.

        Raises:
            OSError: another process answers in this worker's name.

        """
        self._others = [_NAME.format(number) for number in range(workers) if number != worker]
        self._offers: dict[Ends, Offer] = {}
        self._loop = asyncio.get_running_loop()
        self._socket = _datagrams(_NAME.format(worker))

    async def run(self) -> NoReturn:
        """Answer the other workers until cancelled."""
        await when_readable(self._socket.fileno(), self._answer)

    def close(self) -> None:
        """Be known no more."""
        self._socket.close()

    @contextmanager
    def offering(
        self, client: SocketAddress, destination: SocketAddress, near: socket.socket
    ) -> Iterator[Offer]:
        """Offer ``near``, on which ``client`` opened a connection, while it is young."""
        offer = Offer(near, self._loop.time() + _OFFERED_SECONDS)
        self._offers[client, destination] = offer
        try:
            yield offer
        finally:
            if self._offers.get((client, destination)) is offer:
                del self._offers[client, destination]

    def _take(self, ends: Ends) -> socket.socket | None:
        """Mark an offer as taken and return its socket, if there is one."""
        offer = self._offers.get(ends)
        if offer is None or self._loop.time() > offer.until:
            return None
        if tcp_info(offer.near).state != ESTABLISHED:  # one end has finished
            return None
        offer.taken = True
        offer.on_taken()
        return offer.near

    async def taken(
        self, client: SocketAddress, destination: SocketAddress
    ) -> socket.socket | None:
        """Return a duplicate of the socket on which ``client`` opened a connection, if any.

        It is non-blocking, and the caller's to close.
        """
        if near := self._take((client, destination)):
            duplicate = near.dup()
            duplicate.setblocking(False)
            return duplicate
        if not self._others:
            return None
        with _datagrams("") as asking:
            question = _encode(client, destination)
            asked = 0
            for name in self._others:
                with suppress(OSError):  # it is not there, or has too much to do
                    asking.sendto(question, name)
                    asked += 1
            with suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_SECONDS):
                    return await self._first_of(asking, asked)
        return None

    async def _first_of(self, asking: socket.socket, count: int) -> socket.socket | None:
        """Return the socket that comes with one of so many answers, if one does."""
        for _ in range(count):
            while True:
                with suppress(BlockingIOError):
                    _, descriptors, _ = _receive(asking)
                    break
                await self._readable(asking)
            if descriptors:
                found = socket.socket(fileno=descriptors[0])
                found.setblocking(False)
                return found
        return None

    async def _readable(self, sock: socket.socket) -> None:
        news: asyncio.Future[None] = self._loop.create_future()

        def wake() -> None:
            if not news.done():
                news.set_result(None)

        self._loop.add_reader(sock.fileno(), wake)
        try:
            await news
        finally:
            self._loop.remove_reader(sock.fileno())

    def _answer(self) -> None:
        try:
            question, descriptors, whom = _receive(self._socket)
        except BlockingIOError:
            return
        for descriptor in descriptors:
            os.close(descriptor)
        if not whom:
            return  # a sender without a name cannot be answered
        ends = _decode(question)
        near = None if ends is None else self._take(ends)
        with suppress(OSError):  # whoever asked has gone, or does not read
            if near is None:
                self._socket.sendto(b"-", whom)
            else:
                # (socket.send_fds of Python 3.11 takes no notice of the address.)
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", near.fileno()))
                self._socket.sendmsg([b"+"], [rights], 0, whom)


def _datagrams(name: str) -> socket.socket:
    """Make a socket called ``name``; without one the kernel makes a name up."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        sock.bind(name)
    except OSError:
        sock.close()
        raise
    return sock


def _receive(sock: socket.socket) -> tuple[bytes, list[int], str]:
    """Return a datagram, its descriptors and its sender; nothing is in it if not from our user.

    Raises:
        BlockingIOError: there is none.

    """
    data, ancillary, _, sender = sock.recvmsg(_MOST_BYTES, _SPACE)
    descriptors, ours = [], False
    for _, kind, content in ancillary:
        if kind == socket.SCM_RIGHTS:
            descriptors += [number for (number,) in struct.iter_unpack("i", content)]
        elif kind == socket.SCM_CREDENTIALS:
            _, user, _ = _CREDENTIALS.unpack(content)
            ours = user == os.geteuid()
    if not ours:
        for descriptor in descriptors:
            os.close(descriptor)
        return b"", [], sender
    return data, descriptors, sender


def _encode(client: SocketAddress, destination: SocketAddress) -> bytes:
    ends = (client, destination)
    return json.dumps([[str(one.address), one.port] for one in ends]).encode()


def _decode(question: bytes) -> Ends | None:
    try:
        (client, port), (destination, destination_port) = json.loads(question)
        if not (isinstance(port, int) and isinstance(destination_port, int)):
            return None
        return (
            SocketAddress(ip_address(client), port),
            SocketAddress(ip_address(destination), destination_port),
        )
    except (ValueError, TypeError):
        return None
