"""The bridge's table-miss row, where no other owner of the bridge installs it."""

from __future__ import annotations

from collections.abc import Iterator

from fedsdn.pipeline.context import Context
from fedsdn.pipeline.declarations import HookPriority, Table
from fedsdn.pipeline.rows import Match, Normal, Row


def rows(context: Context) -> Iterator[Row]:
    """Make the table-miss row, or none."""
    if context.site.provider_network.table_miss == "normal":
        yield context.row(
            Table.HOOK,
            Match(),
            Normal(),
            priority=HookPriority.MISS,
            why="what is not ours stays as it was",
        )
