"""Tables on the terminal, and as plain columns where the output goes to a file or a program."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table as it is to be read."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def print_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under headings; no value is ever cut or, off a terminal, broken over lines."""
    print_blocks([TextTable(title, headings, rows)])


def print_blocks(blocks: Sequence[TextTable | str]) -> None:
    """Print tables and lines in their order."""
    if sys.stdout.isatty():
        Console().print(as_drawn(blocks))
        return
    for block in blocks:
        print(block if isinstance(block, str) else "\n".join(_plain(block)))


def as_drawn(blocks: Iterable[TextTable | str]) -> Group:
    """Return tables and lines as they are drawn on a terminal."""
    return Group(*(Text(one) if isinstance(one, str) else _drawn(one) for one in blocks))


def _drawn(one: TextTable) -> Table:
    table = Table(title=one.title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for heading in one.headings:
        table.add_column(heading, overflow="fold")
    for row in one.rows:
        table.add_row(*map(Text, row))
    return table


def _plain(one: TextTable) -> list[str]:
    return [one.title, *plain_table([one.headings, *one.rows])]


def plain_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
