"""What to change so that a bridge has exactly the wanted flows of ours. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fedsdn.openflow.mirror import is_ours
from fedsdn.openflow.wire import Key, WireFlow
from fedsdn.pipeline.declarations import HookPriority, Table

TABLE_MISS: Key = (Table.HOOK, HookPriority.MISS, b"")


@dataclass(frozen=True, slots=True)
class Difference:
    """Flows to delete and to add."""

    deletions: tuple[WireFlow, ...]
    additions: tuple[WireFlow, ...]

    @property
    def anything(self) -> bool:
        """Whether there is something to change."""
        return bool(self.deletions or self.additions)


def difference(
    keys: Iterable[Key], wanted: Mapping[Key, WireFlow], present: Mapping[Key, WireFlow]
) -> Difference:
    """Compare the flows with these ``keys``; of ``present``, others' stay unless in our place.

    The table-miss flow is whoever's it is: another owner's is not replaced by ours, and ours is not
    deleted when it is not wanted any more: it is the only one then, and whoever is to add his own
    takes its place by that.
    """
    deletions, additions = [], []
    for key in keys:
        flow, there = wanted.get(key), present.get(key)
        if flow == there:
            continue
        if flow is None:
            if there is not None and key != TABLE_MISS and _is_lasting(there) and is_ours(there):
                deletions.append(there)
        elif there is None or key != TABLE_MISS or is_ours(there):
            additions.append(flow)
    return Difference(tuple(deletions), tuple(additions))


def _is_lasting(flow: WireFlow) -> bool:
    """Whether it is not one of a connection that is being opened, which goes by itself."""
    return not flow.hard_timeout
