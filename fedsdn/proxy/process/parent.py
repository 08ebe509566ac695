"""The parent of the workers: it starts them, and starts them again when they end."""

from __future__ import annotations

import logging
import math
import os
import selectors
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

from fedsdn import namespace
from fedsdn.config.watch import WatchedFederation
from fedsdn.damped_log import DampedLog
from fedsdn.errors import FedsdnError
from fedsdn.pipeline.declarations import MOST_WORKERS
from fedsdn.proxy.ended.record import Ended, Reason, Who
from fedsdn.proxy.process import worker
from fedsdn.proxy.process.doors import Word, hear
from fedsdn.proxy.process.ended_log import EndedLog
from fedsdn.proxy.process.forked import be_worker
from fedsdn.proxy.process.handed_on import HandedOn, HandedRows, federation_name, layout
from fedsdn.proxy.process.place import Place, Shared
from fedsdn.proxy.process.reload import Reload
from fedsdn.proxy.process.settings import Kept, Settings
from fedsdn.proxy.process.stats_socket import StatisticsSocket
from fedsdn.proxy.process.succession import Child, Succession, give, tell
from fedsdn.proxy.stats import NAMES, Statistics
from fedsdn.site import tun

_LOG = logging.getLogger(__name__)

RESTART_SECONDS = 1.0
"""Delay before a worker that ended is started again; it doubles each time the worker ends soon."""

LONGEST_DELAY_SECONDS = 30.0
"""Longest such delay; a worker that has run for so long begins with the shortest again."""

HOME_SECONDS = 1.0
"""How often the parent looks whether its network namespace still has its name."""

_SIGNALS = (*worker.SIGNALS, signal.SIGCHLD)
_MOST_SIGNALS = 64


class Parent:
    """Starts workers, passes signals on, and starts workers again that ended."""

    def __init__(
        self,
        settings: Settings,
        federation: WatchedFederation,
        statistics: Statistics,
        served: StatisticsSocket,
        shared: Shared,
        kept: Kept,
    ) -> None:
        """Begin without workers."""
        self._settings = settings
        self._federation = federation
        self._statistics = statistics
        self._served = served
        self._shared = shared
        self._kept = kept
        self._workers: dict[int, Child] = {}
        """By process."""
        self._missing: dict[int, float] = {}
        """When to start workers again, by number."""
        self._started: dict[int, float] = {}
        self._delays: dict[int, float] = {}
        """How long a worker that ends is waited for, by number."""
        self._first = 0
        """The worker that says what concerns all."""
        self._heir: int | None = None
        """The one of the new program that will."""
        self._stopping = False
        self._reload = Reload(statistics, _SIGNALS, self._document, self._refusal)
        self._log = DampedLog(_LOG)
        self._ended = EndedLog(statistics, self._log)
        self._home = namespace.own_identity()
        self._signals, self._wakeup = socket.socketpair()
        self._wakeup.setblocking(False)
        self._selector = selectors.DefaultSelector()

    def run(self, before: HandedOn | None) -> None:
        """Watch until the last worker has ended; ``before`` is what a reload has handed on."""
        signal.set_wakeup_fd(self._wakeup.fileno())
        for signal_number in _SIGNALS:
            signal.signal(signal_number, lambda _number, _frame: None)
        for listener in self._served.sockets:
            self._selector.register(listener, selectors.EVENT_READ, self._served.answer)
        self._selector.register(self._signals, selectors.EVENT_READ, self._take_signals)
        if before is None:
            self._start_first()
        else:
            self._succeed(before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        while self._workers or self._missing:
            for key, _events in self._selector.select(self._until_next_start()):
                key.data()
            self._check_home()
            self._start_missing()
            self._look_at_reload()
            self._ended.look()
            self._log.say_rest()
        self._ended.look()
        self._log.say_rest(at_the_end=True)

    def _start_first(self) -> None:
        for number in range(self._settings.workers):
            self._start(number)
        _LOG.info(
            "site %s: %d workers; peers on port %d",
            self._settings.site,
            len(self._workers),
            self._federation.current.proxy_port,
        )

    def _take_signals(self) -> None:
        for received in self._signals.recv(_MOST_SIGNALS):
            self._take(signal.Signals(received))

    def _take(self, received: signal.Signals) -> None:
        if received is signal.SIGCHLD:
            self._reap()
        elif received is signal.SIGHUP:
            if not self._stopping:
                self._reload.ask()
        else:
            again = ", resetting what is left" if self._stopping else ""
            _LOG.info("stopping%s", again)
            self._stopping = True
            self._reload.give_up()
            self._missing.clear()
            for pid in self._workers:
                os.kill(pid, signal.SIGTERM)  # not reaped yet, so the number is still theirs

    # Workers

    def _start(self, number: int, *, fresh: bool = False) -> Child | None:
        """Start a worker; a ``fresh`` one takes nothing before it is told to."""
        self._federation.refresh()  # the application notifies running workers, not us
        # Blocked until the worker has its own handlers: the parent's would swallow a signal.
        signal.pthread_sigmask(signal.SIG_BLOCK, worker.SIGNALS)
        parent = os.getpid()
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        queue = None
        try:
            queue = tun.open_queue()
            if (pid := os.fork()) == 0:
                self._leave_parent()
                control.close()
                be_worker(number, parent, partial(self._work, number, theirs, queue))
        except OSError as error:
            control.close()
            text = f"worker {number} cannot be started, trying again: {error.strerror}"
            self._log.say(logging.ERROR, "not started", text)
            self._missing[number] = time.monotonic() + self._delay(number)
            return None
        finally:
            theirs.close()
            if queue is not None:
                os.close(queue)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, worker.SIGNALS)
        child = Child(pid, number, control, time.monotonic(), fresh)
        self._adopt(child)
        if not fresh:
            tell(child, Word.OPEN)
        return child

    def _adopt(self, child: Child) -> None:
        child.control.setblocking(False)
        self._workers[child.pid] = child
        self._started[child.number] = child.started
        self._selector.register(child.control, selectors.EVENT_READ, partial(self._hear, child))
        self._count()

    def _count(self) -> None:
        self._statistics.leaving = sum(child.leaving for child in self._workers.values())
        self._statistics.running = len(self._serving())

    def _serving(self) -> list[Child]:
        """Return the workers that take what is new."""
        return [one for one in self._workers.values() if not one.fresh and not one.leaving]

    def _hear(self, child: Child) -> bool:
        """Take up what a worker says; False if it says nothing more."""
        if child.pid not in self._workers:
            return False  # its end was taken up in the same round
        try:
            word, doors = hear(child.control)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            self._selector.unregister(child.control)  # it ends, and is reaped
            return False
        succession = self._reload.succession
        if word is Word.DOORS and (succession is None or not succession.awaits(child)):
            # They come late; what waits there is not to be lost.
            give(doors, self._serving(), child.number)
        elif succession is not None:
            succession.heard(child, word, doors)
        return True

    async def _work(self, number: int, control: socket.socket, queue: int) -> None:
        """Be a worker, in a process of its own."""
        own, federation = self._settings, self._federation.unchecked()
        row, first = self._statistics.row(number), number in {self._first, self._heir}
        place = Place(
            *(row, own.workers, first, self._shared, control, own.identity),
            *(queue, self._kept.order),
        )
        await worker.run(federation, own.site, place, own.drain_seconds)

    def _leave_parent(self) -> None:
        """Close, in a worker, what belongs to the parent alone."""
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        self._selector.close()
        controls = (child.control for child in self._workers.values())
        for sock in (*self._served.sockets, self._signals, self._wakeup, *controls):
            sock.close()

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                if not self._reload.ended(pid, status):
                    self._take_end(self._workers[pid], os.waitstatus_to_exitcode(status))

    def _take_end(self, child: Child, status: int) -> None:
        """Note that a worker has ended, and start another one if it should not have."""
        number, succession = child.number, self._reload.succession
        while child.control in self._selector.get_map() and self._hear(child):
            pass  # it has said something before it ended
        if child.control in self._selector.get_map():
            self._selector.unregister(child.control)
        child.control.close()
        del self._workers[child.pid]
        self._count()
        ended = f"worker {number} ended (status {status})"
        if lost := self._statistics.forget_open(number):
            self._statistics.row(number).ended(
                Ended(Reason.WORKER_ENDED, Who.HERE, detail=ended, count=lost)
            )
        self._shared.held.release_all(number)
        if succession is not None:
            succession.ended(child)
        if self._stopping or child.fresh:
            return
        if child.leaving and not status:
            _LOG.info("worker %d ended: all that it carried has", number)
            return
        again = "" if child.leaving else "; starting it again"
        self._log.say(logging.ERROR, ("ended", number), f"{ended}{again}")
        if not child.leaving:
            self._statistics.restarts += 1
            self._statistics.last_restart = time.time()
            self._missing[number] = time.monotonic() + self._delay(number)

    def _delay(self, number: int) -> float:
        """Return the delay of a worker's restart: doubled if it has not run for long."""
        lived = time.monotonic() - self._started.get(number, -math.inf)
        before = self._delays.get(number, 0.0) if lived < LONGEST_DELAY_SECONDS else 0.0
        self._delays[number] = min(max(RESTART_SECONDS, 2 * before), LONGEST_DELAY_SECONDS)
        return self._delays[number]

    def _until_next_start(self) -> float:
        if self._reload.succession is not None:
            return HOME_SECONDS
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
        if self._reload.succession is not None:
            return  # at its end there is what there is to be
        for number, due in list(self._missing.items()):
            if due <= time.monotonic():
                del self._missing[number]
                self._start(number)

    # Reload

    def _free(self) -> Iterator[int]:
        """Yield the numbers that no worker has."""
        taken = {child.number for child in self._workers.values()} | self._missing.keys()
        yield from (number for number in range(MOST_WORKERS) if number not in taken)

    def _refusal(self) -> str:
        """Say why there can be no reload now, or nothing."""
        wanted, free = self._settings.workers, len(list(self._free()))
        if free >= wanted:
            return ""
        return (
            f"{self._statistics.leaving} workers of before other reloads still carry connections "
            f"(fedsdn connections), so that of {MOST_WORKERS} workers only {free} more may be "
            f"started, and {wanted} are to be"
        )

    def _document(self) -> HandedOn:
        counted = self._statistics
        return HandedOn(
            layout=layout(),
            memory=self._kept.memory,
            counted=HandedRows(NAMES, self._kept.memory[0]),
            earlier=self._kept.earlier,
            order=self._kept.order,
            lock=self._served.lock,
            sockets=tuple(sock.fileno() for sock in self._served.sockets),
            workers=tuple(child.handed() for child in self._workers.values()),
            federation=federation_name(self._federation.current),
            told=self._ended.told,
            reloads=counted.reloads,
            reloads_failed=counted.reloads_failed,
            restarts=counted.restarts,
            last_restart=counted.last_restart,
        )

    def _succeed(self, before: HandedOn) -> None:
        """Go on where another program has ended: start workers that take over from its own."""
        counted = self._statistics
        self._ended = EndedLog(counted, self._log, before.told)
        counted.reloads, counted.reloads_failed = before.reloads, before.reloads_failed
        counted.restarts, counted.last_restart = before.restarts, before.last_restart
        for one in before.workers:
            self._adopt(Child.taken(one))
        running = list(self._workers.values())
        numbers = list(self._free())[: self._settings.workers]
        self._first = min((one.number for one in self._serving()), default=0)
        self._heir = numbers[0]
        fresh = [self._start(number, fresh=True) for number in numbers]
        started = [child for child in fresh if child is not None]
        self._reload.succession = Succession(started, running)
        if len(started) < self._settings.workers:
            self._reload.succession.failure = "not all workers of the new program can be started"
        self._reap()  # of those that ended meanwhile the signal went to the program before

    def _look_at_reload(self) -> None:
        succession = self._reload.succession
        if succession is not None:
            succession.look()
            self._count()
            if succession.failure:
                self._undo(succession)
            elif succession.over:
                self._reload.succession = None
                self._first, self._heir = min(succession.fresh), None
                self._statistics.reloads += 1
                _LOG.info(
                    "reloaded: %d workers have taken over; %d of before carry on what they have",
                    *(self._statistics.running, self._statistics.leaving),
                )
                self._fill_up()
        self._reload.look(self._signals)

    def _undo(self, succession: Succession) -> None:
        """End the new workers, which have taken nothing."""
        self._reload.succession, self._heir = None, None
        self._reload.fail(
            f"{succession.failure}; workers that end from now on are of the new program: put the "
            "old one back and reload"
        )
        for child in succession.fresh.values():
            if child.pid in self._workers:
                os.kill(child.pid, signal.SIGKILL)
        self._fill_up()

    def _fill_up(self) -> None:
        """Have as many workers as there are to be."""
        if self._stopping:
            return
        self._missing.clear()
        free = self._free()
        for _ in range(self._settings.workers - self._statistics.running):
            self._missing[next(free)] = time.monotonic()
        numbers = {one.number for one in self._serving()} | self._missing.keys()
        if self._first not in numbers:
            self._first = min(self._missing, default=self._first)
