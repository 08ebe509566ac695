"""Names for the numbers in matches and actions, with the numbers in brackets."""

from __future__ import annotations

import re
from collections.abc import Callable

from fedsdn.ovs.flows import DumpedFlow
from fedsdn.pipeline.declarations import CT_ZONE, CtMark, Table

ZONE = "FEDERATION"
"""What the conntrack zone of federated connections is called here; it has no other name."""

_TABLES, _MARKS = frozenset(map(int, Table)), frozenset(map(int, CtMark))


def table_name(number: int) -> str:
    """Name of a table with its number; others' tables have only that."""
    return f"{Table(number).name} [{number}]" if number in _TABLES else f"table {number}"


def mark_name(mark: int) -> str:
    """Name of a ``ct_mark`` with its number."""
    return f"{CtMark(mark).name} [{mark:#x}]" if mark in _MARKS else f"{mark:#x}"


def _resubmit(found: re.Match[str]) -> str:
    return f"resubmit(,{table_name(int(found[1]))})"


def _table(found: re.Match[str]) -> str:
    return f"{found[1]}table={table_name(int(found[2]))}"


def _zone(found: re.Match[str]) -> str:
    return f"zone={ZONE} [{found[1]}]" if int(found[1]) == CT_ZONE else found[0]


def _mark(found: re.Match[str]) -> str:
    return f"ct_mark={mark_name(int(found[1], 0))}"


def _set_mark(found: re.Match[str]) -> str:
    return f"{found[1]}:{mark_name(int(found[2], 0))}->{found[3]}"


_Name = Callable[[re.Match[str]], str]
_PATTERNS: tuple[tuple[re.Pattern[str], _Name], ...] = (
    (re.compile(r"resubmit\(,(\d+)\)"), _resubmit),
    (re.compile(r"([(,])table=(\d+)"), _table),
    (re.compile(r"\bzone=(\d+)"), _zone),
    (re.compile(r"\bct_mark=(0x[0-9a-f]+|\d+)"), _mark),
    (re.compile(r"(set_field|load):(0x[0-9a-f]+|\d+)->(ct_mark|NXM_NX_CT_MARK\[\])"), _set_mark),
)


def named_match(flow: DumpedFlow) -> str:
    """Return a flow's match, ``any`` if it has none. Others' marks are left as they are."""
    return _named(flow.match, flow) or "any"


def named_actions(flow: DumpedFlow) -> str:
    """Return a flow's actions. Others' marks are left as they are."""
    return _named(flow.actions, flow)


def _named(text: str, flow: DumpedFlow) -> str:
    # Others mean something else by the same marks, but not by our tables.
    for pattern, name in _PATTERNS if flow.ours else _PATTERNS[:1]:
        text = pattern.sub(name, text)
    return text
