"""The benchmark of what is not TCP: uplinks that are lost under flows, and how much they carry."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field

from fedsdn.bench.cases import Kind
from fedsdn.bench.datagram_rates import FLOWS, WIRE_MBIT, Carried, measure
from fedsdn.bench.figures import Summary, summary
from fedsdn.bench.rig import Rig
from fedsdn.bench.ticked import Fate, OneWay, fate
from fedsdn.bench.ticker import EVERY_SECONDS
from fedsdn.bench.ticking import finish, new_port, ticking
from fedsdn.config.model import Family
from fedsdn.lab.build import Progress
from fedsdn.lab.wait import wait_until
from fedsdn.pipeline.declarations import ct_tunnel_sent
from fedsdn.shell import Started
from fedsdn.traffic.values import TransferDirection
from fedsdn.tunnels.plan import tunnels
from fedsdn.tunnels.tracked import read_tracked
from fedsdn.verify.view import SiteView

_WATCH_SECONDS = 1.0
_BEFORE_SECONDS = 0.3
"""Datagrams that are sent so long before a loss are under way when it comes."""

_LIMIT_SECONDS = 30.0

_LOST_MEDIAN, _LOST_P99 = 5, 15
_DIRECTIONS: tuple[TransferDirection, ...] = ("upload", "download")
_FAMILIES: tuple[Family, ...] = (4, 6)
_KINDS = (Kind.WIRE, Kind.SILENT)


@dataclass(frozen=True, slots=True)
class Effort:
    """How many losses of each kind, and how many seconds each rate is measured."""

    losses: int
    seconds: float


FULL, QUICK = Effort(30, 10.0), Effort(4, 4.0)


@dataclass(frozen=True, slots=True)
class DatagramLoss:
    """One loss: what became of the datagrams of each flow and direction that was on the lost wire.

    ``others`` are those that were not.
    """

    kind: Kind
    hit: tuple[Fate, ...]
    others: tuple[Fate, ...]


@dataclass(slots=True)
class DatagramResults:
    """Everything that was measured, and the bound of what a silent loss may cost."""

    losses: list[DatagramLoss] = field(default_factory=list)
    carried: list[Carried] = field(default_factory=list)
    silent_bound: int = 0

    def lost(self, kind: Kind) -> Summary | None:
        """Sum up the datagrams that losses of a kind have cost a flow's direction each."""
        return summary(hit.lost for loss in self.losses if loss.kind is kind for hit in loss.hit)

    def silence(self, kind: Kind) -> Summary | None:
        """Sum up the receivers' longest silences in milliseconds, likewise."""
        found = (hit.silence for loss in self.losses if loss.kind is kind for hit in loss.hit)
        return summary(1000 * seconds for seconds in found)

    def bounds(self, kind: Kind) -> tuple[int, int]:
        """How many may be lost at the median, and at the 99th percentile."""
        if kind is Kind.WIRE:
            return _LOST_MEDIAN, _LOST_P99
        return self.silent_bound, self.silent_bound

    @property
    def broken(self) -> list[str]:
        """Say what is beyond its bound, and what no loss excuses."""
        found = []
        for kind in _KINDS:
            lost, (most_median, most_p99) = self.lost(kind), self.bounds(kind)
            if lost and (lost.median > most_median or lost.p99 > most_p99):
                found.append(
                    f"{kind}: {lost.median:g} datagrams lost at the median, {lost.p99:g} at p99; "
                    f"bounds {most_median} and {most_p99}"
                )
        fates = [one for loss in self.losses for one in (*loss.hit, *loss.others)]
        wrong = {
            "came more than once": sum(one.again for one in fates),
            "came out of order without a change of paths": sum(one.late_elsewhere for one in fates),
            "were lost on the wire that was left": sum(
                one.lost for loss in self.losses for one in loss.others
            ),
        }
        return found + [f"{number} datagrams {what}" for what, number in wrong.items() if number]


def run(rig: Rig, effort: Effort, results: DatagramResults, report: Progress) -> None:
    """Lose each wire again and again; ``results`` has what was found so far at any time.

    Raises:
        FedsdnError: nothing comes, or the lab does not obey.

    """
    near, _ = rig.sites
    rtt = 2 * max(wire.quality.delay_ms for wire in rig.wires) / 1000
    seconds = near.federation.probes.detection + rtt
    results.silent_bound = round(seconds / EVERY_SECONDS)
    rig.wait_steady()
    for n in range(effort.losses):
        for kind in _KINDS:
            results.losses.append(_measure(rig, kind, n))
        if n % 5 == 4:
            report(f"{n + 1} of {effort.losses} losses of each kind")
    if effort.seconds:
        for carried in measure(rig, effort.seconds):
            results.carried.append(carried)
            report(f"{carried.what} over {carried.wires}: {carried.mbit:.1f} Mbit/s")


def table(results: DatagramResults) -> tuple[str, Sequence[str], Sequence[Sequence[str]]]:
    """Return title, headings and rows of the losses."""
    rows = []
    for kind in _KINDS:
        lost, silence = results.lost(kind), results.silence(kind)
        if lost and silence:
            figures = [f"{one:g}" for one in (lost.median, lost.p99, lost.worst)]
            times = [f"{one:.0f}" for one in (silence.median, silence.p99)]
            bounds = " and ".join(map(str, results.bounds(kind)))
            rows.append((kind, str(lost.n), *figures, bounds, *times))
    return (
        "Datagrams lost with an uplink, at 100 a second each way",
        ("loss", "flows", "median", "p99", "worst", "bounds", "silence (ms): median", "p99"),
        rows,
    )


def rates_table(results: DatagramResults) -> tuple[str, Sequence[str], Sequence[Sequence[str]]]:
    """Return title, headings and rows of what was carried, beside what was measured first."""
    plain = results.carried[0].mbit
    return (
        f"Data that come over wires of {WIRE_MBIT:g} Mbit/s, in {FLOWS} flows",
        ("what", "wires", "Mbit/s", "beside the plain tunnel"),
        [
            (one.what, str(one.wires), f"{one.mbit:.1f}", f"{one.mbit / plain:.2f}")
            for one in results.carried
        ],
    )


Way = tuple[Family, TransferDirection]
"""A direction of the flow of an IP version."""


def _measure(rig: Rig, kind: Kind, n: int) -> DatagramLoss:
    """Lose the wire that carries one of the four ways, which takes turns."""
    port = new_port()
    with ExitStack() as stack:
        pairs = {family: stack.enter_context(_flow(rig, family, port)) for family in _FAMILIES}
        time.sleep(_BEFORE_SECONDS)
        used = used_wires(rig, port)
        wire = used[_FAMILIES[n % 2], _DIRECTIONS[n // 2 % 2]]
        lost = time.monotonic()
        rig.lose(kind, wire, "upload")
        time.sleep(_WATCH_SECONDS)
        restored = time.monotonic()
        rig.restore(kind, wire, "upload")
        rig.wait_steady()
        end = time.monotonic()
        ways = _ways(pairs)
    begin, changes = lost - _BEFORE_SECONDS, (lost, restored)
    fates = {way: fate(found, begin, end, changes) for way, found in ways.items()}
    return DatagramLoss(
        kind=kind,
        hit=tuple(one for way, one in fates.items() if used[way] == wire),
        others=tuple(one for way, one in fates.items() if used[way] != wire),
    )


def _flow(rig: Rig, family: Family, port: int) -> AbstractContextManager[tuple[Started, Started]]:
    path = rig.path(family)
    near, far = path.near_vm.shell, path.far_vm.shell
    return ticking((near, path.source), (far, path.destination), port)


def _ways(pairs: Mapping[Family, tuple[Started, Started]]) -> dict[Way, OneWay]:
    """End the flows, all at once; return what became of their datagrams."""
    ends = [one for pair in pairs.values() for one in pair]
    with ThreadPoolExecutor(len(ends)) as threads:
        said = dict(zip(ends, threads.map(finish, ends), strict=True))
    found: dict[Way, OneWay] = {}
    for family, (near, far) in pairs.items():
        (sent, came), (sent_back, came_back) = said[near], said[far]
        found[family, "upload"] = OneWay(sent, came_back)
        found[family, "download"] = OneWay(sent_back, came)
    return found


def used_wires(rig: Rig, port: int) -> dict[Way, int]:
    """Return which wire each way of a port's flows is on, by where conntrack saw the last packet.

    Raises:
        FedsdnError: a flow stays on none.

    """
    found: dict[Way, int] = {}

    def is_known() -> bool:
        for direction, view in zip(_DIRECTIONS, rig.sites, strict=True):
            wires = _wires_by_slot(rig, view)
            for one in read_tracked(view.proxy):
                slot = ct_tunnel_sent(one.mark)
                if one.destination_port == port and slot in wires:
                    found[one.source.version, direction] = wires[slot]
        return len(found) == len(_FAMILIES) * len(_DIRECTIONS)

    wait_until(is_known, _LIMIT_SECONDS, lambda: f"flows of datagrams are on {found or 'no wire'}")
    return found


def _wires_by_slot(rig: Rig, view: SiteView) -> dict[int, int]:
    """Return which wires a site's tunnels to the other site take, by the slots of their paths."""
    numbers = {rig.uplink(view, wire).name: wire for wire in (0, 1)}
    found = tunnels(view.federation, view.site)
    return {one.slot: numbers[one.uplink] for one in found if one.uplink in numbers}
