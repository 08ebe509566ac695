"""A connection with one peer's server, and making it ready for a request."""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Set
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial

from fedsdn.config.model import Address, AddressPair, Site
from fedsdn.damped_log import DampedLog
from fedsdn.mptcp.connection import open_pairs
from fedsdn.proxy.admission.policy import Policy
from fedsdn.proxy.ended.record import Reason, Who
from fedsdn.proxy.relay.peer_relay import is_usable
from fedsdn.proxy.relay.poller import running_task
from fedsdn.proxy.sockets import tcp, transport
from fedsdn.proxy.sockets.exchange import send_all
from fedsdn.proxy.sockets.live_paths import LivePaths
from fedsdn.proxy.sockets.path_manager import Managed, PathManager, Paths
from fedsdn.proxy.sockets.transport import fallen_back
from fedsdn.proxy.socks import protocol
from fedsdn.proxy.socks.asking import read_selection
from fedsdn.proxy.socks.protocol import SocksError
from fedsdn.proxy.tls.contexts import Tls
from fedsdn.proxy.tls.secured import Secured, TlsError

_LOG = logging.getLogger(__name__)

_HANDSHAKES = 24
"""With one peer at a time: hundreds a second on a path of 50 ms, more than a processor makes."""

_TURN_SECONDS = transport.ATTEMPT_SECONDS
"""How long one waits for others, which may wait in vain for a path that is dead."""

EndTask = Callable[[asyncio.Task[object], Reason, Who, str], object]
"""Ends the connection of a task: why, by whom, and a few words."""


@dataclass(slots=True, eq=False)
class Connection:
    """A connection to ``peer``; ``opened`` closes it."""

    far: socket.socket
    peer: Site
    managed: Managed
    opened: ExitStack
    end_task: EndTask

    def belongs_to_this_task(self) -> None:
        """Have the running task cancelled when the peer has lost the connection."""
        self.managed.give_up = partial(self.end_task, running_task())

    def has_subflow(self) -> bool:
        """Whether a request would reach the peer, as far as the kernel knows."""
        return any(open_pairs(self.far).values())

    def is_on(self, pairs: Set[AddressPair]) -> bool:
        """Whether all its subflows are between these; others may be without an answer."""
        return open_pairs(self.far).keys() <= pairs

    def close(self) -> None:
        """Close it: by a reset, unless it was told to end in order."""
        self.opened.close()

    def end(self) -> None:
        """End it in order."""
        tcp.end_in_order(self.far)
        self.opened.close()


class Connector:
    """Makes connections to peers' servers."""

    def __init__(
        self,
        policy: Policy,
        live_paths: LivePaths,
        path_manager: PathManager,
        end_task: EndTask,
        tls: Tls,
    ) -> None:
        """Connect as ``policy`` says; the policy may be replaced at any time."""
        self.policy = policy
        self._tls = tls
        self._log = DampedLog(_LOG)
        self._end_task = end_task
        self._live_paths = live_paths
        self._path_manager = path_manager
        self._turns = itertools.count()
        self._handshakes: dict[str, asyncio.Semaphore] = {}
        """Places of each peer."""

    async def connect(self, peer: Site) -> Connection:
        """Connect to a peer's server.

        Raises:
            OSError: no path answers, or Multipath TCP has fallen back to TCP.
            TlsError: who answers is not the peer.

        """
        if not self.policy.is_encrypted(peer):
            return await self._begin(peer, encrypted=False)
        async with self._few_at_a_time(peer):
            return await self._begin(peer, encrypted=True)

    @asynccontextmanager
    async def _few_at_a_time(self, peer: Site) -> AsyncIterator[None]:
        """Wait with a handshake while many are under way with a peer; for a moment at most.

        Its server sheds callers that are not proven when there are too many of them
        (``admission.unproven``): of a crowd that begins at once none would be proven in time.
        """
        places = self._handshakes.setdefault(peer.name, asyncio.Semaphore(_HANDSHAKES))
        has_place = False
        with suppress(TimeoutError):
            async with asyncio.timeout(_TURN_SECONDS):
                has_place = await places.acquire()
        try:
            yield
        finally:
            if has_place:
                places.release()

    async def _begin(self, peer: Site, *, encrypted: bool) -> Connection:
        """Connect, and make the handshake: once more from another uplink if it is reset.

        The peer's server may have shed us for somebody who calls in our name (``unproven``), on one
        uplink's network or on all.
        """
        paths = self._paths(peer)
        far = await self._connect(peer, paths)
        own = tcp.unmapped(far.getsockname()[0])
        try:
            return await self._proven(far, peer, encrypted=encrypted)
        except (ConnectionResetError, BrokenPipeError) as error:
            _LOG.debug("site %s: a handshake from %s is reset: %s", peer.name, own, error)
        far = await self._connect(peer, self._rather_not_from(own, paths, peer))
        return await self._proven(far, peer, encrypted=encrypted)

    async def _proven(self, far: socket.socket, peer: Site, *, encrypted: bool) -> Connection:
        """Make the handshake of a connection, which is closed if that fails."""
        with ExitStack() as opened:
            if encrypted:
                far = self._tls.calling(far, peer)
            opened.enter_context(far)
            give_up = partial(self._end_task, running_task())
            managed = opened.enter_context(self._path_manager.managing(far, peer.name, give_up))
            if isinstance(far, Secured):
                with self._warning(peer):
                    await self._tls.prove(far, peer)
            return Connection(far, peer, managed, opened.pop_all(), self._end_task)

    async def make_ready(self, name: str) -> Connection:
        """Connect to one of our servers, and do all that needs no request.

        Raises:
            OSError: the connection cannot be made, or broke; or the federation file has no such
                site any more.
            SocksError: the server does not speak our SOCKS.

        """
        peer = self.policy.federation.find_site(name)
        if peer is None:
            raise OSError(errno.ENETUNREACH, f"site {name} is no peer any more")
        connection = await self.connect(peer)
        try:
            await send_all(connection.far, protocol.GREETING)
            await self.selected(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    async def selected(self, connection: Connection) -> None:
        """Read the server's answer to the greeting, and open the other subflows.

        Raises:
            OSError: the connection broke, or the peer refuses our certificate.
            SocksError: the server does not speak our SOCKS.

        """
        with self._warning(connection.peer):
            await read_selection(connection.far)
        self._tls.remember(connection.far, connection.peer)
        self.join(connection)

    @contextmanager
    def _warning(self, peer: Site) -> Iterator[None]:
        """Log that a peer is not proven, or not convinced, if the block finds that."""
        try:
            yield
        except (OSError, SocksError) as error:
            self._tls.forget(peer)
            if isinstance(error, TlsError):
                text = f"site {peer.name}: {error.reason} by {error.who}: {error.detail}"
                self._log.say(logging.WARNING, (peer.name, error.reason, error.who), text)
            raise

    def join(self, connection: Connection) -> None:
        """Open the other subflows of a connection that the peer has answered on."""
        self._path_manager.join(connection.managed)

    def nudge(self, connection: Connection) -> None:
        """Wake the peer's kernel."""
        self._path_manager.nudge(connection.far)

    def _paths(self, peer: Site) -> Paths:
        """Return the paths in the order to try them; the live one that is first rotates."""
        return self._live_paths.live_first(self.policy.paths(peer, next(self._turns)), peer)

    def _rather_not_from(self, own: Address, paths: Paths, peer: Site) -> Paths:
        """Put usable paths from other uplinks than that with the address ``own`` first."""
        usable = self._live_paths.usable(paths, peer)
        others = [path for path in usable if path[0].address.ip != own]
        return [*others, *(path for path in paths if path not in others)]

    async def _connect(self, peer: Site, paths: Paths) -> socket.socket:
        port = self.policy.federation.proxy_port
        at_once = self._live_paths.at_once(paths, peer)
        far = await transport.connect(paths, port, at_once=at_once)
        if is_usable(far, peer):
            return far
        far.close()
        if peer.proxy == "fedsdn":
            raise fallen_back()
        return await transport.connect(paths, port, socket.IPPROTO_TCP)
