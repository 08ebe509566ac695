"""What to change so that a bridge has exactly the wanted flows of ours. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fedsdn.openflow.mirror import is_ours
from fedsdn.openflow.wire import Key, WireFlow
from fedsdn.pipeline.declarations import HookPriority, Table
from fedsdn.pipeline.table_miss import is_table_miss

TABLE_MISS: Key = (Table.HOOK, HookPriority.MISS, b"")
"""Another owner's: ours has others."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Flows to delete and to add."""

    deletions: tuple[WireFlow, ...]
    additions: tuple[WireFlow, ...]

    @property
    def anything(self) -> bool:
        """Whether there is something to change."""
        return bool(self.deletions or self.additions)

    @property
    def keys(self) -> frozenset[Key]:
        """Which flows it is of."""
        return frozenset(flow.key for flow in (*self.deletions, *self.additions))


def difference(
    keys: Iterable[Key], wanted: Mapping[Key, WireFlow], present: Mapping[Key, WireFlow]
) -> Difference:
    """Compare the flows with these ``keys``; of ``present``, others' stay unless in our place.

    Our table-miss flow goes as soon as another owner has his, and not before: if it is not wanted
    any more, it may still be the only one.
    """
    asked = set(keys)
    if TABLE_MISS in asked:
        asked |= {key for key in wanted.keys() | present.keys() if _is_table_miss(key)}
    deletions, additions = [], []
    for key in asked:
        flow, there = wanted.get(key), present.get(key)
        if _is_table_miss(key):
            flow = None if TABLE_MISS in present else flow or there
        if flow == there:
            continue
        if flow is not None:
            additions.append(flow)
        elif there is not None and _is_lasting(there) and is_ours(there):
            deletions.append(there)
    return Difference(tuple(deletions), tuple(additions))


def _is_table_miss(key: Key) -> bool:
    return is_table_miss(*key[:2])


def _is_lasting(flow: WireFlow) -> bool:
    """Whether it is not one of a connection that is being opened, which goes by itself."""
    return not flow.hard_timeout
