"""A bridge's flows grouped by table, for people and as JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedsdn.inspect.flows.names import named_actions, named_match, table_name
from fedsdn.inspect.flows.purpose import flow_purpose, table_purpose
from fedsdn.ovs.comparison import Fault, Finding
from fedsdn.ovs.flows import DumpedFlow
from fedsdn.pipeline.declarations import Table
from fedsdn.units import size

Rates = Mapping[tuple[int, int, str], tuple[float, float]]
"""Packets and bytes per second of flows, by their keys."""


@dataclass(frozen=True, slots=True)
class TableView:
    """The flows of one table, the highest priority first."""

    number: int
    flows: tuple[DumpedFlow, ...]

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
    flows: Iterable[DumpedFlow], only: Table | None = None, *, others: bool, nonzero: bool
) -> list[TableView]:
    """Group flows by table, in the order of the tables' numbers.

    ``only`` one table, if given; others' flows only if asked for; ``nonzero`` leaves out flows that
    no packet has met.
    """
    groups: defaultdict[int, list[DumpedFlow]] = defaultdict(list)
    for flow in flows:
        if (
            (only is None or flow.table == only)
            and (flow.ours or others)
            and (flow.packets or not nonzero)
        ):
            groups[flow.table].append(flow)
    return [
        TableView(number, tuple(sorted(group, key=lambda flow: (-flow.priority, flow.match))))
        for number, group in sorted(groups.items())
    ]


def rates(before: Iterable[DumpedFlow], now: Iterable[DumpedFlow], seconds: float) -> Rates:
    """Return how fast the counters of flows have grown in so many seconds."""
    old = {flow.key: flow for flow in before}
    found = {}
    for flow in now:
        then = old.get(flow.key)
        packets, size = (flow.packets or 0), (flow.bytes or 0)
        if then is not None and (then.packets or 0) <= packets:
            packets, size = packets - (then.packets or 0), size - (then.bytes or 0)
        found[flow.key] = packets / seconds, size / seconds
    return found


def why(flow: DumpedFlow) -> str:
    """Return what a flow is for; empty if that is unknown."""
    return flow_purpose(flow.origin) if flow.origin else ""


def source(flow: DumpedFlow) -> str:
    """Return the source line that made a flow; ``another owner`` if it is not ours."""
    if flow.origin:
        return flow.origin.source
    return "another version of fedsdn" if flow.ours else "another owner"


def text(views: Sequence[TableView], rates: Rates | None = None) -> Iterator[str]:
    """Write tables as lines for a terminal; with ``rates``, these instead of the counters."""
    for view in views:
        yield f"{view.name}  {view.purpose}".rstrip()
        above = None
        for flow in view.flows:
            heading = why(flow), source(flow)
            if heading != above:
                above = heading
                yield f"  # {heading[0]} ({heading[1]})" if heading[0] else f"  # {heading[1]}"
            yield f"  {flow.priority:>5} {_traffic(flow, rates)}  {named_match(flow)}"
            yield f"{'':>27}→ {named_actions(flow)}"
        yield ""


def _traffic(flow: DumpedFlow, rates: Rates | None) -> str:
    if rates is not None:
        packets, byte_rate = rates.get(flow.key, (0.0, 0.0))
        return f"{packets:>7.0f}/s {size(byte_rate):>8}/s"
    if flow.packets is None:
        return f"{'':>18}"
    return f"{flow.packets:>9} {size(flow.bytes or 0):>9}"


def document(views: Sequence[TableView]) -> list[dict[str, Any]]:
    """Write tables as what JSON holds."""
    return [
        {
            "table": view.number,
            "name": view.name,
            "purpose": view.purpose,
            "flows": [flow_document(flow) for flow in view.flows],
        }
        for view in views
    ]


def flow_document(flow: DumpedFlow) -> dict[str, Any]:
    """Write a flow as what JSON holds."""
    return {
        "table": flow.table,
        "priority": flow.priority,
        "match": named_match(flow),
        "actions": named_actions(flow),
        "why": why(flow),
        "source": source(flow),
        "feature": flow.origin.feature.name.lower() if flow.origin else None,
        "cookie": f"{flow.cookie:#x}",
        "packets": flow.packets,
        "bytes": flow.bytes,
        "seconds": flow.seconds,
    }


def finding_text(finding: Finding) -> Iterator[str]:
    """Write a difference as lines for a terminal."""
    flow, other = finding.flow, finding.other
    purpose = f": {why(flow)}" if why(flow) else ""
    yield f"{finding.fault.upper():9} {table_name(flow.table)}, priority {flow.priority}{purpose}"
    yield f"          {named_match(flow)} → {named_actions(flow)}"
    if finding.fault is Fault.SHADOWED and other is not None:
        place = "" if other.table == flow.table else f"{table_name(other.table)}, priority "
        yield f"   behind {place}{other.priority} {named_match(other)} → {named_actions(other)}"
    elif other is not None:
        yield f"       is {named_actions(other)} (cookie {other.cookie:#x}, not {flow.cookie:#x})"


def finding_document(finding: Finding) -> dict[str, Any]:
    """Write a difference as what JSON holds."""
    other = None if finding.other is None else flow_document(finding.other)
    return {"fault": finding.fault, "flow": flow_document(finding.flow), "other": other}
