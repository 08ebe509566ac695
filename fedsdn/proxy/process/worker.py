"""A worker: one event loop, with a listener of its own for each role."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
import socket
from collections.abc import Set
from contextlib import ExitStack, closing, suppress
from functools import cache, partial

from fedsdn.channel.client import ChannelClient
from fedsdn.channel.messages import PathsMessage
from fedsdn.channel.report import Report
from fedsdn.channel.server import CHANNEL_SOCKET
from fedsdn.config.model import AddressPair
from fedsdn.config.watch import WatchedFederation
from fedsdn.errors import FedsdnError
from fedsdn.identity.own_files import follow, version
from fedsdn.identity.store import load
from fedsdn.mptcp.connection import open_pairs
from fedsdn.proxy.admission.carried import Carried
from fedsdn.proxy.admission.policy import Policy
from fedsdn.proxy.admission.revocation import revoked
from fedsdn.proxy.admission.shares import Owner
from fedsdn.proxy.admission.slots import Slots
from fedsdn.proxy.admission.turns import Turns
from fedsdn.proxy.admission.unproven import WIND_UP_SECONDS, Unproven
from fedsdn.proxy.ended.record import Ended, Reason, Who
from fedsdn.proxy.opening.device import HeldDevice, HeldQueue
from fedsdn.proxy.opening.held import Openings
from fedsdn.proxy.process.doors import Doors, Word, close_all, hear, say
from fedsdn.proxy.process.drain import drain
from fedsdn.proxy.process.entrance import Accepting, Entrance
from fedsdn.proxy.process.listener import Listener
from fedsdn.proxy.process.parts import Parts, callbacks_failing
from fedsdn.proxy.process.place import Place
from fedsdn.proxy.process.readiness import until_paths_are_known
from fedsdn.proxy.relay.buffers import BufferPool
from fedsdn.proxy.relay.peer_relay import Relays
from fedsdn.proxy.relay.poller import Poller
from fedsdn.proxy.relay.vm_watch import Sweep
from fedsdn.proxy.relay.window import Budget
from fedsdn.proxy.sockets import transport
from fedsdn.proxy.sockets.live_paths import LivePaths
from fedsdn.proxy.sockets.path_manager import PathManager, Paths
from fedsdn.proxy.sockets.readable import when_readable
from fedsdn.proxy.socks import socksifier
from fedsdn.proxy.socks.connection import Connection, Connector
from fedsdn.proxy.socks.order import Order
from fedsdn.proxy.socks.parked import Parked
from fedsdn.proxy.socks.peers import Peers
from fedsdn.proxy.socks.pool import Pool
from fedsdn.proxy.socks.sequence import Sequence
from fedsdn.proxy.socks.server import Server
from fedsdn.proxy.socks.socksifier import Means, Socksifier
from fedsdn.proxy.stats import Counter
from fedsdn.proxy.tls.contexts import Tls
from fedsdn.uplinks.status import STALE_SECONDS

_LOG = logging.getLogger(__name__)

_CARRYING = 5 / 8
"""The part of the descriptors for running connections, each of which needs two."""

_WAITING = 3 / 16
"""The part for connections that wait for a slot. The rest is for second attempts."""

_UNPROVEN = 1 / 16
"""The part for callers that have not proved to be a peer, but ``_MOST_UNPROVEN`` are enough."""

_MOST_UNPROVEN = 512
"""What OpenSSL keeps for all these at most is 60 MB."""

_CALLERS_AT_ONCE = 8
"""So many callers are taken in a round of the event loop: each costs 0.2 ms before it has to wait
for a turn of ``Steps``."""

_READY = 1 / 32
"""The part for connections to peers that are ready for a request."""

_PARKED = 1 / 16
"""The part for connections of peers that wait for a request of theirs."""

_PEERS_SHARE = 7 / 8
"""The share of one peer: more than that of a VM of ours, so that its other VMs are not cut off."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that a worker handles; its parent blocks them until it does."""


async def run(federation: WatchedFederation, site: str, place: Place, drain_seconds: float) -> None:
    """Carry connections until SIGTERM; a second one resets those left.

    What is new comes by the doors that the parent says; when it says to leave, they are given away,
    and the worker ends with its last connection.

    Raises:
        OSError: the worker cannot listen.
        ExceptionGroup: a part of the worker has failed. Its connections are left to the process's
            end, which resets them.

    """
    with ExitStack() as opened:
        worker = _Worker(federation, site, place, opened)
        async with asyncio.TaskGroup() as group:
            parts = Parts(group)
            worker.start(parts)
            await worker.stop.wait()
            await worker.take_no_more()
            await drain(worker.connections, drain_seconds, worker.at_once, worker.reset)
            await parts.end_all()


class _Worker:
    """Opens what the connections of a worker share; ``opened`` closes it."""

    def __init__(
        self, federation: WatchedFederation, site: str, place: Place, opened: ExitStack
    ) -> None:
        self._federation = federation
        self._site = site
        self._place = place
        self._statistics = statistics = place.statistics
        self._policy = self._policy_now()
        self._keys = version(place.identity)  # before they are read
        load_own = partial(load, place.identity)
        self._tls = Tls(place.shared.tls, load_own, self._policy, self._count_handshake)
        self._carried = Carried(statistics.ended)
        self._reloading = asyncio.Lock()
        self._poller = opened.enter_context(closing(Poller(self._reset_after_fault)))
        self._live_paths = LivePaths()
        self._told_paths = asyncio.Event()
        self._path_manager = opened.enter_context(
            closing(PathManager(self._usable_paths, lambda: self._policy.federation.proxy_port))
        )
        report = Report()
        self._channel = ChannelClient(
            *(CHANNEL_SOCKET, statistics.number, report),
            *(self._take_paths, self._reload, lambda: self._carried.peers),
        )
        self._carried.begun = self._channel.need
        self._sweep = Sweep(self._poller.reset_after_fault)
        relays = Relays(
            *(self._poller, BufferPool(), Budget(), self._sweep, statistics, self._carried.note)
        )
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._connector = Connector(
            self._policy, self._live_paths, self._path_manager, self._carried.end, self._tls
        )
        self._pool = Pool(
            *(int(limit * _READY), self._connector.make_ready, self._counts),
            *(self._poller, self._carried, statistics),
        )
        self._slots = Slots(int(limit * _CARRYING) // 2, int(limit * _WAITING), self._note_fault)
        self._parked = Parked(int(limit * _PARKED), self._carried, statistics)
        device = opened.enter_context(closing(HeldDevice(statistics.number)))
        self._socksifier = self._make_socksifier(relays, report, device)
        self._server = self._make_server(relays, report)
        self._unproven = self._make_unproven(limit)
        self.stop = asyncio.Event()
        self.at_once = asyncio.Event()
        listening = socksifier.listen_for_vms(statistics.number)
        self._vms_listener = Listener(listening, self._socksifier.accept)
        self._entrances: list[Entrance] = []

    def _make_socksifier(self, relays: Relays, report: Report, device: HeldDevice) -> Socksifier:
        number, shared = self._statistics.number, self._place.shared
        count_held = partial(self._statistics.add, Counter.OUTBOUND_HELD)
        self._openings = Openings(number, shared.held, count_held)
        means = Means(
            relays,
            report,
            self._carried,
            Peers(self._connector, self._pool, Order(number)),
            self._live_paths,
            shared.known,
            self._openings,
            device,
            self._slots,
        )
        return Socksifier(self._policy, means)

    def _make_server(self, relays: Relays, report: Report) -> Server:
        shared = self._place.shared
        return Server(
            self._policy,
            relays,
            report,
            self._carried,
            self._channel.restore,
            self._path_manager,
            Turns(self._place.workers),
            shared.held,
            Sequence(shared.begun),
            self._parked,
            lambda peer, work, refuse: self._slots.take(peer, _PEERS_SHARE, work, refuse),
            self._tls,
        )

    def _make_unproven(self, limit: int) -> Unproven:
        most = min(int(limit * _UNPROVEN), _MOST_UNPROVEN)
        server, keep = self._server, self._statistics.ended
        return Unproven(most, server.peer_behind, server.meet, keep)

    def start(self, parts: Parts) -> None:
        """Start the parts, and take signals from now on."""
        self._parts = parts
        parts.last("event loop", callbacks_failing())
        parts.last("poller", self._poller.run())
        parts.last("sweep", self._sweep.run())
        parts.last("path manager", self._path_manager.run())
        parts.last("look at keys", follow(self._place.identity, self._take_keys, self._keys))
        self._keeping_ready = parts.last("pool", self._pool.run())
        parts.last("channel", self._channel.run())
        self._vms = Accepting(parts, "listener for VMs", self._vms_listener)
        control = self._place.control
        parts.last("parent", when_readable(control.fileno(), self._obey))
        self._handle_signals()
        parts.once("beginning", self._say_ready())

    async def _say_ready(self) -> None:
        await until_paths_are_known(self._told_paths, lambda: self._channel.is_open)
        with suppress(OSError):  # the parent has ended, and this process does
            say(self._place.control, Word.READY)

    def _obey(self) -> None:
        """Do what the parent says next."""
        word, doors = hear(self._place.control)
        if word is Word.LEAVE:
            self._parts.once("farewell", self._leave())
        elif self.stop.is_set():
            close_all(doors)
        elif word is Word.OPEN:
            self._enter(Doors.opened(self._policy.federation.proxy_port, self._place.queue))
        else:
            for each in doors:
                self._enter(each)
            self._parts.once("other port", self._check_port())

    def _enter(self, doors: Doors) -> None:
        """Take what comes by these doors."""
        listener = self._peers_listener(socket.socket(fileno=doors.peers))
        queue = HeldQueue(doors.queue, self._place.order)
        self._entrances.append(Entrance(self._parts, listener, queue, self._socksifier.take))

    async def _leave(self) -> None:
        """Give the doors away, and end with the last connection that is here."""
        async with self._reloading:
            entrances, self._entrances = self._entrances, []
            given = [await entrance.give_away() for entrance in entrances]
        say(self._place.control, Word.DOORS, *given)
        for doors in given:
            doors.close()
        self._parked.leave()
        await self._parts.end(self._keeping_ready)
        await self._reload()
        await self._unproven.wind_up()
        while carried := {*self._slots.tasks, *self._parked.tasks}:
            await asyncio.wait(carried)
        self.stop.set()

    def _policy_now(self) -> Policy:
        """Return the policy of the federation file as it is now, and log its warnings."""
        policy = Policy.at(self._federation.current, self._site)
        if self._place.first:
            for warning in policy.warnings():
                _LOG.warning("%s", warning)
        return policy

    def _reset_after_fault(self, task: asyncio.Task[object], error: Exception) -> None:
        self._carried.end(task, Reason.FAULT, Who.HERE, f"{type(error).__name__}: {error}")

    def _count_handshake(self, resumed: bool) -> None:
        self._statistics.add(Counter.HANDSHAKES)
        self._statistics.add(Counter.RESUMED, int(resumed))

    def _note_fault(self, owner: Owner, error: BaseException) -> None:
        """Keep a record of a connection of ``owner`` whose handler has failed."""
        detail = f"{type(error).__name__}: {error}; a connection of {owner}"
        self._statistics.ended(Ended(Reason.FAULT, Who.HERE, detail=detail))

    def _peers_listener(self, sock: socket.socket) -> Listener:
        sock.setblocking(False)
        return Listener(sock, self._unproven.take, self._slots.full, _CALLERS_AT_ONCE)

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._told_to_stop)
        # A terminal sends these to the parent too, and that tells its workers what follows.
        for number in (signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, lambda: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _told_to_stop(self) -> None:
        if self.stop.is_set():
            self.at_once.set()
        self.stop.set()

    def _take_paths(self, message: PathsMessage) -> None:
        """Take up what the application says about paths."""
        if self._live_paths.take(message):
            self._path_manager.look()
        if message.more:
            return
        self._told_paths.set()
        self._path_manager.look_in(STALE_SECONDS)
        usable = cache(self._usable_pairs)  # once for each peer, not for each connection
        self._pool.renew(lambda one: one.is_on(usable(one.peer.name)))
        self._parked.dismiss(lambda far, peer: _has_subflow_on(far, usable(peer)))

    def _usable_pairs(self, peer_name: str) -> Set[AddressPair]:
        return {
            (own.address.ip, other.peer_address) for own, other in self._usable_paths(peer_name)
        }

    def _usable_paths(self, peer_name: str) -> Paths:
        peer = self._policy.federation.find_site(peer_name)
        if peer is None:
            return ()  # the federation file has it no more
        return self._live_paths.usable(self._policy.paths(peer, 0), peer)

    async def _reload(self) -> int:
        """Take up the federation file as it is now; return how many connections were reset."""
        async with self._reloading:
            # In a thread: to read a large file takes a second, and connections go on meanwhile.
            if not await asyncio.to_thread(self._federation.refresh, force=True):
                return 0
            before, now = self._policy, await asyncio.to_thread(self._policy_now)
            self._policy = self._connector.policy = now
            self._socksifier.policy = self._server.policy = now
            self._take_keys()
            self._path_manager.look()
            await self._listen_anew()
            return await self._carried.reset(lambda flow: revoked(flow, before, now))

    def _take_keys(self) -> None:
        """Take up this host's keys, and end what waits for a request with others than now."""
        try:
            self._tls.take(self._policy)
        except (FedsdnError, OSError) as error:
            if self._place.first:
                _LOG.error("%s; going on with the keys as they were", error)
        self._pool.renew(self._counts)
        self._parked.dismiss(self._tls.still_counts)

    def _counts(self, connection: Connection) -> bool:
        return self._tls.is_as_now(connection.far, connection.peer.name)

    async def _check_port(self) -> None:
        async with self._reloading:
            await self._listen_anew()

    async def _listen_anew(self) -> None:
        """Listen where the federation file says."""
        port = self._policy.federation.proxy_port
        for entrance in self._entrances:
            if entrance.port != port:
                try:
                    listener = self._peers_listener(transport.listen(port))
                except OSError as error:
                    _LOG.error("port %d: %s", port, error.strerror)
                    return
                await entrance.listen_anew(listener)

    @property
    def connections(self) -> set[asyncio.Task[None]]:
        """The tasks of the connections that run."""
        return set(self._slots.tasks)

    def reset(self, connection: asyncio.Task[None]) -> None:
        """Reset a connection because the worker stops."""
        self._carried.end(connection, Reason.STOPPING, Who.HERE)

    async def take_no_more(self) -> None:
        """Take no more connections; VMs end the handshakes that they are in."""
        self._told_paths.set()  # nobody waits for that any more
        entrances, self._entrances = self._entrances, []
        for entrance in entrances:
            await entrance.close()
        await self._unproven.wind_up(WIND_UP_SECONDS)
        await self._openings.wind_up()
        await self._vms.end()
        self._parked.close()
        self._slots.run_all()


def _has_subflow_on(far: socket.socket, pairs: Set[AddressPair]) -> bool:
    """Whether an open subflow of a connection is between one of these pairs of addresses."""
    return any(is_open and pair in pairs for pair, is_open in open_pairs(far).items())
