"""The benchmark of health checks: how soon a dead backend is seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from fedsdn.bench.behaviour.case import FULL, Ends, Where
from fedsdn.bench.behaviour.opening import DEAD_CHECK, dead_checks, is_late
from fedsdn.bench.guests import guests
from fedsdn.config.model import Family
from fedsdn.lab.build import Progress
from fedsdn.lab.lab import Lab

_FAMILIES: tuple[Family, ...] = (4, 6)


@dataclass(slots=True)
class HealthResults:
    """By which check each death was seen (None: never), near and far, with each IP version."""

    seen: dict[str, list[int | None]] = field(default_factory=dict)

    @property
    def broken(self) -> list[str]:
        """Say which deaths were seen too late."""
        return [
            f"{name}: {len(late)} deaths seen later than by check {DEAD_CHECK}, or never"
            for name, checks in self.seen.items()
            if (late := [check for check in checks if is_late(check)])
        ]


def run(lab: Lab, rounds: int, results: HealthResults, report: Progress) -> None:
    """Have a backend die so many times; ``results`` has what was found so far at any time.

    Raises:
        FedsdnError: the VMs cannot be made.

    """
    near, far = [site.name for site in lab.topology.sites][:2]
    with guests(lab, {near: 2, far: 1}) as made:
        client, neighbour = made[near]
        for where, server in ((Where.NEAR, neighbour), (Where.FAR, made[far][0])):
            for family in _FAMILIES:
                ends = Ends(client, server, server, (), family, FULL)
                results.seen[f"{where}, IPv{family}"] = dead_checks(ends, rounds)
                report(f"{where}, IPv{family}: {rounds} deaths")


def table(results: HealthResults) -> tuple[str, Sequence[str], Sequence[Sequence[str]]]:
    """Return title, headings and rows."""
    columns = range(1, DEAD_CHECK + 1)
    rows = []
    for name, checks in results.seen.items():
        counts = Counter(checks)
        later = sum(map(is_late, checks)) - counts[None]
        rows.append((name, *(str(counts[one]) for one in columns), str(later), str(counts[None])))
    return (
        "A backend that dies: which health check sees it first",
        ("backend", *(f"check {check}" for check in columns), "later", "never"),
        rows,
    )
