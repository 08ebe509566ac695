"""Neutron's agent restarts, and deletes what it does not know of a bridge's flows."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from fedsdn.bench.bridge_watch import BridgeQuietError, BridgeWatch, Condition
from fedsdn.errors import FedsdnError
from fedsdn.lab import neutron
from fedsdn.lab.host import Host
from fedsdn.lab.topology import INTEGRATION_BRIDGE
from fedsdn.lab.wait import wait_until
from fedsdn.openflow.mirror import Mirror, is_ours

_LIMIT_SECONDS = 60.0
_LOOK_SECONDS = 0.2
_QUIET_SECONDS = 1.0
"""Nothing is deleted for so long, and the agent has done what it does after its start."""


_CLEANS = "Cleaning stale {} flows"
_KNOWS_PORTS = "rpc_loop - iteration:1 started"
"""What the agent's log says."""
_PORT = "event"
"""Of the integration bridge, and no VM's."""


def restart(host: Host, bridge: str, watch: BridgeWatch, is_whole: Condition) -> float:
    """Kill the agent and start it, and wait until it has cleaned up and all of ours are there.

    At the first port that comes after that, it deletes what it does not know of the bridge's flows.
    Returns the longest time for which some of ours were missing, in seconds.

    Raises:
        FedsdnError: the agent does not start, or has deleted none of ours.

    """
    agent, cleans = host.daemon(neutron.AGENT), _CLEANS.format(bridge)
    before = _said(host, cleans)
    agent.signal("KILL")
    wait_until(lambda: not agent.alive(), _LIMIT_SECONDS, lambda: f"{host.name}: the agent runs")
    gaps = _Gaps(is_whole)
    with ThreadPoolExecutor(1) as threads:
        started = threads.submit(_start, host)
        deadline = time.monotonic() + _LIMIT_SECONDS
        while not (gaps.are_over() and _said(host, cleans) > before):
            if time.monotonic() > deadline:
                what = "some of our flows are missing" if gaps.seen else "none of ours was deleted"
                raise FedsdnError(f"{host.name}: {what}, {_LIMIT_SECONDS:g} s after the start")
            with suppress(BridgeQuietError):
                watch.until(gaps.look, _LOOK_SECONDS)
        started.result()
    return gaps.longest


def _start(host: Host) -> None:
    """Start it, and give it a port when it knows those that there are."""
    host.run("ovs-vsctl", "--if-exists", "del-port", INTEGRATION_BRIDGE, _PORT)
    before = _said(host, _KNOWS_PORTS)
    agent = neutron.start_agent(host)
    wait_until(
        lambda: _said(host, _KNOWS_PORTS) > before,
        _LIMIT_SECONDS,
        lambda: f"{host.name}: the agent does not begin: {agent.last_line()}",
    )
    port = ("add-port", INTEGRATION_BRIDGE, _PORT, "--", "set", "Interface", _PORT, "type=internal")
    host.run("ovs-vsctl", *port)


def _said(host: Host, words: str) -> int:
    return host.log(neutron.AGENT).read_text(errors="replace").count(words)


class _Gaps:
    """The times for which some of our flows were missing."""

    def __init__(self, is_whole: Condition) -> None:
        self._is_whole = is_whole
        self._since: float | None = None
        self._last = 0.0
        self.longest = 0.0

    def look(self, mirror: Mirror) -> bool:
        """Look at the bridge after a change; there is always more to come."""
        now = time.monotonic()
        if any(is_ours(mirror.flows[key]) for key in mirror.changed & mirror.flows.keys()):
            self._last = now  # what was deleted may be back before we look
        mirror.changed.clear()
        if not self._is_whole(mirror):
            self._since = self._since or now
        elif self._since is not None:
            self.longest = max(self.longest, now - self._since)
            self._since, self._last = None, now
        return False

    @property
    def seen(self) -> bool:
        """Whether there was one."""
        return self._last > 0.0

    def are_over(self) -> bool:
        """Whether there was one, and none for a while."""
        quiet = time.monotonic() - self._last > _QUIET_SECONDS
        return self._since is None and self.seen and quiet
