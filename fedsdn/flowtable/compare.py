"""What is wrong with a bridge's rows: missing, foreign, changed, or never reached."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import takewhile

from ovs.flow.decoders import IntMask, IPMask

from fedsdn.flowtable.dump import DumpedRow, Parts, parse_row
from fedsdn.pipeline.declarations import Table
from fedsdn.pipeline.rows import Row
from fedsdn.pipeline.table_miss import is_table_miss


class Fault(StrEnum):
    """What may be wrong with a row."""

    MISSING = "missing"
    """It is wanted, and not there."""
    CHANGED = "changed"
    """It is there with other actions, or another cookie."""
    UNKNOWN = "unknown"
    """It has a cookie of ours, and the federation file does not ask for it."""
    FOREIGN = "foreign"
    """Somebody else's, in a table of ours."""
    SHADOWED = "shadowed"
    """It is there, and a higher row takes all its packets."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One row that is not as it should be; ``other`` is what is there instead, or above it."""

    fault: Fault
    row: DumpedRow
    other: DumpedRow | None = None


def compare(wanted: Iterable[Row], present: Sequence[DumpedRow]) -> list[Finding]:
    """Find every difference between what a site is to have and what its bridge has.

    Rows of connections that are being opened go by themselves, and are no difference. Nor is
    another owner's table-miss row in place of ours.
    """
    lasting = [row for row in present if not row.hard_timeout]
    there = {row.key: row for row in lasting}
    asked = {row.key: row for row in (parse_row(str(row)) for row in wanted)}
    by_table: defaultdict[int, list[DumpedRow]] = defaultdict(list)
    for row in lasting:
        by_table[row.table].append(row)
    for table in by_table.values():
        table.sort(key=lambda row: -row.priority)
    found: list[Finding] = []
    for key, row in asked.items():
        if not _is_others_table_miss(there.get(key)):
            found.extend(_judge(row, there.get(key), by_table[row.table]))
    found.extend(_strangers(row for key, row in there.items() if key not in asked))
    return sorted(found, key=lambda one: (one.row.table, -one.row.priority, one.fault))


def _is_others_table_miss(there: DumpedRow | None) -> bool:
    return there is not None and not there.ours and is_table_miss(there.table, there.priority)


def _judge(row: DumpedRow, there: DumpedRow | None, table: list[DumpedRow]) -> Iterator[Finding]:
    """Yield what is wrong with a row; its table comes highest priority first."""
    if there is None:
        yield Finding(Fault.MISSING, row)
        return
    if there.decoded_actions != row.decoded_actions or there.cookie != row.cookie:
        yield Finding(Fault.CHANGED, row, there)
    higher = takewhile(lambda other: other.priority > row.priority, table)
    above = next((other for other in higher if shadows(other, row)), None)
    if above is not None:
        yield Finding(Fault.SHADOWED, row, above)


def _strangers(rows: Iterable[DumpedRow]) -> Iterator[Finding]:
    ours = frozenset(map(int, Table)) - {int(Table.HOOK)}
    for row in rows:
        if row.ours:
            yield Finding(Fault.UNKNOWN, row)
        elif row.table in ours:
            yield Finding(Fault.FOREIGN, row)


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


def shadows(above: DumpedRow, row: DumpedRow) -> bool:
    """Whether ``above`` takes every packet that ``row`` would match, and before it."""
    if above.table != row.table or above.priority <= row.priority:
        return False
    narrow, wide = _spelled_out(row.fields), _spelled_out(above.fields)
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
