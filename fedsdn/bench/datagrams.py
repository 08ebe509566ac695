"""The benchmark of what is not TCP: uplinks that are lost under flows, and how much they carry."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from fedsdn.bench.cases import Kind
from fedsdn.bench.datagram_rates import FLOWS, WIRE_MBIT, Carried, measure
from fedsdn.bench.figures import Summary, summary
from fedsdn.bench.rig import Rig
from fedsdn.bench.ticked import Fate, OneWay, fate
from fedsdn.bench.ticker import BYTES, EVERY_SECONDS
from fedsdn.bench.ticking import finish, ticking
from fedsdn.config.model import Family
from fedsdn.errors import FedsdnError
from fedsdn.lab.build import Progress
from fedsdn.traffic.values import TransferDirection

_METER_SECONDS = 0.5
_WATCH_SECONDS = 1.5
_BEFORE_SECONDS = 0.5
"""Datagrams that are sent so long before a loss are under way when it comes."""

_TRIES = 20
_USED_PART = 0.5
"""A wire that carries this part of a flow carries the flow."""

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
    """One loss: what became of the datagrams of each direction that was on the lost wire.

    ``others`` are those that were not.
    """

    kind: Kind
    family: Family
    hit: tuple[Fate, ...]
    others: tuple[Fate, ...]


@dataclass(slots=True)
class DatagramResults:
    """Everything that was measured, and the bound of what a silent loss may cost."""

    losses: list[DatagramLoss] = field(default_factory=list)
    carried: list[Carried] = field(default_factory=list)
    silent_bound: int = 0

    def lost(self, kind: Kind) -> Summary | None:
        """Sum up the datagrams that losses of a kind have cost a direction each."""
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


def _measure(rig: Rig, kind: Kind, n: int) -> DatagramLoss:
    rig.wait_steady()
    family = _FAMILIES[n % 2]
    path = rig.path(family)
    ends = ((path.near_vm.shell, path.source), (path.far_vm.shell, path.destination))
    with ticking(*ends) as (near, far):
        used = _used_wires(rig)
        wire = used[_DIRECTIONS[n // 2 % 2]]
        lost = time.monotonic()
        rig.lose(kind, wire, "upload")
        time.sleep(_WATCH_SECONDS)
        restored = time.monotonic()
        rig.restore(kind, wire, "upload")
        rig.wait_steady()
        end = time.monotonic()
        (sent, came), (sent_back, came_back) = finish(near), finish(far)
    ways = {"upload": OneWay(sent, came_back), "download": OneWay(sent_back, came)}
    begin, changes = lost - _BEFORE_SECONDS, (lost, restored)
    fates = {name: fate(way, begin, end, changes) for name, way in ways.items()}
    return DatagramLoss(
        kind=kind,
        family=family,
        hit=tuple(fates[name] for name in _DIRECTIONS if used[name] == wire),
        others=tuple(fates[name] for name in _DIRECTIONS if used[name] != wire),
    )


def _used_wires(rig: Rig) -> dict[TransferDirection, int]:
    """Return which wire each direction is on; a flow that changes just now is waited for.

    Raises:
        FedsdnError: a flow stays on none, or on both.

    """
    for _ in range(_TRIES):
        found = _carrying(rig)
        if all(len(wires) == 1 for wires in found.values()):
            return {direction: wires[0] for direction, wires in found.items()}
    raise FedsdnError(f"a flow of datagrams is not on one wire: {found}; see that the lab is idle")


def _carrying(rig: Rig) -> dict[TransferDirection, list[int]]:
    meters = {direction: rig.meter(direction) for direction in _DIRECTIONS}
    began = time.monotonic()
    while time.monotonic() < began + _METER_SECONDS * 1.2:  # the first samples take a while
        for meter in meters.values():
            meter.sample()
    least = _USED_PART * BYTES / EVERY_SECONDS
    return {
        direction: [wire for wire in (0, 1) if meter.rate(wire, _METER_SECONDS) > least]
        for direction, meter in meters.items()
    }
