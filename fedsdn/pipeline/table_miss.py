"""The bridge's table-miss flow, where no other owner of the bridge installs it.

It is two flows, which together match everything: so neither has another owner's place, who finds
his own free whenever he comes, and keeps it if he was there before.
"""

from __future__ import annotations

from collections.abc import Iterator

from fedsdn.pipeline.context import Context
from fedsdn.pipeline.declarations import HookPriority, Table
from fedsdn.pipeline.flows import Flow, Match, Normal


def flows(context: Context) -> Iterator[Flow]:
    """Make the table-miss flow, or none."""
    if context.site.provider_network.table_miss == "none":
        return
    for handed_back in (False, True):
        yield context.flow(
            Table.HOOK,
            Match(handed_back=handed_back),
            Normal(),
            priority=HookPriority.MISS,
            why="what is not ours stays as it was",
        )


def is_table_miss(table: int, priority: int) -> bool:
    """Whether a flow of this table and priority takes what no other one does.

    Of other owners only one that matches everything is such a flow. Ours has to go then: which of
    two is met would be unsaid. In fail mode standalone Open vSwitch itself is the owner.
    """
    return table == Table.HOOK and priority == HookPriority.MISS
