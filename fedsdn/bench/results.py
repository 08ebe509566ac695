"""Results of a run, and their comparison with the bounds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from fedsdn.bench.cases import Control, Kind
from fedsdn.bench.deletion import Deletion
from fedsdn.bench.figures import Summary, percentile, summary
from fedsdn.bench.flaps import Flaps
from fedsdn.bench.loss import MeasuredLoss
from fedsdn.bench.uneven import Carried, Wires

OVER_RTT_MS = 50.0
"""Bound of the silence beyond the RTT after a reported loss, at the 99th percentile."""
SILENT_MS = 400.0
BACK_MS = 1000.0


@dataclass(slots=True)
class Results:
    """Everything that was measured; ``broken`` are the losses of data, resets and wrong states."""

    losses: list[MeasuredLoss] = field(default_factory=list)
    deletion: Deletion | None = None
    flaps: Flaps | None = None
    carried: list[Carried] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Judged:
    """One class of losses: its figures in ms, the bound, and whether it was met (None: no bound).

    ``rtt`` is the median round-trip time, where the bound depends on it, and ``over_rtt`` the 99th
    percentile of what each silence had beyond its own (beyond 0, where it is not known). ``noise``
    is that of the longest silence in the second before each loss: the machine's own part.
    """

    kind: Kind
    control: Control
    live: int
    figures: Summary
    bound: str
    met: bool | None
    rtt: float | None = None
    over_rtt: float | None = None
    noise: float | None = None


def _classes(
    losses: Iterable[MeasuredLoss],
) -> Iterator[tuple[tuple[Kind, Control, int], list[MeasuredLoss]]]:
    classes: dict[tuple[Kind, Control, int], list[MeasuredLoss]] = {}
    for loss in losses:
        key = (loss.case.kind, loss.case.control, loss.case.live)
        classes.setdefault(key, []).append(loss)
    order = {key: number for number, key in enumerate((*Control, *Kind))}
    yield from sorted(
        classes.items(), key=lambda item: (item[0][2], order[item[0][1]], order[item[0][0]])
    )


def silences(losses: Sequence[MeasuredLoss]) -> Iterator[Judged]:
    """Judge the receiver's longest silence of each class."""
    for (kind, control, live), members in _classes(losses):
        found = summary(loss.silence_ms for loss in members)
        rtt = summary(loss.rtt_ms for loss in members if loss.rtt_ms is not None)
        over = percentile([loss.silence_ms - (loss.rtt_ms or 0.0) for loss in members], 99)
        if found is None:
            continue
        if kind is Kind.SILENT:
            bound, met = f"{SILENT_MS:.0f}", found.p99 <= SILENT_MS
        else:
            bound, met = f"RTT + {OVER_RTT_MS:.0f}", over <= OVER_RTT_MS
        bounded = control is Control.APPLICATION
        yield Judged(
            *(kind, control, live, found),
            bound if bounded else "",
            met if bounded else None,
            rtt.median if rtt else None,
            over,
            percentile([loss.noise_ms for loss in members], 99),
        )


def returns(losses: Sequence[MeasuredLoss]) -> Iterator[Judged]:
    """Judge the time until a restored uplink is used again, of each class."""
    for (kind, control, live), members in _classes(losses):
        found = summary(math.inf if loss.back_ms is None else loss.back_ms for loss in members)
        if found is not None:
            bounded = control is Control.APPLICATION
            bound, met = f"{BACK_MS:.0f}", found.p99 <= BACK_MS
            yield Judged(
                kind, control, live, found, bound if bounded else "", met if bounded else None
            )


@dataclass(frozen=True, slots=True)
class Compared:
    """What connections carried over both wires, and over the best alone, in Mbit/s (medians)."""

    wires: Wires
    n: int
    both: float
    alone: float
    early_both: float
    early_alone: float

    @property
    def met(self) -> bool:
        """Whether both wires carry as much as the best alone."""
        return self.both >= self.alone


def comparisons(carried: Iterable[Carried]) -> Iterator[Compared]:
    """Compare both wires with the best alone, for every way in which they are uneven."""
    found = list(carried)
    for wires in Wires:
        both = [one for one in found if one.wires is wires and one.both]
        alone = [one for one in found if one.wires is wires and not one.both]
        if both and alone:
            yield Compared(
                *(wires, len(both)),
                *(median(one.mbit for one in both), median(one.mbit for one in alone)),
                median(one.early_mbit for one in both),
                median(one.early_mbit for one in alone),
            )
