"""The socksifier: takes VMs' connections off the bridge and asks the peer's server for them.

TPROXY hands it connections to addresses that are not its own (Linux, Documentation/networking/
tproxy.rst): the accepted socket's own name is where the VM wanted to go.
"""

from __future__ import annotations

import asyncio
import logging
import socket

from fedsdn.config.model import Site
from fedsdn.pipeline.declarations import SOCKSIFIER_LISTEN_PORT, SocketMark
from fedsdn.proxy import socks, transport
from fedsdn.proxy.policy import Policy, Refusal
from fedsdn.proxy.relay import PipePool, Relay, reset
from fedsdn.proxy.socks import Endpoint, Reply, Request, SocksError
from fedsdn.proxy.stats import Counter, WorkerStatistics
from fedsdn.proxy.transparent import listen

_LOG = logging.getLogger(__name__)

REPLY_SECONDS = 75.0
"""How long the peer may take to answer: its own connection attempt has to fit in."""


def listen_for_tenants() -> socket.socket:
    """Listen for what TPROXY hands over.

    Raises:
        OSError: the port is taken, or the process may not be transparent.

    """
    return listen(SOCKSIFIER_LISTEN_PORT, SocketMark.SOCKSIFIER)


class Socksifier:
    """Carries connections that this site's VMs open."""

    def __init__(self, policy: Policy, statistics: WorkerStatistics, pipes: PipePool) -> None:
        """Carry what ``policy`` allows; the policy may be replaced at any time."""
        self.policy = policy
        self._statistics = statistics
        self._pipes = pipes

    async def handle(self, near: socket.socket) -> None:
        """Carry one connection to its end."""
        self._statistics.add(Counter.OUTBOUND)
        self._statistics.add(Counter.OUTBOUND_OPEN)
        try:
            await self._carry(near)
        finally:
            self._statistics.add(Counter.OUTBOUND_OPEN, -1)

    async def _carry(self, near: socket.socket) -> None:
        try:
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client = endpoint(near.getpeername())
        except OSError:  # gone before it was looked at
            near.close()
            return
        destination = endpoint(near.getsockname())
        peer = self.policy.peer_towards(destination.address)
        if isinstance(peer, Refusal):
            self._statistics.refused(Counter.REFUSED_UNFEDERATED, str(client.address), peer)
            reset(near)
            return
        try:
            far = await self._connect(peer, client)
        except OSError as error:
            self._failed(f"site {peer.name}", error.strerror or str(error))
            reset(near)
            return
        except asyncio.CancelledError:
            reset(near)
            raise
        count = self._statistics.add
        relay = Relay(
            near,
            far,
            self._pipes,
            outward=lambda moved: count(Counter.BYTES_SENT, moved),
            inward=lambda moved: count(Counter.BYTES_RECEIVED, moved),
        )
        try:
            await relay.run(far_ready=_ask(far, Request(client, destination)))
        except (OSError, SocksError) as error:
            self._failed(f"{destination} at site {peer.name}", str(error))

    async def _connect(self, peer: Site, client: Endpoint) -> socket.socket:
        """Connect to a peer's server; connections take turns in which path they try first."""
        paths = self.policy.paths(peer)
        first = client.port % len(paths) if paths else 0
        far = await transport.connect(
            paths[first:] + paths[:first], self.policy.federation.proxy_port
        )
        if transport.fell_back(far):
            self._statistics.add(Counter.FALLBACKS)
            self._statistics.say_once(f"site {peer.name}", "no Multipath TCP, only TCP")
        return far

    def _failed(self, what: str, why: str) -> None:
        self._statistics.add(Counter.OUTBOUND_FAILED)
        _LOG.debug("%s: not connected: %s", what, why)


async def _ask(far: socket.socket, request: Request) -> None:
    """Ask the server, and wait for its answer; the VM's first data follows without waiting.

    Raises:
        OSError: the connection broke, or the answer takes too long.
        SocksError: the server refuses.

    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(REPLY_SECONDS):
        await loop.sock_sendall(far, request.encode())
        await _await_success(far)


async def _await_success(far: socket.socket) -> None:
    """Read the server's answer, and not a byte of what follows it."""
    loop = asyncio.get_running_loop()
    answer = b""
    while (reply := socks.parse_response(answer)) is None:
        more = await loop.sock_recv(far, socks.RESPONSE_BYTES - len(answer))
        if not more:
            raise SocksError("the peer closed the connection before it answered")
        answer += more
    if reply is not Reply.SUCCEEDED:
        raise SocksError(f"the peer says {reply.name.lower().replace('_', ' ')}")


def endpoint(name: tuple[str, int, int, int]) -> Endpoint:
    """Endpoint of a dual-stack socket's name."""
    return Endpoint(transport.unmapped(name[0]), name[1])
