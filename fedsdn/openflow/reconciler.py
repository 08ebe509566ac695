"""Keeps a bridge's flows equal to the wanted ones.

A first start, a restart, a changed federation file, a port that comes or goes and a flow that
somebody deleted are one piece of work: compare, and send the difference.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from os_ken.ofproto import ofproto_v1_3 as ofproto

from fedsdn.openflow.difference import Difference, difference
from fedsdn.openflow.ports import BridgePorts, PortsSeen, numbers
from fedsdn.openflow.session import Session, SessionError
from fedsdn.pipeline.flows import Flow
from fedsdn.pipeline.table_miss import is_table_miss, without_table_miss

_LOG = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""How often ``wanted`` is asked whether the federation changed, when nothing else happens."""

RECHECK_PASSES = 10
"""After so many polls the flows are read anyway: a flow whose actions somebody changed in place
causes no message."""

Steering = Callable[[], AbstractContextManager[bool]]
"""Says whether the bridge's flows may be changed while a block runs."""

Wanted = Callable[[], tuple[Flow, ...] | None]
"""All wanted flows, or None if they are the same as at the last call."""


class Reconciler(threading.Thread):
    """One thread that talks to the bridge named ``bridge``, over whichever connection it has."""

    def __init__(
        self, bridge: str, wanted: Wanted, ports_seen: PortsSeen, steering: Steering
    ) -> None:
        """Prepare; ``start()`` starts."""
        super().__init__(name="reconciler", daemon=True)
        self._bridge = bridge
        self._wanted = wanted
        self._steering = steering
        self._ports = BridgePorts(ports_seen)
        self._ours: Session | None = None
        self._flows: tuple[Flow, ...] = ()
        self._sessions: list[Session] = []
        self._due = threading.Event()
        self._complaint = ""

    def connect(self, datapath: Any) -> None:
        """Use a new connection, as soon as the bridge behind it turns out to be ours."""
        self._sessions = [*self._sessions, Session(datapath)]
        self.wake()

    def deliver(self, message: Any) -> None:
        """Hand an answer to the session that asked."""
        for session in self._sessions:
            if session.datapath is message.datapath and session.deliver(message):
                return

    def port_changed(self, message: Any) -> None:
        """Pass on at once what the bridge says of a port (``OFPPortStatus``).

        Flows are compared if ports have other numbers now. Whether a port is live is nothing to
        them, and when an uplink is lost there is no time for them.
        """
        ours = self._ours is not None and message.datapath is self._ours.datapath
        if not ours or self._ports.told(message):
            self.wake()

    @property
    def session(self) -> Session | None:
        """The connection that our bridge has, as far as is known."""
        return self._ours

    def wake(self) -> None:
        """Compare soon: something changed."""
        self._due.set()

    def run(self) -> None:
        """Compare whenever woken, when the wanted flows change, and once in a while."""
        polls = 0
        while True:
            woken = self._due.wait(timeout=POLL_SECONDS)
            self._due.clear()
            flows = self._wanted()
            polls += 1
            if flows is None and not woken and polls < RECHECK_PASSES:
                continue
            polls = 0
            self._flows = self._flows if flows is None else flows
            self._pass()

    def _pass(self) -> None:
        """Bring our bridge's flows in line; the newest connection of a bridge is the live one."""
        ours: Session | None = None
        for session in reversed(self._sessions):
            try:
                keep = ours is None and self._reconcile(session)
            except SessionError as error:
                self._complain(f"{self._bridge}: {error}; trying again")
                keep = session.datapath.is_active
                self._retry_soon()
            if not keep:
                self._drop(session)
                continue
            ours = session
        self._ours = ours

    def _reconcile(self, session: Session) -> bool:
        """Send the difference; False if the session is another bridge's."""
        asked = self._ports.asking()
        ports = session.ports()
        by_name = numbers(ports)
        local = next((name for name, no in by_name.items() if no == ofproto.OFPP_LOCAL), "unnamed")
        if local != self._bridge:
            _LOG.warning("bridge %s connected; this site's is %s", local, self._bridge)
            return False
        if not self._ports.answered(ports, asked):
            self.wake()
        if self._ours is not session:
            session.ask_for_news()
            self.wake()  # what changed just before that was not told
        self._ours = session
        with self._steering() as allowed:
            if allowed:
                self._bring_in_line(session, by_name)
            else:
                self._complain(
                    f"{self._bridge}: no flows, because this host is not set up as this site: "
                    "run 'fedsdn site up'"
                )
        return True

    def _bring_in_line(self, session: Session, ports: dict[str, int]) -> None:
        wanted, present = self._flows, session.own_flows()
        has_own = any(is_table_miss(flow.table_id, flow.priority) for flow in present)
        if without_table_miss(wanted) != wanted and not has_own and session.has_table_miss():
            wanted = without_table_miss(wanted)
        if without_table_miss(wanted) == wanted:
            # Ours that is there is the only one. Whoever is to add his own takes its place by that.
            present = [flow for flow in present if not is_table_miss(flow.table_id, flow.priority)]
        found = difference(session.datapath, wanted, present, ports)
        if found.messages:
            session.commit(found.messages)
        self._report(found, ports)

    def _report(self, found: Difference, ports: dict[str, int]) -> None:
        if found.messages:
            _LOG.info(
                "%s: %d flows wanted, %d added, %d deleted",
                self._bridge,
                len(self._flows),
                len(found.additions),
                len(found.deletions),
            )
        absent = sorted({port for flow in found.missing for port in flow.ports} - ports.keys())
        if absent:
            self._complain(
                f"{self._bridge} has no port {', '.join(absent)}: {len(found.missing)} flows wait "
                "for it; run 'fedsdn site up', or add the uplink's port to the bridge"
            )
        else:
            self._complaint = ""

    def _complain(self, text: str) -> None:
        """Log a trouble once, however often it is found again."""
        if text != self._complaint:
            _LOG.warning("%s", text)
        self._complaint = text

    def _retry_soon(self) -> None:
        retry = threading.Timer(POLL_SECONDS, self.wake)
        retry.daemon = True
        retry.start()

    def _drop(self, session: Session) -> None:
        self._sessions = [other for other in self._sessions if other is not session]
        session.close()
