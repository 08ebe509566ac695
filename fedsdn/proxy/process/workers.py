"""The proxy's processes: a parent that supervises, and one worker per core."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import math
import os
import resource
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn

from fedsdn import namespace
from fedsdn.config.model import Federation
from fedsdn.config.watch import WatchedFederation
from fedsdn.damped_log import DampedLog
from fedsdn.errors import FedsdnError
from fedsdn.pipeline.declarations import SOCKSIFIER_LISTEN_PORTS
from fedsdn.proxy.ended.record import Ended, Reason, Who
from fedsdn.proxy.opening.device import check_device
from fedsdn.proxy.process import worker
from fedsdn.proxy.process.ended_log import EndedLog
from fedsdn.proxy.process.stats_socket import StatisticsSocket
from fedsdn.proxy.sockets import transport
from fedsdn.proxy.socks import socksifier
from fedsdn.proxy.stats import Statistics
from fedsdn.site import checks

_LOG = logging.getLogger(__name__)

RESTART_SECONDS = 1.0
"""Delay before a worker that ended is started again; it doubles each time the worker ends soon."""

LONGEST_DELAY_SECONDS = 30.0
"""Longest such delay; a worker that has run for so long begins with the shortest again."""

HOME_SECONDS = 1.0
"""How often the parent looks whether its network namespace still has its name."""

_SIGNALS = (*worker.SIGNALS, signal.SIGCHLD)
_MOST_SIGNALS = 64
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Settings:
    """How the proxy runs.

    On a stop, connections have ``drain_seconds`` to end. ``namespace`` is the name of the network
    namespace that the proxy runs in.
    """

    site: str
    federation: Path
    workers: int
    drain_seconds: float
    namespace: str


def run(settings: Settings, statistics_socket: Path) -> None:
    """Run the proxy in this network namespace until SIGTERM or SIGINT.

    Raises:
        FedsdnError: it cannot start, and nothing runs then; or its namespace's name belongs to
            another one now.

    """
    federation = WatchedFederation(settings.federation, settings.site, checks.check_bridge)
    statistics = Statistics(settings.workers)
    served = StatisticsSocket(statistics_socket, statistics)
    try:
        _check_ports(federation.current, settings.workers)
        check_device()
        _raise_descriptor_limit()
        _Parent(settings, federation, statistics, served).run()
    finally:
        served.remove()


def _check_ports(federation: Federation, workers: int) -> None:
    """Find out before the workers start whether the ports can be listened on."""
    attempts: list[tuple[int, Callable[[], socket.socket]]] = [
        (federation.proxy_port, lambda: transport.listen(federation.proxy_port)),
        *(
            (port, partial(socksifier.listen_for_vms, number))
            for number, port in enumerate(SOCKSIFIER_LISTEN_PORTS[:workers])
        ),
    ]
    for port, listen in attempts:
        try:
            listen().close()
        except OSError as error:
            raise FedsdnError(
                f"the proxy cannot listen on TCP port {port} ({error.strerror}): look who does "
                "('ss -ltnp' in its namespace), whether this process is root, and whether the "
                "kernel has MPTCP ('sysctl net.mptcp.enabled')"
            ) from error


def _raise_descriptor_limit() -> None:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class _Parent:
    """Starts workers, passes signals on, and starts workers again that ended."""

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
        self._shared = worker.Shared.between(settings.workers)
        self._workers: dict[int, int] = {}
        """Worker numbers by process."""
        self._missing: dict[int, float] = {}
        """When to start workers again, by number."""
        self._started: dict[int, float] = {}
        self._delays: dict[int, float] = {}
        """How long a worker that ends is waited for, by number."""
        self._stopping = False
        self._log = DampedLog(_LOG)
        self._ended = EndedLog(statistics, self._log)
        self._home = namespace.own_identity()
        self._signals, self._wakeup = socket.socketpair()
        self._wakeup.setblocking(False)

    def run(self) -> None:
        """Watch until the last worker has ended."""
        signal.set_wakeup_fd(self._wakeup.fileno())
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
            for listener in self._served.sockets:
                selector.register(listener, selectors.EVENT_READ)
            selector.register(self._signals, selectors.EVENT_READ)
            while self._workers or self._missing:
                for key, _events in selector.select(self._until_next_start()):
                    if key.fileobj is self._signals:
                        for received in self._signals.recv(_MOST_SIGNALS):
                            self._take(signal.Signals(received))
                    else:
                        self._served.answer()
                self._check_home()
                self._start_missing()
                self._ended.look()
                self._log.say_rest()
        self._ended.look()
        self._log.say_rest(at_the_end=True)

    def _take(self, received: signal.Signals) -> None:
        if received is signal.SIGCHLD:
            self._reap()
        elif received is signal.SIGHUP:
            if self._federation.refresh(force=True):
                _LOG.info("taking up the changed federation file")
                self._tell_workers(signal.SIGHUP)
        else:
            again = ", resetting what is left" if self._stopping else ""
            _LOG.info("stopping%s", again)
            self._stopping = True
            self._missing.clear()
            self._tell_workers(signal.SIGTERM)

    def _tell_workers(self, what: signal.Signals) -> None:
        for pid in self._workers:
            os.kill(pid, what)  # not reaped yet, so the number is still theirs

    def _start(self, number: int) -> None:
        self._federation.refresh()  # the application notifies running workers, not us
        # Blocked until the worker has its own handlers: the parent's would swallow a signal.
        signal.pthread_sigmask(signal.SIG_BLOCK, worker.SIGNALS)
        parent = os.getpid()
        try:
            if (pid := os.fork()) == 0:
                self._be_worker(number, parent)
            self._workers[pid] = number
            self._statistics.running = len(self._workers)
            self._started[number] = time.monotonic()
        except OSError as error:
            text = f"worker {number} cannot be started, trying again: {error.strerror}"
            self._log.say(logging.ERROR, "not started", text)
            self._missing[number] = time.monotonic() + self._delay(number)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, worker.SIGNALS)

    def _be_worker(self, number: int, parent: int) -> NoReturn:
        """Run a worker in this process, which ``parent`` has forked, and end the process."""
        status = 1
        try:
            self._leave_parent()
            _die_with(parent)
            row = self._statistics.row(number)
            own, federation = self._settings, self._federation.unchecked()
            work = worker.run(
                federation, own.site, row, own.workers, self._shared, own.drain_seconds
            )
            # The runner is not closed: it would wait for connections, which end with the process.
            asyncio.Runner().run(work)
            status = 0
        except OSError as error:
            _say_end(number, str(error))
        except ExceptionGroup as group:
            why = "; ".join(str(failure) for failure in group.exceptions)
            _say_end(number, f"{why}\n{''.join(traceback.format_exception(group))}")
        except BaseException:
            _say_end(number, traceback.format_exc())
        finally:
            logging.shutdown()
            sys.stderr.flush()
            os._exit(status)

    def _leave_parent(self) -> None:
        """Close, in a worker, what belongs to the parent alone."""
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        for sock in (*self._served.sockets, self._signals, self._wakeup):
            sock.close()

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                number = self._workers.pop(pid)
                self._statistics.running = len(self._workers)
                ended = f"worker {number} ended (status {os.waitstatus_to_exitcode(status)})"
                if lost := self._statistics.forget_open(number):
                    self._statistics.row(number).ended(
                        Ended(Reason.WORKER_ENDED, Who.HERE, detail=ended, count=lost)
                    )
                self._shared.held.release_all(number)
                if not self._stopping:
                    self._statistics.restarts += 1
                    self._statistics.last_restart = time.time()
                    self._log.say(logging.ERROR, ("ended", number), f"{ended}; starting it again")
                    self._missing[number] = time.monotonic() + self._delay(number)

    def _delay(self, number: int) -> float:
        """Return the delay of a worker's restart: doubled if it has not run for long."""
        lived = time.monotonic() - self._started.get(number, -math.inf)
        before = self._delays.get(number, 0.0) if lived < LONGEST_DELAY_SECONDS else 0.0
        self._delays[number] = min(max(RESTART_SECONDS, 2 * before), LONGEST_DELAY_SECONDS)
        return self._delays[number]

    def _until_next_start(self) -> float:
        due = min(self._missing.values(), default=math.inf) - time.monotonic()
        return min(max(0.0, due), HOME_SECONDS)

    def _check_home(self) -> None:
        """End if the site was set up again in another namespace: no packet reaches this one now."""
        name = self._settings.namespace
        if namespace.identity(name) in {None, self._home}:
            return
        for pid in self._workers:
            os.kill(pid, signal.SIGKILL)
        raise FedsdnError(
            f"network namespace {name} is another one than when this proxy started: ending, with "
            "all connections; start it again in the new one (systemd does)"
        )

    def _start_missing(self) -> None:
        for number, due in list(self._missing.items()):
            if due <= time.monotonic():
                del self._missing[number]
                self._start(number)


def _say_end(number: int, why: str) -> None:
    """Say why this worker ends; that is often only as far as workers are started again."""
    _LOG.error("worker %d ends: %s", number, why)


def _die_with(parent: int) -> None:
    """End with the parent, even if that is killed (prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
