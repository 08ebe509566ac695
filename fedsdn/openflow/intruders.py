"""Flows of other owners that keep ours from being met: in our tables, or above our hook. No I/O.

They are not ours to delete: whoever made them has to know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fedsdn.openflow.wire import Key, WireFlow
from fedsdn.pipeline.declarations import HookPriority, Table

_HEADER_BYTES = 4
_EXPERIMENTER = 0xFFFF
_EXPERIMENTER_BYTES = 4

_Fields = dict[bytes, tuple[int, int]]
"""Value and mask by class and field."""


def intruders(others: Mapping[Key, WireFlow], wanted: Mapping[Key, WireFlow]) -> Iterator[WireFlow]:
    """Yield flows in our tables, and in table 0 those that take what is for a flow of ours.

    What is for a remote prefix comes by the hook of all prefixes: a flow above the hook that takes
    all packets to one of them hides that one.
    """
    ours: list[tuple[int, _Fields]] | None = None
    for key, flow in others.items():
        if key in wanted:
            continue
        if flow.table != Table.HOOK:
            yield flow
        elif flow.priority != HookPriority.MISS:
            ours = list(_hooked(wanted)) if ours is None else ours
            match = _fields(flow.match)
            if any(p < flow.priority and _takes(match, one) for p, one in ours):
                yield flow


def _hooked(wanted: Mapping[Key, WireFlow]) -> Iterator[tuple[int, _Fields]]:
    """Yield priority and match, as table 0 has it, of all that is to be met from there."""
    hook: _Fields = {}
    for flow in wanted.values():
        if flow.table == Table.HOOK and flow.priority != HookPriority.MISS:
            match = _fields(flow.match)
            yield flow.priority, match
            if flow.priority == HookPriority.TENANT:
                hook |= match
    for flow in wanted.values():
        if flow.table == Table.REMOTE and flow.match:
            yield HookPriority.TENANT, hook | _fields(flow.match)


def _takes(above: _Fields, below: _Fields) -> bool:
    """Whether every packet of ``below`` is one of ``above``."""
    for field, (value, mask) in above.items():
        narrow_value, narrow_mask = below.get(field, (0, 0))
        if narrow_mask & mask != mask or narrow_value & mask != value & mask:
            return False
    return True


def _fields(match: bytes) -> _Fields:
    """Take a match apart (OpenFlow 1.3.5, section 7.2.3.2)."""
    found: _Fields = {}
    at = 0
    while at < len(match):
        header, end = match[at : at + _HEADER_BYTES], at + _HEADER_BYTES + match[at + 3]
        start = at + _HEADER_BYTES
        if int.from_bytes(header[:2], "big") == _EXPERIMENTER:
            start += _EXPERIMENTER_BYTES
        field, masked = bytes((header[0], header[1], header[2] & 0xFE)), header[2] & 1
        middle = start + (end - start) // 2 if masked else end
        value = int.from_bytes(match[start:middle], "big")
        full = (1 << 8 * (middle - start)) - 1
        found[field] = value, int.from_bytes(match[middle:end], "big") if masked else full
        at = end
    return found
