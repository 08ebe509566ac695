"""The proxy's processes: a parent that watches, and one worker per core that carries."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import resource
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedsdn.config.watch import WatchedFederation
from fedsdn.errors import FedsdnError
from fedsdn.pipeline.declarations import SOCKSIFIER_LISTEN_PORT
from fedsdn.proxy import socksifier, transport
from fedsdn.proxy.listener import Listener
from fedsdn.proxy.policy import Policy
from fedsdn.proxy.relay import PipePool
from fedsdn.proxy.server import Server
from fedsdn.proxy.socksifier import Socksifier
from fedsdn.proxy.stats import Statistics
from fedsdn.proxy.stats_socket import StatisticsSocket

_LOG = logging.getLogger(__name__)

RESTART_SECONDS = 1.0
"""How long a worker that died stays away, so that one that always dies does not burn a core."""


_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_MOST_SIGNALS = 64
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Settings:
    """How the proxy runs: ``drain_seconds`` is what a stop leaves to running connections."""

    site: str
    federation: Path
    workers: int
    drain_seconds: float


def run(settings: Settings, statistics_socket: Path) -> None:
    """Run the proxy in this network namespace until SIGTERM or SIGINT.

    Raises:
        FedsdnError: it cannot start; nothing runs then.

    """
    federation = WatchedFederation(settings.federation, settings.site)
    _check_ports(federation.current.proxy_port)
    _raise_descriptor_limit()
    statistics = Statistics(settings.workers)
    served = StatisticsSocket(statistics_socket, statistics)
    try:
        _Parent(settings, federation, statistics, served).run()
    finally:
        served.remove()


def _check_ports(proxy_port: int) -> None:
    """Find out before the workers do that a port cannot be listened on."""
    attempts: tuple[tuple[int, Callable[[], socket.socket]], ...] = (
        (proxy_port, lambda: transport.listen(proxy_port)),
        (SOCKSIFIER_LISTEN_PORT, socksifier.listen_for_tenants),
    )
    for port, listen in attempts:
        try:
            listen().close()
        except OSError as error:
            raise FedsdnError(
                f"the proxy cannot listen on TCP port {port}: {error.strerror}; is another proxy "
                "running ('fedsdn proxy stats'), is this process root, and does the kernel have "
                "MPTCP (sysctl net.mptcp.enabled)?"
            ) from error


def _raise_descriptor_limit() -> None:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class _Parent:
    """Starts workers, passes signals on, and starts workers again that died."""

    def __init__(
        self,
        settings: Settings,
        federation: WatchedFederation,
        statistics: Statistics,
        served: StatisticsSocket,
    ) -> None:
        self._settings = settings
        self._federation = federation
        self._statistics = statistics
        self._served = served
        self._workers: dict[int, int] = {}
        self._stopping = False
        self._signals, self._wakeup = socket.socketpair()
        self._wakeup.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno())

    def run(self) -> None:
        """Watch until the last worker has ended."""
        for signal_number in _SIGNALS:
            signal.signal(signal_number, lambda _number, _frame: None)
        for number in range(self._settings.workers):
            self._start(number)
        _LOG.info(
            "site %s: %d workers; peers on port %d",
            self._settings.site,
            len(self._workers),
            self._federation.current.proxy_port,
        )
        with selectors.DefaultSelector() as selector:
            selector.register(self._served.socket, selectors.EVENT_READ)
            selector.register(self._signals, selectors.EVENT_READ)
            while self._workers:
                for key, _events in selector.select():
                    if key.fileobj is self._signals:
                        for received in self._signals.recv(_MOST_SIGNALS):
                            self._take(signal.Signals(received))
                    else:
                        self._served.answer()

    def _take(self, received: signal.Signals) -> None:
        if received is signal.SIGCHLD:
            self._reap()
            return
        if received is signal.SIGHUP:
            self._federation.refresh(force=True)
        else:
            _LOG.info("stopping: running connections have %g s", self._settings.drain_seconds)
            self._stopping = True
        for pid in self._workers:
            os.kill(pid, received)

    def _start(self, number: int) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            self._workers[pid] = number
            return
        status = 1
        try:
            self._leave_parent()
            _die_with(parent)
            asyncio.run(_Worker(self._settings, self._federation, self._statistics, number).run())
            status = 0
        except Exception:
            _LOG.exception("worker %d failed", number)
        finally:
            logging.shutdown()
            sys.stderr.flush()
            os._exit(status)

    def _leave_parent(self) -> None:
        """Let go, in a worker, of what is the parent's alone."""
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        for sock in (self._served.socket, self._signals, self._wakeup):
            sock.close()

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                number = self._workers.pop(pid)
                self._statistics.forget_open(number)
                if not self._stopping:
                    how = os.waitstatus_to_exitcode(status)
                    _LOG.error("worker %d ended (status %d); starting it again", number, how)
                    time.sleep(RESTART_SECONDS)
                    self._start(number)


def _die_with(parent: int) -> None:
    """End when the parent is killed, so that no worker is left without one (prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


class _Worker:
    """One event loop with a listener of its own for each role."""

    def __init__(
        self,
        settings: Settings,
        federation: WatchedFederation,
        statistics: Statistics,
        number: int,
    ) -> None:
        self._settings = settings
        self._federation = federation
        row = statistics.row(number)
        pipes = PipePool()
        policy = Policy.at(federation.current, settings.site)
        self._socksifier = Socksifier(policy, row, pipes)
        self._server = Server(policy, row, pipes)
        self._stop = asyncio.Event()
        self._at_once = asyncio.Event()

    async def run(self) -> None:
        """Carry until told to stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        port = self._federation.current.proxy_port
        listeners = (
            Listener(transport.listen(port), self._server.handle),
            Listener(socksifier.listen_for_tenants(), self._socksifier.handle),
        )
        await self._stop.wait()
        for listener in listeners:
            listener.close()
        running = [task for listener in listeners for task in listener.tasks]
        await self._drain(running)

    async def _drain(self, running: list[asyncio.Task[None]]) -> None:
        """Let connections end by themselves for a while, then reset the rest."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_seconds):
                ended = asyncio.gather(*running, return_exceptions=True)
                at_once = asyncio.ensure_future(self._at_once.wait())
                either: list[asyncio.Future[Any]] = [ended, at_once]
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        left = [task for task in running if not task.done()]
        if left:
            _LOG.warning("resetting %d connections that did not end in time", len(left))
        for task in left:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _told_to_stop(self) -> None:
        if self._stop.is_set():
            self._at_once.set()
        self._stop.set()

    def _reload(self) -> None:
        if self._federation.refresh(force=True):
            policy = Policy.at(self._federation.current, self._settings.site)
            self._socksifier.policy = policy
            self._server.policy = policy
            _LOG.info("took up the changed federation file")
