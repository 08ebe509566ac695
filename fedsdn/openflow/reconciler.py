"""Keeps a bridge's flows equal to the wanted ones.

A first start, a restart, a changed federation file, a port that comes or goes and a flow that
somebody deleted are one piece of work: compare, and send the difference.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any

from fedsdn.damped_log import DampedLog
from fedsdn.openflow.difference import Difference, difference
from fedsdn.openflow.ports import BridgePorts, PortsSeen, numbers
from fedsdn.openflow.session import Session, SessionError
from fedsdn.pipeline.flows import Flow
from fedsdn.pipeline.network import is_of_a_port
from fedsdn.pipeline.table_miss import is_table_miss, without_table_miss

_LOG = logging.getLogger(__name__)

RECHECK_SECONDS = 10.0
"""How often flows are read when nothing happens: a flow whose actions somebody changed in place
causes no message."""

RETRY_SECONDS = 1.0

_CHANGES_AT_ONCE = 4
"""So many changes of the flows are logged at once, and of more the last one each minute."""

Steering = Callable[[str], AbstractContextManager[bool]]
"""Says whether the flows of a bridge may be changed while a block runs."""


class Reconciler:
    """A task that talks to the site's bridge, over whichever connection it has."""

    def __init__(self, ports_seen: PortsSeen, steering: Steering) -> None:
        """Prepare; ``want`` says for what, ``run`` does the work."""
        self._steering = steering
        self._ports = BridgePorts(ports_seen)
        self._bridge = ""
        self._flows: tuple[Flow, ...] = ()
        self.session: Session | None = None
        """The connection that our bridge has."""
        self._tells_news: Session | None = None
        self._due = asyncio.Event()
        self._complaint = ""
        self._log = DampedLog(_LOG)

    def want(self, bridge: str, flows: tuple[Flow, ...]) -> None:
        """Have ``flows`` on ``bridge`` from now on."""
        self._bridge, self._flows = bridge, flows
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
            self.session = None
            self._ports.forget()

    def deliver(self, message: Any) -> None:
        """Hand an answer to the session that asked."""
        if self.session is not None and message.datapath is self.session.datapath:
            self.session.deliver(message)

    def port_changed(self, message: Any) -> None:
        """Pass on a port-status message (``OFPPortStatus``) at once.

        Flows are compared only if port numbers changed: they do not depend on a port's state, and
        the loss of an uplink leaves no time for a comparison.
        """
        ours = self.session is not None and message.datapath is self.session.datapath
        if ours and self._ports.changed(message):
            self.wake()

    def wake(self) -> None:
        """Compare soon: something changed."""
        self._due.set()

    async def run(self) -> None:
        """Compare whenever woken, and once in a while, for ever."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(RECHECK_SECONDS):
                    await self._due.wait()
            self._due.clear()
            session = self.session
            if session is None or session.datapath.bridge != self._bridge:
                continue  # the next connection, or the next wanted flows, wake again
            try:
                await self._reconcile(session)
            except SessionError as error:
                if not session.ended:
                    self._complain(f"{self._bridge}: {error}; trying again")
                    asyncio.get_running_loop().call_later(RETRY_SECONDS, self.wake)

    async def _reconcile(self, session: Session) -> None:
        """Send the difference."""
        asked = self._ports.asking()
        ports = await session.ports()
        if not self._ports.answered(ports, asked):
            self.wake()
        if self._tells_news is not session:
            await session.ask_for_news()
            self._tells_news = session
            self.wake()  # earlier changes were not announced
        # Whoever has the lock holds it for microseconds: this does not keep the loop.
        with self._steering(self._bridge) as allowed:
            if allowed:
                await self._bring_in_line(session, numbers(ports))
            else:
                self._complain(
                    f"{self._bridge}: no flows, because this host is not set up as this site: "
                    "run 'fedsdn site up'"
                )

    async def _bring_in_line(self, session: Session, ports: dict[str, int]) -> None:
        wanted, present = self._flows, await session.own_flows()
        has_own = any(is_table_miss(flow.table, flow.priority) for flow in present)
        if without_table_miss(wanted) != wanted and not has_own and await session.has_table_miss():
            wanted = without_table_miss(wanted)
        if without_table_miss(wanted) == wanted:
            # Ours that is there is the only one. Whoever is to add his own takes its place by that.
            present = [flow for flow in present if not is_table_miss(flow.table, flow.priority)]
        found = await difference(wanted, present, ports)
        if found.anything:
            await session.commit(found.deletions, found.additions)
        self._report(found, ports)

    def _report(self, found: Difference, ports: dict[str, int]) -> None:
        if found.anything:
            text = (
                f"{self._bridge}: {len(self._flows)} flows wanted, {len(found.additions)} added, "
                f"{len(found.deletions)} deleted"
            )
            self._log.say(logging.INFO, "changed", text, _CHANGES_AT_ONCE)
        # A tenant's port that is missing is about to come, or has just gone.
        missing = [flow for flow in found.missing if not is_of_a_port(flow)]
        absent = sorted({port for flow in missing for port in flow.ports} - ports.keys())
        if absent:
            self._complain(
                f"{self._bridge} has no port {', '.join(absent)}: {len(missing)} flows wait "
                "for it; run 'fedsdn site up', or add the uplink's port to the bridge"
            )
        else:
            self._complaint = ""

    def _complain(self, text: str) -> None:
        """Log a trouble once, however often it is found again."""
        if text != self._complaint:
            self._log.say(logging.WARNING, text, text)
        self._complaint = text
