"""Watches the site's uplinks: probes every path, keeps the kernel and the status in line.

Three tasks of the application's event loop: probes, status, kernel. None waits for another.
Netlink blocks and has an executor: ending thousands of subflows delays neither probes nor status.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import replace

from fedsdn.config.differences import digest
from fedsdn.config.model import Federation
from fedsdn.damped_log import DampedLog
from fedsdn.errors import FedsdnError
from fedsdn.uplinks.kernel import Kernel, Plan
from fedsdn.uplinks.path import Path
from fedsdn.uplinks.paths import Paths
from fedsdn.uplinks.probe import ProbeError, decode
from fedsdn.uplinks.sockets import OpenSocket, ProbeSockets, Way
from fedsdn.uplinks.status import (
    COMPARE_FILES,
    WRITE_SECONDS,
    DifferingFile,
    PathStatus,
    PortState,
    SiteStatus,
    UplinkStatus,
    write_status,
)

_LOG = logging.getLogger(__name__)

_CHECK_SECONDS = 1.0
"""How often endpoints and sockets are checked when nothing happens: others may change them."""

_REPEATS = (0.01, 0.03)
"""A round with news is sent at once, and again after so many seconds: a probe may be lost."""

_CHANGES_AT_ONCE = 4
"""So many changes of a path or a port are logged at once, and of more the last one each minute."""


_MOST_NAMED = 5
"""So many sites are named in one line of the log."""


class UplinkMonitor:
    """The state of a site's uplinks and paths, and what follows. For one event loop."""

    def __init__(
        self,
        federation: Federation,
        site: str,
        namespace: str,
        open_socket: OpenSocket,
        tell: Callable[[SiteStatus], None],
        executor: Executor,
    ) -> None:
        """Prepare for ``site``, and ``tell`` every status; ``run`` does the work.

        ``executor`` has one thread, which opens and uses the netlink sockets.
        """
        self._tell = tell
        self._site = site
        self._kernel = Kernel(namespace)
        self._executor = executor
        self._epoch = time.time_ns()
        self._wall = time.time() - time.monotonic()
        self._federation = federation
        self._file = digest(federation)
        self._paths = self._new_paths(federation)
        self._plan = Plan(self._paths.orders(), federation.site(site))
        self._port_since: dict[str, float] = {}
        self._endpoints: dict[str, int] = {}
        self._log = DampedLog(_LOG)
        self._differing: list[str] = []
        """Sites with another federation file, as logged last."""
        self._loop = asyncio.get_running_loop()
        self._sockets = ProbeSockets(self._loop, open_socket, self._receive)
        self._kernel_due = asyncio.Event()
        self._status_due = asyncio.Event()
        self._deadline: asyncio.TimerHandle | None = None
        self._repeats: list[asyncio.TimerHandle] = []
        self._leaving = False

    def _new_paths(self, federation: Federation) -> Paths:
        return Paths(federation, self._site, self._epoch, time.monotonic(), self._file)

    async def run(self) -> None:
        """Watch for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._probe())
            tasks.create_task(self._keep_kernel())
            tasks.create_task(self._keep_status())

    async def leave(self) -> None:
        """Tell the peers that no more probes follow, so that they blame no path for the silence."""
        self._leaving = True
        self._send()

    def close(self) -> None:
        """Close the sockets, once ``run`` has ended."""
        for timer in (self._deadline, *self._repeats):
            if timer is not None:
                timer.cancel()
        self._sockets.close()

    def set_ports(self, ports: dict[str, PortState] | None) -> None:
        """Note the states of the bridge's ports, by name; a port that is not there is absent.

        None: the bridge is not connected, so nothing is known of any port.
        """
        states = {
            one.name: PortState.UNKNOWN if ports is None else ports.get(one.port, PortState.ABSENT)
            for one in self._plan.site.uplinks
        }
        before = self._paths.ports
        if not self._paths.set_ports(states, time.monotonic()):
            return
        for name, state in states.items():
            if before.get(name) is not state:
                self._port_since[name] = time.time()
                text = f"uplink {name}: port {state}"
                self._log.say(logging.INFO, ("port", name), text, _CHANGES_AT_ONCE)
        self._judge()

    def set_federation(self, federation: Federation, file: str) -> None:
        """Go over to a changed federation, with its digest."""
        self._file = file
        paths = self._new_paths(federation)
        paths.inherit(self._paths)
        self._federation, self._paths = federation, paths
        self._plan = Plan(paths.orders(), federation.site(self._site))
        self._sockets.close()
        self._kernel_due.set()
        self._status_due.set()

    async def _probe(self) -> None:
        while True:
            self._send()
            self._judge()
            probes = self._federation.probes
            await asyncio.sleep(probes.interval if probes else _CHECK_SECONDS)

    def _send_news(self) -> None:
        """Send a round at once, and repeat it; it has older news in it, which need no repeat."""
        self._send()
        for repeat in self._repeats:
            repeat.cancel()
        self._repeats = [self._loop.call_later(seconds, self._send) for seconds in _REPEATS]

    def _send(self) -> None:
        probes = self._federation.probes
        if probes is None:
            return
        key = probes.key.encode()
        for path, probe in self._paths.next_round(time.monotonic(), leaving=self._leaving):
            if trouble := self._sockets.send(_way(path), probe.encode(key)):
                self._complain(f"a probe over {path.name} was not sent: {trouble}")

    def _receive(self, datagrams: list[bytes]) -> None:
        news = [self._take(datagram) for datagram in datagrams]
        if any(news):
            self._judge()

    def _take(self, datagram: bytes) -> bool:
        """Take in a probe; True if paths have to be judged anew because of it."""
        probes = self._federation.probes
        if probes is None:
            return False
        try:
            probe = decode(datagram, probes.key.encode())
        except ProbeError as error:
            self._complain(str(error))
            return False
        return self._paths.take(probe, time.monotonic())

    def _judge(self) -> None:
        now = time.monotonic()
        changed = self._paths.judge(now)
        for path in changed:
            text = f"path {path.name}: {path.state}: {path.why}"
            self._log.say(logging.INFO, path.name, text, _CHANGES_AT_ONCE)
        before, self._plan = self._plan, replace(self._plan, orders=self._paths.orders())
        if self._paths.urgent:  # after the plan: the peer relies on what we acknowledge
            self._send_news()
        if changed or before.orders != self._plan.orders:
            self._kernel_due.set()
            self._status_due.set()
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._loop.call_at(self._paths.next_deadline(now), self._judge)

    # What follows from it

    async def _keep_kernel(self) -> None:
        """Bring the kernel in line after every change, and at least once in ``_CHECK_SECONDS``.

        That may take long, if thousands of subflows end; changes meanwhile count at once, as the
        kernel's thread reads the plan again and again.
        """
        while True:
            self._kernel_due.clear()
            federation = self._federation
            try:
                endpoints = await self._loop.run_in_executor(
                    self._executor, self._kernel.obey, lambda: self._plan
                )
            except FedsdnError as error:
                self._complain(str(error))
            else:
                if federation is self._federation and endpoints != self._endpoints:
                    self._endpoints = endpoints
                    self._status_due.set()
            await _due(self._kernel_due, _CHECK_SECONDS)

    async def _keep_status(self) -> None:
        """Tell the status after every change, and at least once in ``WRITE_SECONDS``."""
        while True:
            self._status_due.clear()
            self._write()
            self._open_sockets()
            await _due(self._status_due, min(_CHECK_SECONDS, WRITE_SECONDS))

    def _open_sockets(self) -> None:
        federation = self._federation
        if federation.probes is None:
            return
        uplinks = self._plan.site.uplinks
        ways = [_way(path) for path in self._paths.probed()]
        for trouble in self._sockets.open(uplinks, ways, federation.proxy_port):
            self._complain(trouble)

    def _say_files(self, differing: Sequence[DifferingFile]) -> None:
        """Log which sites have another federation file, whenever these are others."""
        sites = sorted(one.site for one in differing)
        if sites == self._differing:
            return
        self._differing = sites
        named = ", ".join(sites[:_MOST_NAMED]) + (" and others" if sites[_MOST_NAMED:] else "")
        level, text = logging.INFO, "no site has another federation file than ours any more"
        if sites:
            level = logging.WARNING
            text = f"the federation file of {named} differs from ours; {COMPARE_FILES}"
        self._log.say(level, "files", text, _CHANGES_AT_ONCE)

    def _write(self) -> None:
        status = self._status()
        self._say_files(status.differing)
        self._tell(status)
        try:
            write_status(status)
        except OSError as error:
            self._complain(f"the uplinks' status cannot be written: {error}")

    def _status(self) -> SiteStatus:
        now = time.time()
        return SiteStatus(
            site=self._site,
            written=now,
            uplinks=tuple(
                UplinkStatus(name, port, self._port_since.get(name, now), self._endpoints.get(name))
                for name, port in self._paths.ports.items()
            ),
            paths=tuple(self._path_status(path) for path in self._paths),
            file=self._file,
            differing=tuple(
                replace(one, since=self._wall + one.since) for one in self._paths.differing()
            ),
        )

    def _path_status(self, path: Path) -> PathStatus:
        return PathStatus(
            uplink=path.name.uplink,
            peer=path.name.peer,
            peer_uplink=path.name.peer_uplink,
            state=path.state,
            since=self._wall + path.since,
            why=path.why,
            rtt_ms=None if path.rtt is None else path.rtt * 1000,
            loss=path.loss,
        )

    def _complain(self, text: str) -> None:
        self._log.say(logging.WARNING, text, text)


def _way(path: Path) -> Way:
    return path.name.uplink, path.remote


async def _due(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, for so long at most."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):  # wait_for may swallow a cancellation (Python 3.11)
            await event.wait()
