"""A bridge's rows grouped by table, as a person or a program reads them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedsdn.flowtable.compare import Fault, Finding
from fedsdn.flowtable.dump import DumpedRow
from fedsdn.flowtable.names import named_actions, named_match, table_name
from fedsdn.flowtable.purpose import row_purpose, table_purpose
from fedsdn.pipeline.declarations import Table
from fedsdn.units import size

Rates = Mapping[tuple[int, int, str], tuple[float, float]]
"""Packets and bytes per second of rows, by their keys."""


@dataclass(frozen=True, slots=True)
class TableView:
    """The rows of one table, the highest priority first."""

    number: int
    rows: tuple[DumpedRow, ...]

    @property
    def name(self) -> str:
        """Name and number."""
        return table_name(self.number)

    @property
    def purpose(self) -> str:
        """What the table is for; empty if it is another's."""
        return table_purpose(Table(self.number)) if self.number in _OURS else ""


_OURS = frozenset(map(int, Table))


def tables(
    rows: Iterable[DumpedRow], only: Table | None = None, *, others: bool, nonzero: bool
) -> list[TableView]:
    """Group rows by table, in the order of the tables' numbers.

    ``only`` one table, if given; others' rows only if asked for; ``nonzero`` leaves out rows that
    no packet has met.
    """
    groups: defaultdict[int, list[DumpedRow]] = defaultdict(list)
    for row in rows:
        if (
            (only is None or row.table == only)
            and (row.ours or others)
            and (row.packets or not nonzero)
        ):
            groups[row.table].append(row)
    return [
        TableView(number, tuple(sorted(group, key=lambda row: (-row.priority, row.match))))
        for number, group in sorted(groups.items())
    ]


def rates(before: Iterable[DumpedRow], now: Iterable[DumpedRow], seconds: float) -> Rates:
    """Return how fast the counters of rows have grown in so many seconds."""
    old = {row.key: row for row in before}
    found = {}
    for row in now:
        then = old.get(row.key)
        packets, size = (row.packets or 0), (row.bytes or 0)
        if then is not None and (then.packets or 0) <= packets:
            packets, size = packets - (then.packets or 0), size - (then.bytes or 0)
        found[row.key] = packets / seconds, size / seconds
    return found


def why(row: DumpedRow) -> str:
    """Return what a row is for; empty if nobody knows."""
    return row_purpose(row.origin) if row.origin else ""


def source(row: DumpedRow) -> str:
    """Return the source line that made a row; ``somebody else`` if it is not ours."""
    if row.origin:
        return row.origin.source
    return "another version of fedsdn" if row.ours else "somebody else"


def text(views: Sequence[TableView], rates: Rates | None = None) -> Iterator[str]:
    """Write tables as lines for a terminal; with ``rates``, these instead of the counters."""
    for view in views:
        yield f"{view.name}  {view.purpose}".rstrip()
        above = None
        for row in view.rows:
            heading = why(row), source(row)
            if heading != above:
                above = heading
                yield f"  # {heading[0]} ({heading[1]})" if heading[0] else f"  # {heading[1]}"
            yield f"  {row.priority:>5} {_traffic(row, rates)}  {named_match(row)}"
            yield f"{'':>27}→ {named_actions(row)}"
        yield ""


def _traffic(row: DumpedRow, rates: Rates | None) -> str:
    if rates is not None:
        packets, byte_rate = rates.get(row.key, (0.0, 0.0))
        return f"{packets:>7.0f}/s {size(byte_rate):>8}/s"
    if row.packets is None:
        return f"{'':>18}"
    return f"{row.packets:>9} {size(row.bytes or 0):>9}"


def document(views: Sequence[TableView]) -> list[dict[str, Any]]:
    """Write tables as what JSON holds."""
    return [
        {
            "table": view.number,
            "name": view.name,
            "purpose": view.purpose,
            "rows": [row_document(row) for row in view.rows],
        }
        for view in views
    ]


def row_document(row: DumpedRow) -> dict[str, Any]:
    """Write a row as what JSON holds."""
    return {
        "table": row.table,
        "priority": row.priority,
        "match": named_match(row),
        "actions": named_actions(row),
        "why": why(row),
        "source": source(row),
        "feature": row.origin.feature.name.lower() if row.origin else None,
        "cookie": f"{row.cookie:#x}",
        "packets": row.packets,
        "bytes": row.bytes,
        "seconds": row.seconds,
    }


def finding_text(finding: Finding) -> Iterator[str]:
    """Write a difference as lines for a terminal."""
    row, other = finding.row, finding.other
    purpose = f": {why(row)}" if why(row) else ""
    yield f"{finding.fault.upper():9} {table_name(row.table)}, priority {row.priority}{purpose}"
    yield f"          {named_match(row)} → {named_actions(row)}"
    if finding.fault is Fault.SHADOWED and other is not None:
        yield f"   behind {other.priority} {named_match(other)} → {named_actions(other)}"
    elif other is not None:
        yield f"       is {named_actions(other)} (cookie {other.cookie:#x}, not {row.cookie:#x})"


def finding_document(finding: Finding) -> dict[str, Any]:
    """Write a difference as what JSON holds."""
    other = None if finding.other is None else row_document(finding.other)
    return {"fault": finding.fault, "row": row_document(finding.row), "other": other}
