"""The bridge's table-miss row, where no other owner of the bridge installs it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

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


def is_table_miss(table: int, priority: int) -> bool:
    """Whether a row of this table and priority is the bridge's table-miss row.

    Of its priority no feature makes another.
    """
    return table == Table.HOOK and priority == HookPriority.MISS


def without_table_miss(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Leave the table-miss row out of a site's rows, where another owner's is there.

    A table has one, and whoever adds one takes the place of the other's. In fail mode standalone
    Open vSwitch itself adds one.
    """
    return tuple(row for row in rows if not is_table_miss(row.table, row.priority))
