"""The benchmark of a shared bridge: how soon flows that others take away or change are back.

Beside connections that talk all the time, none of which may end.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from threading import Thread

from fedsdn.appearance import Appearance
from fedsdn.bench import repair_agent
from fedsdn.bench.bridge_watch import BridgeGoneError, BridgeQuietError, BridgeWatch
from fedsdn.bench.figures import Summary, summary
from fedsdn.bench.reconnects import Reconnects, reconnect
from fedsdn.bench.rig import Rig
from fedsdn.config.model import Family
from fedsdn.errors import FedsdnError
from fedsdn.lab.build import Progress
from fedsdn.lab.host import Host
from fedsdn.lab.switch import kill_vswitchd, start_vswitchd
from fedsdn.openflow.difference import TABLE_MISS
from fedsdn.openflow.mirror import Mirror, is_ours
from fedsdn.openflow.wire import Key, WireFlow
from fedsdn.shell import Started

CONNECTIONS = 200
_PROGRAM = "fedsdn.bench.talk"
_PORT = 7007
_FAMILIES: tuple[Family, ...] = (4, 6)
_LIMIT_SECONDS = 30.0
_LOOK_SECONDS = 0.02
_NOTHING_SECONDS = 2.0
_NOBODY = "tcp:127.0.0.1:6633"
"""A controller that is not there, as Neutron's agent is not while it restarts."""
_STRANGER = 0x1234


class Harm(StrEnum):
    """What somebody else does."""

    DELETED = "one-deleted"
    CHANGED = "one-changed"
    ALL = "all-deleted"
    CONTROLLERS = "controllers-overwritten"
    RESTARTED = "vswitchd-killed"
    AGENT = "neutron-agent-restarted"
    """Only where Neutron owns the bridge."""


BOUNDS_MS: Mapping[Harm, float] = {
    Harm.DELETED: 50.0,
    Harm.CHANGED: 50.0,
    Harm.ALL: 500.0,
    Harm.CONTROLLERS: 500.0,
    Harm.RESTARTED: 500.0,
    Harm.AGENT: 500.0,
}
"""Of the 99th percentile: single flows, and all of them."""

_PAUSE_SECONDS: Mapping[Harm, float] = {
    Harm.DELETED: 0.05,
    Harm.CHANGED: 0.05,
    Harm.ALL: 0.5,
    Harm.CONTROLLERS: 0.5,
    Harm.RESTARTED: 3.0,
    Harm.AGENT: 1.0,
}
"""Afterwards: what was lost is sent again, ever more rarely if that is lost, too (RFC 6298)."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How often each harm is done, and the connection closed."""

    times: Mapping[Harm, int]
    reconnects: int


FULL = Effort(dict(zip(Harm, (100, 100, 20, 20, 20, 20), strict=True)), 500)
QUICK = Effort(dict(zip(Harm, (20, 20, 4, 4, 2, 2), strict=True)), 20)


@dataclass(frozen=True, slots=True)
class Talked:
    """What was said meanwhile: ``longest`` is the time of one message and its answer, in s."""

    exchanged: int
    longest: float
    errors: Mapping[str, int]


@dataclass(slots=True)
class RepairResults:
    """Times in ms until all flows were back.

    From the message that did it; for a list of controllers from the first flow that was deleted,
    for a start of ovs-vswitchd from the moment at which it takes connections, and for one of the
    agent the longest time for which some were missing. ``load`` is the
    machine's load average over a minute, at its highest.
    """

    connections: int = 0
    flows: int = 0
    load: float = 0.0
    times_ms: dict[Harm, list[float]] = field(default_factory=dict)
    talked: dict[Harm, Talked] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    reconnects: Reconnects | None = None

    @property
    def broken(self) -> list[str]:
        """Say which connections ended, and which figures are beyond their bounds."""
        ended = (
            f"{harm}: {count} connections ended by {error}"
            for harm, talked in self.talked.items()
            for error, count in talked.errors.items()
        )
        beyond = (
            f"{harm}: {found.p99:.0f} ms at the 99th percentile are more than {BOUNDS_MS[harm]:g}"
            for harm, found in self.figures()
            if found.p99 > BOUNDS_MS[harm]
        )
        return [*self.errors, *ended, *beyond, *(self.reconnects.broken if self.reconnects else ())]

    def figures(self) -> Iterator[tuple[Harm, Summary]]:
        """Sum the times up."""
        for harm, times in self.times_ms.items():
            if (found := summary(times)) is not None:
                yield harm, found


def run(rig: Rig, effort: Effort, results: RepairResults, report: Progress) -> None:
    """Do harm; ``results`` has what was found so far at any time.

    Raises:
        FedsdnError: the connections cannot be opened, or the lab has no agent that is to restart.

    """
    near = rig.sites[0]
    has_agent = (rig.lab.topology.sites[0].integration or "").startswith("neutron")
    if effort.times.keys() == {Harm.AGENT} and not has_agent:
        raise FedsdnError("this lab has no agent of Neutron's: add '--topology topo/neutron.yaml'")
    bridge = _Bridge(rig.lab.host(near.name), near.bridge)
    with _talking(rig) as talk:
        results.connections = CONNECTIONS
        for harm, count in effort.times.items():
            if harm is Harm.AGENT and not has_agent:
                continue
            times = results.times_ms[harm] = []
            try:
                for number in range(count):
                    times.append(1000 * _DO[harm](bridge, number))
                    time.sleep(_PAUSE_SECONDS[harm])
                    results.load = max(results.load, os.getloadavg()[0])
            except FedsdnError as error:
                results.errors.append(f"{harm}, after {len(times)} times: {error}")
            results.flows = len(bridge.flows)
            results.talked[harm] = Talked(**json.loads(talk.ask("")))
            report(f"{harm}: {len(times)} times")
    if effort.reconnects:
        results.reconnects = reconnect(
            *(bridge.host, bridge.name, effort.reconnects), lambda: _connected(bridge)
        )


@contextmanager
def _talking(rig: Rig) -> Iterator[Started]:
    """Have connections between the sites' last VMs talk while the block runs."""
    near, far = (view.vms[-1] for view in rig.sites)
    addresses = [str(one) for family in _FAMILIES if (one := far.address(family)) is not None]
    count = str(CONNECTIONS // len(addresses))
    serve = (*far.shell.module(_PROGRAM), "serve", str(_PORT))
    connect = (*near.shell.module(_PROGRAM), "connect", str(_PORT), count, *addresses)
    with far.shell.started(*serve) as server:
        if not server.line():
            server.finish()
        with near.shell.started(*connect) as client:
            if not client.line():
                client.finish()
                raise FedsdnError(f"{client.name} opened no connections")
            yield client


class _Bridge:
    """A site's bridge, and the flows that it has as long as nobody does it harm."""

    def __init__(self, host: Host, name: str) -> None:
        self.host = host
        self.name = name
        self.path: Path = host.run_directory / "openvswitch" / f"{name}.mgmt"
        self.controllers = host.run("ovs-vsctl", "get-controller", name).split()
        with self.watched() as watch:
            self.flows = {key: one for key, one in watch.mirror.flows.items() if is_ours(one)}
        self._single = [flow for key, flow in self.flows.items() if key != TABLE_MISS]
        """But for the table-miss flow: another owner's in its place stays there."""

    @contextmanager
    def watched(self) -> Iterator[BridgeWatch]:
        """Watch it, from a moment at which nothing is new."""
        with BridgeWatch(self.path) as watch:
            watch.until(lambda _: True, _LIMIT_SECONDS)
            watch.mirror.changed.clear()
            yield watch

    def whole_again(self, watch: BridgeWatch, harmed: set[Key]) -> float:
        """Wait until those have changed, and all of ours are as they were; return when."""
        return watch.until(
            lambda mirror: harmed <= mirror.changed and self.is_whole(mirror), _LIMIT_SECONDS
        )

    def is_whole(self, mirror: Mirror) -> bool:
        """Whether all of our flows are there."""
        return self.flows.items() <= mirror.flows.items()

    def pick(self, number: int) -> WireFlow:
        """Take one flow after the other, from everywhere."""
        return self._single[number * 37 % len(self._single)]


def _delete(bridge: _Bridge, number: int) -> float:
    flow = bridge.pick(number)
    return _send(bridge, flow.delete(1), flow)


def _change(bridge: _Bridge, number: int) -> float:
    flow = bridge.pick(number)
    return _send(bridge, flow._replace(cookie=_STRANGER, instructions=b"").add(1), flow)


def _send(bridge: _Bridge, message: bytes, harmed: WireFlow) -> float:
    with bridge.watched() as watch:
        began = time.monotonic()
        watch.send(message)
        return bridge.whole_again(watch, {harmed.key}) - began


def _connected(bridge: _Bridge) -> None:
    """See that the application has a connection again: it puts a flow back."""
    while True:
        with suppress(BridgeGoneError):
            _delete(bridge, 0)
            return


def _delete_all(bridge: _Bridge, _number: int) -> float:
    with bridge.watched() as watch:
        began = time.monotonic()
        watch.delete_all()
        return bridge.whole_again(watch, set(bridge.flows)) - began


def _overwrite_controllers(bridge: _Bridge, number: int) -> float:
    """Set one that is not there, and in turn what was set before.

    With the first one, and when the last is taken away, Open vSwitch deletes all flows.
    """
    before = ("set-controller", *bridge.controllers) if bridge.controllers else ("del-controller",)
    command, *targets = before if number % 2 else ("set-controller", _NOBODY)
    with (
        bridge.watched() as watch,
        _beside(lambda: bridge.host.run("ovs-vsctl", command, bridge.name, *targets)),
    ):
        try:
            began = watch.until(lambda mirror: bool(mirror.changed), _NOTHING_SECONDS)
        except BridgeQuietError:
            return 0.0  # none was lost
        return bridge.whole_again(watch, set(bridge.flows)) - began


def _restart(bridge: _Bridge, _number: int) -> float:
    """Kill it; a bridge that comes up may close its first connections again."""
    kill_vswitchd(bridge.host)
    with _beside(lambda: start_vswitchd(bridge.host)):
        began = None
        deadline = time.monotonic() + _LIMIT_SECONDS
        while time.monotonic() < deadline:
            with suppress(BridgeGoneError), _appeared(bridge.path) as watch:
                began = began or time.monotonic()
                return (
                    watch.until(lambda mirror: mirror.flows == bridge.flows, _LIMIT_SECONDS) - began
                )
    raise FedsdnError(f"nobody listens at {bridge.path} for long")


def _restart_agent(bridge: _Bridge, _number: int) -> float:
    with bridge.watched() as watch:
        return repair_agent.restart(bridge.host, bridge.name, watch, bridge.is_whole)


@contextmanager
def _beside(work: Callable[[], object]) -> Iterator[Thread]:
    """Have something done while the block runs, and to its end."""
    thread = Thread(target=work)
    thread.start()
    try:
        yield thread
    finally:
        thread.join()


def _appeared(path: Path) -> BridgeWatch:
    """Connect as soon as there is somebody to connect to."""
    deadline = time.monotonic() + _LIMIT_SECONDS
    while time.monotonic() < deadline:
        with Appearance(path) as appeared:
            try:
                return BridgeWatch(path)
            except OSError:
                appeared.wait(_LOOK_SECONDS)
    raise FedsdnError(f"nobody listens at {path} after {_LIMIT_SECONDS:g} s")


_DO: Mapping[Harm, Callable[[_Bridge, int], float]] = {
    Harm.DELETED: _delete,
    Harm.CHANGED: _change,
    Harm.ALL: _delete_all,
    Harm.CONTROLLERS: _overwrite_controllers,
    Harm.RESTARTED: _restart,
    Harm.AGENT: _restart_agent,
}


def table(results: RepairResults) -> tuple[str, Sequence[str], Sequence[Sequence[str]]]:
    """Return title, headings and rows."""
    rows = []
    for harm, found in results.figures():
        talked = results.talked.get(harm)
        said = (
            (str(sum(talked.errors.values())), f"{1000 * talked.longest:.0f}")
            if talked
            else ("", "")
        )
        rows.append((
            *(harm, str(found.n), f"{found.median:.1f}", f"{found.p99:.1f}"),
            *(f"{found.worst:.1f}", f"{BOUNDS_MS[harm]:g}", *said),
        ))  # fmt: skip
    return (
        f"Until all {results.flows} flows are as they were, ms ({results.connections} connections "
        f"that talk, load average {results.load:.1f} on {os.cpu_count()} CPUs)",
        ("what is done", "times", "median", "p99", "worst", "bound", "resets", "longest answer"),
        rows,
    )
