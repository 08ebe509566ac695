"""Asking peers for connections on behalf of this site's VMs."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from fedsdn.config.model import AddressPair, Site
from fedsdn.proxy.relay import records
from fedsdn.proxy.relay.peer_relay import fixed_path, is_usable
from fedsdn.proxy.relay.records import Kind
from fedsdn.proxy.sockets import tcp, traffic_class, transport
from fedsdn.proxy.sockets.exchange import readable, send_all
from fedsdn.proxy.sockets.transport import fallen_back
from fedsdn.proxy.socks import parsing, protocol
from fedsdn.proxy.socks.asking import REPLY_SECONDS, ask_plainly
from fedsdn.proxy.socks.connection import Connection, Connector
from fedsdn.proxy.socks.order import Order
from fedsdn.proxy.socks.pool import Pool
from fedsdn.proxy.socks.protocol import Reply, Request, SocksError
from fedsdn.proxy.socks.reading import read_message
from fedsdn.socket_address import SocketAddress

_LOG = logging.getLogger(__name__)

_ATTEMPTS = 3
"""How many times a request is made, if nothing was done for it."""

VANISHED_SECONDS = 1.0
"""How long a request on a ready connection may be unacknowledged before it may be made on another.
The peer may have gone without a word; a subflow on a dead path alone delays it less (RFC 6298: one
time-out)."""

_SURE_RTO_SECONDS = 1.0
"""Where TCP's time-out grows no further, ``pool.SURE_SECONDS`` alone is enough."""

_LOOK_SECONDS = 0.05
"""How often it is looked after that whether the peer answers on others."""

_EARLY_BYTES = 1 << 16
"""The most of the VM's data that a ready connection takes before the answer: more than the first
flight carries (RFC 6928), less than ``window.FIRST_BYTES``."""

ReadEarly = Callable[[int], bytes]
"""Returns the VM's first bytes, at most so many, and takes them off its socket."""


def nothing_early(_most: int) -> bytes:
    """Read nothing: the VM's connection is not open yet."""
    return b""


class Asked:
    """A request that was sent to a peer.

    ``early`` is how many of the VM's bytes went with it.
    """

    def __init__(self, peers: Peers, peer: Site, request: Request, read_early: ReadEarly) -> None:
        """Prepare; the request is sent by ``send``."""
        self._peers = peers
        self._peer = peer
        self._request = request
        self._read_early = read_early
        self._first_data = bytearray()
        """The VM's, in records: kept until the answer, since the peer may ask again for all."""
        self._unsent = b""
        self._connection: Connection | None = None
        self._was_ready = False
        self._reply: Reply | None = None
        self.early = 0

    @property
    def connection(self) -> Connection:
        """The connection to the peer; until the answer it may be replaced.

        Raises:
            OSError: it is being replaced.

        """
        if self._connection is None:
            raise OSError(errno.ENOTCONN, "no connection to the peer")
        return self._connection

    @property
    def far(self) -> socket.socket:
        """The socket of the connection."""
        return self.connection.far

    @property
    def path(self) -> AddressPair | None:
        """The path that the connection depends on, as ``PeerConnection`` has it."""
        return fixed_path(self.far, self._peer)

    @property
    def token(self) -> int:
        """The connection's name in this namespace; 0 if it is plain TCP."""
        return self.connection.managed.token

    def nudge(self) -> None:
        """Wake the peer's kernel."""
        self._peers.connector.nudge(self.connection)

    async def send(self) -> None:
        """Send the request, on a ready connection if there is one.

        Raises:
            OSError: no connection.

        """
        if self._peer.proxy != "fedsdn":
            self._connection = await self._peers.connector.connect(self._peer)
            traffic_class.towards_peer(self.far, self._request.traffic_class)
            return
        ready = self._peers.pool.take(self._peer.name)
        if ready is None or not await self._sent_on(ready):
            await self._send_anew()

    async def _sent_on(self, ready: Connection) -> bool:
        """Send the request on a ready connection; False if that is broken already."""
        self._connection, self._was_ready = ready, True
        try:
            said = self._request.encode()
            await self._write(said, len(said) + records.HEADER.size + _EARLY_BYTES)
        except OSError:
            if self.early:
                raise
            return False
        return True

    async def _send_anew(self) -> None:
        """Send the request on a new connection, with the greeting."""
        self._was_ready = False
        self._close()
        self._connection = await self._peers.connector.connect(self._peer)
        said = protocol.GREETING + self._request.encode()
        await self._write(said, transport.FIRST_SEGMENT_BYTES)

    async def _write(self, said: bytes, most: int) -> None:
        """Send the request, and the VM's first data; these are kept for repetitions.

        No more than ``most`` octets are sent before the answer.
        """
        traffic_class.towards_peer(self.far, self._request.traffic_class)
        room = most - len(said)
        if not self.early and (data := self._read_early(room - records.HEADER.size)):
            self.early = len(data)
            self._first_data += records.record(Kind.DATA, self.early) + data
        self._unsent = bytes(self._first_data[room:])
        await send_all(self.far, said + self._first_data[:room])

    @contextmanager
    def forwarding(self, near: socket.socket) -> Iterator[None]:
        """Send on what ``near``, the VM, says before the answer, if the connection is a ready one.

        A new one takes no more than its first segment until the peer answers.
        """
        if not self._was_ready:
            yield
            return
        loop = asyncio.get_running_loop()
        loop.add_reader(near, self._forward, near)
        try:
            yield
        finally:
            loop.remove_reader(near)

    def _forward(self, near: socket.socket) -> None:
        data = self._read_early(_EARLY_BYTES - self.early) if self._was_ready else b""
        if data:
            self.early += len(data)
            said = records.record(Kind.DATA, len(data)) + data
            self._first_data += said
            sent = 0
            with suppress(OSError):  # a broken connection is found by whoever reads the answer
                sent = self.far.send(said)
            self._unsent = said[sent:]
        if not data or self._unsent or self.early == _EARLY_BYTES:
            asyncio.get_running_loop().remove_reader(near)

    async def answer(self) -> Reply:
        """Return the peer's answer.

        Raises:
            OSError: the connection broke, the peer does not answer in time, or Multipath TCP has
                fallen back to TCP.
            SocksError: what comes is no answer.

        """
        if self._peer.proxy != "fedsdn":
            reply = await ask_plainly(self.far, self._request.destination)
            self._peers.connector.join(self.connection)
            return reply
        for attempt in range(_ATTEMPTS):
            if attempt:
                await self._send_anew()
            reply = await self._reply_or_again()
            usable = is_usable(self.far, self._peer)
            if reply is not Reply.ASK_AGAIN:
                if not usable:
                    raise fallen_back()
                self._reply = reply
                if reply is Reply.SUCCEEDED and self._unsent:
                    await send_all(self.far, self._unsent)
                self._first_data.clear()
                self._unsent = b""
                return reply
        if usable:
            raise OSError(errno.ECONNABORTED, "the peer asks again and again for the request")
        raise fallen_back()

    async def _reply_or_again(self) -> Reply:
        """Read the answer.

        A ready connection may have lost its peer before the request; if no data were with that, it
        may be made again. A peer that has it, and says nothing in time, is not asked twice.
        """
        limit = asyncio.timeout(REPLY_SECONDS)
        try:
            if not self._was_ready:
                await self._peers.connector.selected(self.connection)
            async with limit:
                while not await self._has_vanished():
                    reply = await read_message(self.far, parsing.parse_reply)
                    if reply is not Reply.LEAVING:
                        return reply
                return Reply.ASK_AGAIN
        except (OSError, SocksError) as error:
            if not self._may_repeat or limit.expired():
                raise
            _LOG.debug("site %s: a ready connection is lost: %s", self._peer.name, error)
            return Reply.ASK_AGAIN

    async def _has_vanished(self) -> bool:
        """Wait until the peer says something; True if it has lost the connection instead.

        Packets may be late on all paths, and the VM be connected already. So the request stays
        where it is while the peer answers nowhere else; and besides, until it must have been sent
        again since the peer answered. TCP doubles its time-out each time (RFC 6298), and so waits
        no longer for the next one than it has tried, or than its limit.
        """
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        repeated_at: float | None = None
        seconds = VANISHED_SECONDS
        while self._may_repeat:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await readable(self.far)
                    return False
            if not (self._may_repeat and tcp.unacknowledged(self.far)):
                break
            if self._peers.pool.is_answered(self._peer.name, asked_at):
                now = loop.time()
                if repeated_at is None:
                    beyond = max(0.0, tcp.longest_rto_seconds() - _SURE_RTO_SECONDS)
                    repeated_at = now + min(now - asked_at, beyond)
                if now >= repeated_at:
                    return True
            seconds = _LOOK_SECONDS
        return False

    @property
    def _may_repeat(self) -> bool:
        return self._was_ready and not self.early

    def leave(self) -> None:
        """Close the connection; if the request was refused, it is usable, and is kept instead."""
        refused = self._reply not in (None, Reply.SUCCEEDED)
        if self._connection is not None and refused and not self.early:
            self._peers.pool.give_back(self._connection)
        else:
            self._close()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Peers:
    """What a worker asks of peers' servers."""

    def __init__(self, connector: Connector, pool: Pool, order: Order) -> None:
        """Ask over connections of ``pool``, or new ones."""
        self.connector = connector
        self.pool = pool
        self._order = order

    @contextmanager
    def opening(
        self, client: SocketAddress, destination: SocketAddress, traffic_class: int = 0
    ) -> Iterator[Request]:
        """Take up a VM's SYN, and make the request for its connection.

        It is in order behind what was taken up before; so the block begins before the VM gets any
        answer. It ends when the peer has answered, or will not be asked after all.
        """
        with self._order.asking(client, destination) as (number, after):
            yield Request(client, destination, number, after, traffic_class)

    @asynccontextmanager
    async def asked(
        self, peer: Site, request: Request, read_early: ReadEarly = nothing_early
    ) -> AsyncIterator[Asked]:
        """Send a request to ``peer``; the block has its connection.

        The VM's first data are read when there is a connection to send them on.

        Raises:
            OSError: no connection.

        """
        asked = Asked(self, peer, request, read_early)
        try:
            await asked.send()
            yield asked
        finally:
            asked.leave()
