"""The benchmark of losing uplinks: its parts, in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from fedsdn.bench import deletion, flaps, loss, uneven
from fedsdn.bench.cases import Case, Control, losses, losses_beside
from fedsdn.bench.live import live_connections
from fedsdn.bench.results import Results
from fedsdn.bench.rig import Rig
from fedsdn.bench.uneven import Carried
from fedsdn.lab.build import Progress


class Part(StrEnum):
    """A part that can be measured alone."""

    LOSSES = "losses"
    LIVE = "live"
    DELETION = "deletion"
    FLAPS = "flaps"
    UNEVEN = "uneven"


@dataclass(frozen=True, slots=True)
class Effort:
    """Losses per class, idle connections, flaps and rounds of uneven wires to be measured."""

    losses: int
    live: int
    deletion: int
    flaps: int
    flaps_live: int
    uneven: int


FULL = Effort(losses=32, live=1000, deletion=5000, flaps=200, flaps_live=200, uneven=8)
QUICK = Effort(losses=4, live=100, deletion=500, flaps=20, flaps_live=50, uneven=2)


def run(
    rig: Rig, effort: Effort, parts: Iterable[Part], seed: int, results: Results, report: Progress
) -> None:
    """Measure the parts that are asked for; ``results`` has what was found so far at any time.

    Raises:
        FedsdnError: something cannot be measured.

    """
    wanted = set(parts)
    if Part.LOSSES in wanted:
        _losses(rig, losses(effort.losses), results, report)
    if Part.LIVE in wanted:
        report(f"opening {effort.live} connections")
        with live_connections(rig, effort.live) as live:
            _losses(rig, losses_beside(effort.losses, effort.live), results, report)
            results.broken += _counted(f"of {effort.live} idle connections", live.finish())
    if Part.DELETION in wanted:
        report(f"deleting an endpoint with {effort.deletion} connections")
        results.deletion = deletion.measure(rig, effort.deletion, 0)
        results.broken += _counted("endpoint deleted", results.deletion.errors)
    if Part.FLAPS in wanted:
        report(f"flapping {effort.flaps} times, seed {seed}")
        results.flaps = flaps.measure(rig, seed, effort.flaps, effort.flaps_live)
        results.broken += _counted("flaps", results.flaps.errors)
        if results.flaps.settled_ms is None:
            results.broken.append(f"after the flaps: {results.flaps.endpoints}")
    if Part.UNEVEN in wanted:
        rig.put(Control.APPLICATION)
        _uneven(rig, effort.uneven, results, report)


def _losses(rig: Rig, cases: Iterable[Case], results: Results, report: Progress) -> None:
    for case in cases:
        found = loss.measure(rig, case)
        results.losses.append(found)
        back = "not within the limit" if found.back_ms is None else f"{found.back_ms:.0f} ms"
        report(f"{_name(case)}: silent for {found.silence_ms:.0f} ms, used again after {back}")
        if found.error:
            results.broken.append(f"{_name(case)}: {found.error}")


def _uneven(rig: Rig, rounds: int, results: Results, report: Progress) -> None:
    def note(found: Carried) -> None:
        results.carried.append(found)
        over = "both" if found.both else "the best alone"
        report(f"{found.wires}, {over}, {found.direction}: {found.mbit:.0f} Mbit/s")
        if found.error:
            results.broken.append(f"{found.wires}: {found.error}")

    uneven.measure(rig, rounds, note)


def _counted(what: str, errors: Iterable[str]) -> list[str]:
    return [f"{what}: {error} ({n} times)" for error, n in Counter(errors).items()]


def _name(case: Case) -> str:
    beside = f", {case.live} idle" if case.live else ""
    return (
        f"{case.control}, {case.kind}, uplink {case.uplink + 1}, {case.direction}, "
        f"IPv{case.family}{beside}"
    )
