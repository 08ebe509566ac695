"""Asking peers for connections on behalf of this site's VMs."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

from fedsdn.config.model import AddressPair, Site
from fedsdn.proxy.admission.policy import Policy
from fedsdn.proxy.relay import records
from fedsdn.proxy.relay.peer_relay import Relays, fixed_path
from fedsdn.proxy.relay.poller import running_task
from fedsdn.proxy.relay.records import Kind
from fedsdn.proxy.sockets import transport
from fedsdn.proxy.sockets.live_paths import LivePaths
from fedsdn.proxy.sockets.path_manager import Managed, PathManager
from fedsdn.proxy.sockets.transport import fallen_back
from fedsdn.proxy.socks import protocol
from fedsdn.proxy.socks.asking import ask_plainly, read_reply, read_selection
from fedsdn.proxy.socks.protocol import Reply, Request
from fedsdn.socket_address import SocketAddress

_ATTEMPTS = 3
"""How many times a request is made if the peer refuses it because Multipath TCP had fallen back."""

_WORKER_SHIFT = 26
"""A request's number has the worker's in its upper bits, so that no two of a site are the same."""

ReadEarly = Callable[[int], bytes]
"""Returns the VM's first bytes, at most so many, and takes them off its socket."""


def nothing_early(_most: int) -> bytes:
    """Read nothing: the VM's connection is not open yet."""
    return b""


class Asked:
    """A request that was sent to a peer.

    ``early`` is how many of the VM's bytes went with it. ``far`` is the connection; until the
    answer it may be replaced, as requests are repeated.
    """

    def __init__(self, peers: Peers, peer: Site, request: Request, read_early: ReadEarly) -> None:
        """Prepare; the request is sent by ``send``."""
        self._peers = peers
        self._peer = peer
        self._request = request
        self._read_early: ReadEarly | None = read_early
        self._first = b""
        self._opened = ExitStack()
        self._managed: Managed
        self.early = 0
        self.far: socket.socket

    @property
    def path(self) -> AddressPair | None:
        """The path that the connection depends on, as ``PeerConnection`` has it."""
        return fixed_path(self.far, self._peer)

    @property
    def token(self) -> int:
        """The connection's name in this namespace; 0 if it is plain TCP."""
        return self._managed.token

    def nudge(self) -> None:
        """Wake the peer's kernel."""
        self._peers.path_manager.nudge(self.far)

    async def send(self) -> None:
        """Connect to the peer, and send the request.

        Raises:
            OSError: no connection.

        """
        self.far = self._opened.enter_context(await self._peers.connect(self._peer))
        managing = self._peers.path_manager.managing(
            self.far, self._peer.name, running_task().cancel
        )
        self._managed = self._opened.enter_context(managing)
        if self._peer.proxy == "fedsdn":
            first = self._first_segment()
            await asyncio.get_running_loop().sock_sendall(self.far, first)

    def _first_segment(self) -> bytes:
        """Make the request, with the VM's first data; it is kept for repetitions."""
        if self._read_early is not None:
            read, self._read_early = self._read_early, None
            self._first = protocol.GREETING + self._request.encode()
            room = transport.FIRST_SEGMENT_BYTES - len(self._first) - records.HEADER.size
            if early := read(room):
                self.early = len(early)
                self._first += records.record(Kind.DATA, self.early) + early
        return self._first

    async def answer(self) -> Reply:
        """Return the peer's answer.

        Raises:
            OSError: the connection broke, the peer does not answer in time, or Multipath TCP has
                fallen back to TCP.
            SocksError: what comes is no answer.

        """
        if self._peer.proxy != "fedsdn":
            reply = await ask_plainly(self.far, self._request.destination)
            self._peers.path_manager.join(self._managed)
            return reply
        for _ in range(_ATTEMPTS):
            await read_selection(self.far)
            self._peers.path_manager.join(self._managed)
            reply = await read_reply(self.far)
            if reply is not Reply.ASK_AGAIN:
                if not self._peers.carries(self.far, self._peer):
                    raise fallen_back()
                return reply
            self._opened.close()
            await self.send()
        self._peers.fell_back(self._peer)
        raise fallen_back()

    def close(self) -> None:
        """Close the connection: by a reset, unless it was told to end in order."""
        self._opened.close()


class Peers:
    """The connections of a worker to peers' servers."""

    def __init__(
        self,
        policy: Policy,
        relays: Relays,
        live_paths: LivePaths,
        path_manager: PathManager,
    ) -> None:
        """Connect as ``policy`` says; the policy may be replaced at any time."""
        self.policy = policy
        self.path_manager = path_manager
        self.carries = relays.carries
        self.fell_back = relays.statistics.fell_back
        self._live_paths = live_paths
        self._turns = itertools.count()
        self._first_number = relays.statistics.number << _WORKER_SHIFT
        self._requests = itertools.count()

    @contextmanager
    def opening(
        self, client: SocketAddress, destination: SocketAddress, traffic_class: int = 0
    ) -> Iterator[Request]:
        """Make the request for a connection, in the order in which VMs open them.

        The block makes it, and ends when the peer has answered, or when it is not made after all.
        """
        place = next(self._requests) % ((1 << _WORKER_SHIFT) - 1)
        yield Request(client, destination, self._first_number + place + 1, 0, traffic_class)

    @asynccontextmanager
    async def asked(
        self, peer: Site, request: Request, read_early: ReadEarly = nothing_early
    ) -> AsyncIterator[Asked]:
        """Send a request to ``peer``; its connection is closed after the block.

        The VM's first data are read when there is a connection to send them on.

        Raises:
            OSError: no connection.

        """
        asked = Asked(self, peer, request, read_early)
        try:
            await asked.send()
            yield asked
        finally:
            asked.close()

    async def connect(self, peer: Site) -> socket.socket:
        """Connect to a peer's server; the live path that is tried first rotates.

        Raises:
            OSError: no path answers, or Multipath TCP has fallen back to TCP.

        """
        paths = self._live_paths.live_first(self.policy.paths(peer, next(self._turns)), peer)
        port = self.policy.federation.proxy_port
        far = await transport.connect(paths, port)
        if self.carries(far, peer):
            return far
        far.close()
        if peer.proxy == "fedsdn":
            raise fallen_back()
        return await transport.connect(paths, port, socket.IPPROTO_TCP)
