"""A worker: one event loop with a listener of its own for each role."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
from typing import Any

from fedsdn.channel.client import ChannelClient
from fedsdn.channel.report import Report
from fedsdn.channel.server import CHANNEL_SOCKET
from fedsdn.config.watch import WatchedFederation
from fedsdn.proxy.admission.carried import Carried
from fedsdn.proxy.admission.policy import Policy
from fedsdn.proxy.admission.revocation import revoked
from fedsdn.proxy.admission.slots import Slots
from fedsdn.proxy.admission.turns import Turns
from fedsdn.proxy.process.listener import Listener
from fedsdn.proxy.relay.buffers import BufferPool
from fedsdn.proxy.relay.peer_relay import Means
from fedsdn.proxy.relay.poller import Poller
from fedsdn.proxy.relay.window import Budget
from fedsdn.proxy.sockets import transport
from fedsdn.proxy.sockets.handover import Handover
from fedsdn.proxy.socks import socksifier
from fedsdn.proxy.socks.server import Server
from fedsdn.proxy.socks.socksifier import Socksifier
from fedsdn.proxy.stats import WorkerStatistics
from fedsdn.uplinks.status import status_from

_LOG = logging.getLogger(__name__)

_CARRYING = 5 / 8
"""The part of the descriptors that is for running connections, two for each."""

_WAITING = 1 / 4
"""The part for connections that wait for a slot. What is left is for second attempts."""

_VMS_SHARE = 5 / 8
"""What one VM of this site may take of all connections before others come first."""

_PEERS_SHARE = 7 / 8
"""What one peer may take: more than a VM of its own, so that its other VMs are not cut off."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that a worker handles; whoever starts it blocks them until then."""


async def run(
    federation: WatchedFederation,
    site: str,
    statistics: WorkerStatistics,
    workers: int,
    drain_seconds: float,
) -> None:
    """Carry, as one of so many ``workers``, until SIGTERM; a second one resets what is left then.

    Raises:
        OSError: the worker cannot listen.

    """
    worker = _Worker(federation, site, statistics, workers)
    worker.handle_signals()
    await worker.stop.wait()
    worker.close_listeners()
    await _drain(worker.connections, drain_seconds, worker.at_once)
    worker.close()


class _Worker:
    def __init__(
        self,
        federation: WatchedFederation,
        site: str,
        statistics: WorkerStatistics,
        workers: int,
    ) -> None:
        self._federation = federation
        self._site = site
        self._poller = Poller()
        self._statistics = statistics
        means = Means(self._poller, BufferPool(), Budget(), statistics)
        self._carried = Carried()
        self._reloading = asyncio.Lock()
        self._by_signal: set[asyncio.Task[int]] = set()
        policy = self._policy()
        report = Report()
        self._channel = ChannelClient(
            CHANNEL_SOCKET, statistics.number, report, self._take_status, self._reload
        )
        self._handover = Handover(statistics.number, workers)
        self._socksifier = Socksifier(policy, means, report, self._carried, self._handover)
        self._server = Server(
            policy,
            means,
            report,
            self._carried,
            self._channel.restore,
            self._socksifier.path_manager,
            Turns(workers),
            self._handover,
        )
        self._talk = asyncio.create_task(self._channel.run())
        self._managing = asyncio.create_task(self._socksifier.path_manager.run())
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._slots = Slots(int(limit * _CARRYING) // 2, int(limit * _WAITING))
        self._peers = self._listen_for_peers(policy)
        self._tenants = Listener(
            socksifier.listen_for_tenants(), self._socksifier.handle, self._slots, _VMS_SHARE
        )
        self.stop = asyncio.Event()
        self.at_once = asyncio.Event()

    def _policy(self) -> Policy:
        """Return what the federation file allows now, and say what it takes away."""
        policy = Policy.at(self._federation.current, self._site)
        for warning in policy.warnings():
            self._statistics.say_once(warning)
        return policy

    def _listen_for_peers(self, policy: Policy) -> Listener:
        listener = transport.listen(policy.federation.proxy_port)
        return Listener(
            listener, self._server.handle, self._slots, _PEERS_SHARE, self._server.peer_called
        )

    def handle_signals(self) -> None:
        """Take signals from now on."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._told_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._hangup)
        # A terminal sends SIGINT to the parent too, and that says SIGTERM to its workers.
        loop.add_signal_handler(signal.SIGINT, lambda: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _told_to_stop(self) -> None:
        if self.stop.is_set():
            self.at_once.set()
        self.stop.set()

    def _take_status(self, document: dict[str, Any]) -> None:
        self._socksifier.take(status_from(document))

    def _hangup(self) -> None:
        task = asyncio.get_running_loop().create_task(self._reload())
        self._by_signal.add(task)
        task.add_done_callback(self._by_signal.discard)

    async def _reload(self) -> int:
        """Go by the federation file as it is now; return how many connections that has reset."""
        async with self._reloading:
            if not self._federation.refresh(force=True):
                return 0
            before, now = self._server.policy, self._policy()
            self._socksifier.policy = now
            self._server.policy = now
            self._socksifier.path_manager.look()
            if not self.stop.is_set():
                self._listen_anew(before, now)
            return await self._carried.reset(lambda flow: revoked(flow, before, now))

    def _listen_anew(self, before: Policy, policy: Policy) -> None:
        if policy.federation.proxy_port != before.federation.proxy_port:
            try:
                peers = self._listen_for_peers(policy)
            except OSError as error:
                _LOG.error("port %d: %s", policy.federation.proxy_port, error.strerror)
                return
            self._peers.close()
            self._peers = peers

    @property
    def connections(self) -> set[asyncio.Task[None]]:
        """The running ones."""
        return set(self._slots.tasks)

    def close_listeners(self) -> None:
        """Take no more connections."""
        self._peers.close()
        self._tenants.close()
        self._slots.run_all()

    def close(self) -> None:
        """Give back what connections needed."""
        self._talk.cancel()
        self._managing.cancel()
        self._socksifier.path_manager.close()
        self._handover.close()
        self._poller.close()


async def _drain(
    connections: set[asyncio.Task[None]], seconds: float, at_once: asyncio.Event
) -> None:
    """Let connections end by themselves for a while, then reset the rest."""
    if not connections:
        return
    told = asyncio.create_task(at_once.wait())
    ended = asyncio.create_task(asyncio.wait(set(connections)))
    await asyncio.wait({told, ended}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    ended.cancel()
    if left := {connection for connection in connections if not connection.done()}:
        _LOG.warning("resetting %d connections that did not end in time", len(left))
        for connection in left:
            connection.cancel()
        await asyncio.wait(left)
