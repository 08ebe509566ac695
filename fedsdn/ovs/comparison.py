"""Faults of a bridge's flows: missing, changed, unknown, foreign, or never reached.

This compares a dump, with ports by name, and explains. The application compares OpenFlow messages
(``openflow.difference``): it has port numbers, and needs the message for each difference.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import takewhile

from ovs.flow.decoders import IntMask, IPMask

from fedsdn.ovs.flows import DumpedFlow, Parts, parse_flow
from fedsdn.pipeline.declarations import HookPriority, Table
from fedsdn.pipeline.flows import Flow
from fedsdn.pipeline.table_miss import is_table_miss

_LISTED = 3

_PREFIXES_HOOK = (Table.HOOK, HookPriority.TENANT)
"""Table and priority of the flows by which packets to remote prefixes come."""


class Fault(StrEnum):
    """What may be wrong with a flow."""

    MISSING = "missing"
    """Wanted, and absent."""
    CHANGED = "changed"
    """Present with other actions, or another cookie."""
    UNKNOWN = "unknown"
    """It has our cookie, and the federation file does not ask for it."""
    FOREIGN = "foreign"
    """Another owner's, in one of our tables."""
    SHADOWED = "shadowed"
    """Present, and never reached: a flow of higher priority matches all its packets."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault of one flow; ``other`` is the flow in its place, or the one that shadows it."""

    fault: Fault
    flow: DumpedFlow
    other: DumpedFlow | None = None


def compare(wanted: Iterable[Flow], present: Sequence[DumpedFlow]) -> list[Finding]:
    """Compare a site's wanted flows with its bridge's: cookie, table, priority, match and actions.

    Our flows with a hard timeout belong to connections being opened, and are no difference. Nor is
    another owner's table-miss flow in place of ours, nor ours that is not wanted any more, as long
    as it is the only one.
    """
    lasting = [flow for flow in present if not (flow.ours and flow.hard_timeout)]
    there = {flow.key: flow for flow in lasting}
    asked = {flow.key: flow for flow in (parse_flow(str(flow)) for flow in wanted)}
    others_miss = any(map(_is_others_table_miss, lasting))
    if others_miss:
        asked = {key: flow for key, flow in asked.items() if not _is_table_miss(flow)}
    by_table: defaultdict[int, list[DumpedFlow]] = defaultdict(list)
    for flow in lasting:
        by_table[flow.table].append(flow)
    for table in by_table.values():
        table.sort(key=lambda flow: -flow.priority)
    found: list[Finding] = []
    for key, flow in asked.items():
        found.extend(_judge(flow, there.get(key), by_table[flow.table]))
    met = [flow for key, flow in asked.items() if key in there]
    found.extend(_hidden_prefixes(met, by_table[Table.HOOK]))
    unwanted = (flow for key, flow in there.items() if key not in asked)
    found.extend(_unwanted(flow for flow in unwanted if others_miss or not _is_table_miss(flow)))
    return sorted(found, key=lambda one: (one.flow.table, -one.flow.priority, one.fault))


def summary(findings: Iterable[Finding]) -> str:
    """Count findings by fault, with the first tables: "79 changed (table 0, 100, 101 …)"."""
    tables: defaultdict[Fault, Counter[int]] = defaultdict(Counter)
    for finding in findings:
        tables[finding.fault][finding.flow.table] += 1
    return ", ".join(
        f"{count.total()} {fault} (table {_first(sorted(count))})"
        for fault, count in tables.items()
    )


def _first(tables: Sequence[int]) -> str:
    return ", ".join(map(str, tables[:_LISTED])) + (" …" if tables[_LISTED:] else "")


def _is_table_miss(flow: DumpedFlow) -> bool:
    return is_table_miss(flow.table, flow.priority)


def _is_others_table_miss(flow: DumpedFlow) -> bool:
    return not flow.ours and not flow.fields and _is_table_miss(flow)


def _judge(
    flow: DumpedFlow, there: DumpedFlow | None, table: list[DumpedFlow]
) -> Iterator[Finding]:
    """Yield the faults of a flow; ``table`` is its table, the highest priority first."""
    if there is None:
        yield Finding(Fault.MISSING, flow)
        return
    if there.decoded_actions != flow.decoded_actions or there.cookie != flow.cookie:
        yield Finding(Fault.CHANGED, flow, there)
    higher = takewhile(lambda other: other.priority > flow.priority, table)
    above = next((other for other in higher if shadows(other, flow)), None)
    if above is not None:
        yield Finding(Fault.SHADOWED, flow, above)


def _hidden_prefixes(asked: Sequence[DumpedFlow], hook: Iterable[DumpedFlow]) -> Iterator[Finding]:
    """Yield flows of remote prefixes whose packets another owner's flow takes above the hook.

    All prefixes share the hook: one of them may be hidden while the hook is met.
    """
    hooks = [flow for flow in asked if (flow.table, flow.priority) == _PREFIXES_HOOK]
    above = [
        flow
        for flow in hook
        if flow.priority > HookPriority.TENANT
        and not flow.ours
        and not any(shadows(flow, one) for one in hooks)
    ]
    prefixes = [flow for flow in asked if flow.table == Table.REMOTE and flow.fields]
    if not (hooks and above and prefixes):
        return
    first, *others = (flow.fields for flow in hooks)
    shared = {
        name: value
        for name, value in first.items()
        if all(other.get(name) == value for other in others)
    }
    for flow in prefixes:
        met = replace(
            flow, table=Table.HOOK, priority=HookPriority.TENANT, fields=shared | flow.fields
        )
        hiding = next((other for other in above if shadows(other, met)), None)
        if hiding is not None:
            yield Finding(Fault.SHADOWED, flow, hiding)


def _unwanted(flows: Iterable[DumpedFlow]) -> Iterator[Finding]:
    ours = frozenset(map(int, Table)) - {int(Table.HOOK)}
    for flow in flows:
        if flow.ours:
            yield Finding(Fault.UNKNOWN, flow)
        elif flow.table in ours:
            yield Finding(Fault.FOREIGN, flow)


_FLAG = re.compile(r"[+-]\w+")

# Protocols as ovs-fields(7) abbreviates them, with what each says.
_IMPLIED = {
    "ip": {"ip": True},
    "ipv6": {"ipv6": True},
    "icmp": {"ip": True, "icmp": True},
    "icmp6": {"ipv6": True, "icmp6": True},
    "tcp": {"ip": True, "tcp": True},
    "tcp6": {"ipv6": True, "tcp6": True},
    "udp": {"ip": True, "udp": True},
    "udp6": {"ipv6": True, "udp6": True},
}


def shadows(above: DumpedFlow, flow: DumpedFlow) -> bool:
    """Whether ``above`` takes every packet that ``flow`` would match, and before it."""
    if above.table != flow.table or above.priority <= flow.priority:
        return False
    narrow, wide = _spelled_out(flow.fields), _spelled_out(above.fields)
    return all(name in narrow and _within(narrow[name], value) for name, value in wide.items())


def _spelled_out(fields: Parts) -> Parts:
    said = dict(fields)
    for name in fields:
        said |= _IMPLIED.get(name, {})
    return said


def _within(narrow: object, wide: object) -> bool:
    """Whether what has one value has the other: masks, networks and flags stand for several."""
    if isinstance(narrow, str) and isinstance(wide, str):
        flags = set(_FLAG.findall(wide))
        return narrow == wide or (bool(flags) and flags <= set(_FLAG.findall(narrow)))
    if isinstance(narrow, IntMask) and isinstance(wide, IntMask):
        bits = wide.mask
        return bool(narrow.mask & bits == bits and narrow.value & bits == wide.value & bits)
    if isinstance(narrow, IPMask) and isinstance(wide, IPMask):
        return narrow == wide or bool(narrow.cidr() and wide.cidr() and narrow in wide)
    return narrow == wide
