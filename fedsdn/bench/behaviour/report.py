"""The comparison for people."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from fedsdn.bench.behaviour.run import BehaviourResults, Compared

Rows = Sequence[Sequence[str]]


def table(results: BehaviourResults) -> tuple[str, Sequence[str], Rows]:
    """Return title, headings and rows; IP versions that saw the same share one."""
    rows = []
    for _, members in groupby(results.compared, _what_was_seen):
        several = list(members)
        one = several[0]
        families = ", ".join(f"IPv{other.family}" for other in several)
        rows.append((one.name, one.does, families, one.near, one.far, one.verdict, one.why))
    return (
        "What an application sees between two VMs of one site, and of two",
        ("case", "what is done", "IP", "near", "far", "same?", ""),
        rows,
    )


def _what_was_seen(one: Compared) -> tuple[str, ...]:
    return (one.name, one.near, one.far, one.verdict, one.why)
