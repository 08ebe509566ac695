"""The bridge's table-miss flow, where no other owner of the bridge installs it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fedsdn.pipeline.context import Context
from fedsdn.pipeline.declarations import HookPriority, Table
from fedsdn.pipeline.flows import Flow, Match, Normal


def flows(context: Context) -> Iterator[Flow]:
    """Make the table-miss flow, or none."""
    if context.site.provider_network.table_miss == "normal":
        yield context.flow(
            Table.HOOK,
            Match(),
            Normal(),
            priority=HookPriority.MISS,
            why="what is not ours stays as it was",
        )


def is_table_miss(table: int, priority: int) -> bool:
    """Whether a flow of this table and priority is the bridge's table-miss flow.

    No feature has another flow of this priority.
    """
    return table == Table.HOOK and priority == HookPriority.MISS


def without_table_miss(flows: Iterable[Flow]) -> tuple[Flow, ...]:
    """Leave the table-miss flow out, where another owner has one.

    A table has one, so adding ours would replace the other's. In fail mode standalone Open vSwitch
    itself is the owner.
    """
    return tuple(flow for flow in flows if not is_table_miss(flow.table, flow.priority))
