"""Watches the site's uplinks: probes every path, keeps the kernel and the status in line.

Three tasks of the application's event loop: probes, status, kernel. None waits for another.
Netlink blocks and has an executor: ending thousands of subflows delays neither probes nor status.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Sequence, Set
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path

from fedsdn.config.differences import digest
from fedsdn.config.model import Federation, Site
from fedsdn.damped_log import DampedLog
from fedsdn.errors import FedsdnError
from fedsdn.identity.store import OwnKeys
from fedsdn.tunnels.configuration import Identities
from fedsdn.uplinks.happened import happened
from fedsdn.uplinks.kernel import Kernel, Plan
from fedsdn.uplinks.news import TELL_SECONDS, News, PathNews
from fedsdn.uplinks.next_hops import entered, learnt
from fedsdn.uplinks.path import Path as UplinkPath
from fedsdn.uplinks.path import Way
from fedsdn.uplinks.paths import Paths
from fedsdn.uplinks.probe import Probe
from fedsdn.uplinks.signed import SignedProbes
from fedsdn.uplinks.sockets import Inside, ProbeSockets
from fedsdn.uplinks.status import (
    STATUS_FILE,
    PathStatus,
    PortState,
    SiteStatus,
    UplinkStatus,
)
from fedsdn.uplinks.status_file import StatusFile

_LOG = logging.getLogger(__name__)

_CHECK_SECONDS = 1.0
"""How often endpoints and sockets are checked when nothing happens: others may change them."""

_CHANGES_AT_ONCE = 4
"""So many changes of a path or a port are logged at once, and of more the last one each minute."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """The proxy's network namespace: its ``name``, how to open sockets there, and which one it is.

    ``identity`` returns something else for a namespace that was made anew.
    """

    name: str
    inside: Inside
    identity: Callable[[], object]


class UplinkMonitor:
    """The state of a site's uplinks and paths, and what follows. For one event loop."""

    def __init__(
        self,
        federation: Federation,
        site: str,
        namespace: Namespace,
        own_keys: Callable[[Site], Sequence[OwnKeys]],
        tell: Callable[[PathNews], None],
        executor: Executor,
        status_file: Path = STATUS_FILE,
        *,
        follow: Callable[[Iterable[UplinkPath]], None] = lambda _: None,
        identified: Callable[[Identities], None] = lambda _: None,
    ) -> None:
        """Prepare for ``site``, and ``tell`` what changes; ``run`` does the work.

        ``own_keys`` reads the private X25519 keys that this host has of the site's identities, the
        current one first, and raises FedsdnError.
        ``executor`` has one thread, which opens and uses the netlink sockets. ``follow`` is told at
        once of paths whose state has changed, and of all paths of another federation,
        ``identified`` of the keys that sites use now.
        """
        self._tell = tell
        self._follow = follow
        self._identified = identified
        self._site = site
        self._kernel = Kernel(namespace.name)
        self._executor = executor
        self._epoch = 1 + secrets.randbelow(2**63 - 1)
        self._wall = time.time() - time.monotonic()
        self._take_up(federation, digest(federation))
        self._ports: dict[str, PortState] | None = None
        """Those of the bridge by name, as told last."""
        self._port_since: dict[str, float] = {}
        self._endpoints: dict[str, int] = {}
        self._log = DampedLog(_LOG)
        self._signed = SignedProbes(site, self._log)
        self._own_keys = own_keys
        self._loop = asyncio.get_running_loop()
        self._failed: asyncio.Future[None] = self._loop.create_future()
        self.sockets = ProbeSockets(
            self._loop, self._receive, namespace.inside, place=namespace.identity
        )
        self._want_sockets()
        self._keys_due, self._kernel_due, self._status_due = (asyncio.Event() for _ in range(3))
        self.take_keys()
        self._news = News(self._paths)
        self._timer: asyncio.TimerHandle | None = None
        self._status_file = StatusFile(status_file, self._log)

    def _take_up(self, federation: Federation, file: str, old: Paths | None = None) -> None:
        """Plan for a federation, with its digest; paths that it has as before are the ``old``."""
        self._file = file
        self._paths = self._new_paths(federation, old)
        self._federation = federation
        self._plan = self._new_plan()
        self._entered = entered(federation, self._plan.site, self._ways())

    def _new_paths(self, federation: Federation, old: Paths | None) -> Paths:
        now = time.monotonic()
        paths = Paths(federation, self._site, self._epoch, now, self._file, old)
        self._follow(paths)
        return paths

    def _new_plan(self) -> Plan:
        site = self._federation.site(self._site)
        pairs = (path.pair for path in self._paths.probed())
        return Plan(self._paths.orders(), site, learnt(self._federation, site, pairs))

    async def run(self) -> None:
        """Watch for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._probe())
            tasks.create_task(self._derive())
            tasks.create_task(self._keep_kernel())
            tasks.create_task(self._keep_status())

    async def leave(self) -> None:
        """Tell the peers that no more probes follow, so that they blame no path for the silence."""
        self._send(self._paths.last_probes(time.monotonic()))

    def close(self) -> None:
        """Close the sockets, once ``run`` has ended."""
        if self._timer is not None:
            self._timer.cancel()
        self.sockets.close()

    def set_ports(self, ports: dict[str, PortState] | None) -> None:
        """Note the states of the bridge's ports, by name; a port that is not there is absent.

        None: the bridge is not connected, so nothing is known of any port.
        """
        self._ports = ports
        if self._note_ports():
            self._status_due.set()
            self._take_turn()

    def _note_ports(self) -> bool:
        """Note what the bridge's ports say of the uplinks; True if that is news."""
        ports = self._ports
        states = {
            one.name: PortState.UNKNOWN if ports is None else ports.get(one.port, PortState.ABSENT)
            for one in self._plan.site.uplinks
        }
        before = self._paths.ports
        if not self._paths.set_ports(states, time.monotonic()):
            return False
        for name, state in states.items():
            if before.get(name) is not state:
                self._port_since[name] = time.time()
                text = f"uplink {name}: port {state}"
                self._log.say(logging.INFO, ("port", name), text, _CHANGES_AT_ONCE)
        return True

    def set_federation(self, federation: Federation, file: str) -> None:
        """Go over to a changed federation, with its digest; what it leaves as it was goes on."""
        if federation == self._federation:
            return
        self._take_up(federation, file, self._paths)
        self._news.set_paths(self._paths)
        self._note_ports()  # an uplink may be new, or have another port
        self._want_sockets()
        self.take_keys()
        self._kernel_due.set()
        self._status_due.set()
        self._take_turn()

    def need(self, peers: Set[str]) -> None:
        """Note the peers that connections of the proxy depend on: their paths are probed often."""
        self._paths.need(peers, time.monotonic())
        self._take_turn()

    # Probes

    async def _probe(self) -> None:
        """Take turns for ever; what fails in one ends this."""
        self._take_turn()
        await self._failed

    def _take_turn(self) -> None:
        try:
            self._turn()
        except Exception as error:
            if not self._failed.done():
                self._failed.set_exception(error)

    def _turn(self) -> None:
        """Judge and send what is due, and come back when more is."""
        now = time.monotonic()
        changed = self._paths.judge(now)
        if changed:
            self._follow(changed)
        for path in self._news.take(changed):
            text = f"path {path.name}: {path.state}: {path.why}"
            self._log.say(logging.INFO, path.name, text, _CHANGES_AT_ONCE)
        orders = self._paths.has_new_orders
        if orders:
            self._plan = replace(self._plan, orders=self._paths.orders())
            self._kernel_due.set()
        if changed or orders:
            self._status_due.set()
        # After the plan: the peer relies on what a probe acknowledges.
        self._send(self._paths.probes(now))
        if self._timer is not None:
            self._timer.cancel()
        if (when := self._paths.next_turn()) < float("inf"):
            self._timer = self._loop.call_at(max(when, now), self._take_turn)

    def _send(self, probes: Iterable[tuple[UplinkPath, Probe]]) -> None:
        for path, probe in probes:
            datagram = self._signed.encode(probe)
            if datagram and (trouble := self.sockets.send(path.way, datagram)):
                self._complain(f"a probe over {path.name} was not sent: {trouble}")

    def _receive(self, datagrams: list[tuple[Way, bytes]]) -> None:
        now = time.monotonic()
        for way, datagram in datagrams:
            self._take(datagram, way, now)
        if self._paths.next_turn() <= now:
            self._take_turn()

    def _take(self, datagram: bytes, way: Way, now: float) -> None:
        read = self._signed.decode(datagram, way)
        if read is None:
            return
        probe, key = read
        refusal, greeting = self._paths.take(probe, way, now)
        if refusal is None:
            if self._signed.follow(key):
                self._identified(self._signed.used())
        else:
            self._signed.refuse(refusal, probe)
        if greeting is not None:
            self.sockets.send(way, self._signed.reply(greeting, key))

    def take_keys(self) -> None:
        """Sign and read probes by the identities of the federation file and this host, as now."""
        try:
            own = self._own_keys(self._federation.site(self._site))
        except FedsdnError as error:
            self._complain(str(error))
            return
        self._signed.set(own, self._federation.peers(self._site))
        self._keys_due.set()
        self._identified(self._signed.used())

    async def _derive(self) -> None:
        """Compute what keys are missing, little by little: probes must not wait."""
        while True:
            await self._keys_due.wait()
            self._keys_due.clear()
            while self._signed.derive():
                await asyncio.sleep(0)

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
            await happened(self._kernel_due, _CHECK_SECONDS)

    async def _keep_status(self) -> None:
        """Tell the workers of every change, and at least once in ``TELL_SECONDS``."""
        due = True
        while True:
            self._status_due.clear()
            self._tell(self._news.gather(self._endpoints, time.monotonic()))
            self._open_sockets()
            self._status_file.write_or_keep(self._status, due=due)
            soon = 0.0 if self.sockets.is_opening else TELL_SECONDS
            due = await happened(self._status_due, min(soon, self._status_file.next_write()))

    def _ways(self) -> list[Way]:
        return [path.way for path in self._paths.probed()]

    def _want_sockets(self) -> None:
        ways = self._ways()
        uplinks = self._plan.site.uplinks if ways else ()
        self.sockets.want(uplinks, ways, self._federation.proxy_port)

    def _open_sockets(self) -> None:
        for trouble in self.sockets.open():
            self._complain(trouble)

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
                replace(one, since=self._wall + one.since)
                for one in self._paths.differing(time.monotonic())
            ),
            refused=tuple(self._signed.refused()),
        )

    def _path_status(self, path: UplinkPath) -> PathStatus:
        return PathStatus(
            uplink=path.name.uplink,
            peer=path.name.peer,
            peer_uplink=path.name.peer_uplink,
            state=path.state,
            since=self._wall + path.since,
            why=f"{path.why}{self._doubt(path)}",
            rtt_ms=None if path.rtt is None else path.rtt * 1000,
            loss=path.loss,
        )

    def _doubt(self, path: UplinkPath) -> str:
        """Say of a path that was never heard which neighbour is entered for it, if one is."""
        known = None if path.heard is not None else self._entered.get(path.way)
        if known is None:
            return ""
        remedy = (
            "write 'mac: dynamic' for it" if known.address == path.remote else "see 'gateway_mac'"
        )
        return (
            f"; {known.address} is entered as lladdr {known.mac}: if another answers for it there, "
            f"{remedy}"
        )

    def _complain(self, text: str) -> None:
        self._log.say(logging.WARNING, text, text)
