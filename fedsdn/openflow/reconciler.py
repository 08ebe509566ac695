"""Keeps a bridge's flows equal to the wanted ones.

The bridge tells of every change of its flows, so nothing is ever read again: a first start, a
restart, a changed federation file, a port that comes or goes and a flow that somebody deleted or
changed are one piece of work: compare what changed, and send the difference.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping, Set
from contextlib import AbstractContextManager, suppress
from typing import Any

from fedsdn.damped_log import DampedLog
from fedsdn.openflow.difference import Difference, difference
from fedsdn.openflow.intruders import intruders
from fedsdn.openflow.mirror import TABLES, Mirror
from fedsdn.openflow.ports import BridgePorts, Port, PortsSeen, numbers
from fedsdn.openflow.session import Session, SessionError
from fedsdn.openflow.wanted import WantedFlows
from fedsdn.openflow.wire import Key, WireFlow
from fedsdn.pipeline.build import Groups
from fedsdn.pipeline.network import is_of_a_port

_LOG = logging.getLogger(__name__)

RETRY_SECONDS = 1.0

REST_SECONDS = 0.01
"""How long others' changes wait after a change of ours: two owners that undo each other's changes
must not keep the bridge busy."""

LONGEST_REST_SECONDS = 1.0
"""How long at most, if the same flows have to be put right again and again: each time they wait
twice as long."""

QUARREL_SECONDS = 0.25
"""Whoever has left them alone for so long does not undo what we do, and is met at once: a person
who deletes all flows twice a second must not have the network away for half of the time."""

PULSE_SECONDS = 5.0
"""How long after its last answer a bridge is asked for another, and how long it may take: a process
that stands still closes no connection."""

_CHANGES_AT_ONCE = 4
"""So many changes of the flows are logged at once, and of more the last one each minute."""

_TABLES_SAID = 4

Steering = Callable[[str], AbstractContextManager[bool]]
"""Says whether the flows of a bridge may be changed while a block runs."""


class _Pace:
    """How long to rest after a change of flows, so that nobody's quarrel keeps the bridge busy."""

    def __init__(self) -> None:
        self._keys: Set[Key] = frozenset()
        self._seconds = 0.0
        self._ends = -math.inf

    def rest(self, keys: Set[Key], now: float) -> float:
        """Return the seconds of rest after a change of the flows with these ``keys``."""
        again = now - self._ends < QUARREL_SECONDS and not self._keys.isdisjoint(keys)
        longer = min(2 * self._seconds, LONGEST_REST_SECONDS)
        self._seconds = longer if again else REST_SECONDS
        self._keys, self._ends = keys, now + self._seconds
        return self._seconds


class Reconciler:
    """Tasks that talk to the site's bridge, over whichever connection it has."""

    def __init__(self, ports_seen: PortsSeen, steering: Steering) -> None:
        """Prepare; ``want`` says for what, ``run`` and ``watch`` do the work."""
        self._steering = steering
        self._ports = BridgePorts(ports_seen)
        self._bridge = ""
        self._groups: Groups = {}
        self._wanted = WantedFlows()
        self.session: Session | None = None
        """The connection that our bridge has."""
        self._ready: Session | None = None
        """The one that tells of ports and flows."""
        self._to_compare: set[Key] = set()
        """What the bridge has told of, as long as no comparison has succeeded since."""
        self._asked_for: set[Key] = set()
        """What we want otherwise than before, or of a new connection; as long, too."""
        self._due = asyncio.Event()
        self._asked = asyncio.Event()
        """Something else than others' changes of flows is the reason to compare."""
        self._pace = _Pace()
        self._complaint = ""
        self._answers = True
        self._intruders: frozenset[WireFlow] = frozenset()
        self._log = DampedLog(_LOG)

    def want(self, bridge: str, groups: Groups) -> None:
        """Have these flows on ``bridge`` from now on."""
        self._bridge, self._groups = bridge, groups
        self.wake()

    def connect(self, datapath: Any) -> None:
        """Use a new connection (an os-ken Datapath in MAIN state) from now on."""
        self._leave()
        self.session = Session(datapath)
        self.wake()

    def disconnect(self, datapath: Any) -> None:
        """Note that a connection has ended."""
        if self.session is not None and self.session.datapath is datapath:
            self._log.say(
                logging.WARNING, "gone", f"{datapath.bridge}: the bridge has disconnected"
            )
            self._leave()

    def _leave(self) -> None:
        if self.session is not None:
            self.session.end()
            self.session = self._ready = None
            self._answers = True
            self._ports.forget()

    def deliver(self, message: Any) -> None:
        """Hand an answer to the session that asked, and follow what the bridge tells of flows."""
        session = self.session
        if session is None or message.datapath is not session.datapath:
            return
        was_current = session.mirror.current
        try:
            session.deliver(message)
        except ValueError as error:
            self._log.say(logging.ERROR, "news", f"{self._bridge}: {error}; connecting anew")
            message.datapath.close()
            return
        if session.mirror.current and (session.mirror.changed or not was_current):
            self._due.set()

    def port_changed(self, message: Any) -> None:
        """Pass on a port-status message (``OFPPortStatus``) at once.

        Flows are compared only if port numbers changed: they do not depend on a port's state, and
        the loss of an uplink leaves no time for a comparison.
        """
        ours = self.session is not None and message.datapath is self.session.datapath
        if ours and self._ports.changed(message):
            self.wake()

    def wake(self) -> None:
        """Compare now: we want something else, or the bridge or its ports are others."""
        self._asked.set()
        self._due.set()

    async def run(self) -> None:
        """Compare whenever woken, for ever."""
        while True:
            await self._due.wait()
            self._due.clear()
            self._asked.clear()
            session = self.session
            if session is None or session.datapath.bridge != self._bridge:
                continue  # the next connection, or the next wanted flows, wake again
            try:
                changed = await self._reconcile(session)
            except SessionError as error:
                if not session.ended:
                    self._try_again(session, error)
                continue
            if changed:
                await self._rest(self._pace.rest(changed, time.monotonic()))

    def _try_again(self, session: Session, error: SessionError) -> None:
        self._complain(f"{self._bridge}: {error}; trying again")
        if session is self._ready:
            self._wake_later()
        else:
            # It may have taken the flow monitor, and refuses to take it twice.
            session.datapath.close()

    async def _rest(self, seconds: float) -> None:
        """Let others' changes wait."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._asked.wait()

    async def watch(self) -> None:
        """See that the bridge answers, for ever."""
        while True:
            await asyncio.sleep(PULSE_SECONDS)
            session = self.session
            if session is not None and session is self._ready:
                await self._feel_pulse(session)

    async def _feel_pulse(self, session: Session) -> None:
        """Take the ports' states for unknown while the bridge does not answer."""
        try:
            async with asyncio.timeout(PULSE_SECONDS):
                await session.barrier()
        except SessionError:
            return
        except TimeoutError:
            answers = False
        else:
            answers = True
        if session is not self.session or answers is self._answers:
            return
        self._answers = answers
        if answers:
            self._log.say(logging.INFO, "pulse", f"{self._bridge}: Open vSwitch answers again", 2)
            self._ports.trust()
        else:
            self._log.say(
                logging.WARNING,
                "pulse",
                f"{self._bridge}: Open vSwitch does not answer: nobody knows its ports",
                2,
            )
            self._ports.doubt()

    async def _reconcile(self, session: Session) -> Set[Key]:
        """Send the difference; return which flows it is of."""
        new = self._ready is not session
        ports = numbers(await self._take_up(session))
        self._asked_for |= await self._wanted.take(self._groups, ports)
        mirror = session.mirror
        if new:
            self._asked_for |= self._wanted.flows.keys() | mirror.flows.keys()
            self._to_compare.clear()
        if not mirror.current:
            return set()  # what ends the pause wakes again
        self._to_compare |= mirror.changed
        mirror.changed.clear()
        # Whoever has the lock holds it for microseconds: this does not keep the loop.
        with self._steering(self._bridge) as allowed:
            if not allowed:
                self._complain(
                    f"{self._bridge}: no flows, because this host is not set up as this site: "
                    "run 'fedsdn site up'"
                )
                self._wake_later()
                return set()
            compared = self._to_compare | self._asked_for
            found = difference(compared, self._wanted.flows, mirror.flows)
            if found.anything:
                await session.commit(found.deletions, found.additions)
        self._report_difference(found, repaired=not self._asked_for)
        self._report_missing(ports)
        if self._asked_for or mirror.others_changed:
            self._report_intruders(mirror)
        self._to_compare, self._asked_for = set(), set()
        return found.keys

    async def _take_up(self, session: Session) -> dict[str, Port]:
        """Have a new connection tell of its ports and flows, know all of both; return the ports."""
        if session is not self._ready:
            await session.ask_for_news()
            await session.monitor_flows(TABLES)
            while self._ports.known is None:
                asked = self._ports.asking()
                self._ports.answered(await session.ports(), asked)
            self._ready = session
        return self._ports.known or {}

    def _wake_later(self) -> None:
        asyncio.get_running_loop().call_later(RETRY_SECONDS, self.wake)

    def _report_difference(self, found: Difference, *, repaired: bool) -> None:
        if not found.anything:
            return
        if repaired:
            changed = found.additions + found.deletions
            tables = sorted({flow.table for flow in changed})
            more = " …" if tables[_TABLES_SAID:] else ""
            named = ", ".join(map(str, tables[:_TABLES_SAID])) + more
            text = (
                f"{self._bridge}: somebody deleted, changed or added {len(changed)} of our flows "
                f"(table {named}): put right"
            )
            self._log.say(logging.WARNING, "repaired", text, _CHANGES_AT_ONCE)
            return
        text = (
            f"{self._bridge}: {len(self._wanted.flows)} flows wanted, {len(found.additions)} "
            f"added, {len(found.deletions)} deleted"
        )
        self._log.say(logging.INFO, "changed", text, _CHANGES_AT_ONCE)

    def _report_missing(self, ports: Mapping[str, int]) -> None:
        # A tenant's port that is missing is about to come, or has just gone.
        missing = [flow for flow in self._wanted.waiting if not is_of_a_port(flow)]
        absent = sorted({port for flow in missing for port in flow.ports} - ports.keys())
        if absent:
            self._complain(
                f"{self._bridge} has no port {', '.join(absent)}: {len(missing)} flows wait "
                "for it; run 'fedsdn site up', or add the uplink's port to the bridge"
            )
        else:
            self._complaint = ""

    def _report_intruders(self, mirror: Mirror) -> None:
        """Say which flows of other owners keep ours from being met, and when none does any more."""
        mirror.others_changed = False
        found = frozenset(intruders(mirror.others, self._wanted.flows))
        if found == self._intruders:
            return
        self._intruders = found
        if found:
            first = min(found)
            text = (
                f"{self._bridge}: {len(found)} flows of other owners are in our tables or hide our "
                f"flows, the first in table {first.table} with priority {first.priority} and "
                f"cookie {first.cookie:#x}: 'fedsdn flows diff' names them; who made them is to "
                "remove them"
            )
            self._log.say(logging.WARNING, "intruders", text, _CHANGES_AT_ONCE)
        else:
            text = f"{self._bridge}: no flow of another owner is in the way of ours any more"
            self._log.say(logging.INFO, "intruders", text, _CHANGES_AT_ONCE)

    def _complain(self, text: str) -> None:
        """Log a trouble once, however often it is found again."""
        if text != self._complaint:
            self._log.say(logging.WARNING, text, text)
        self._complaint = text
