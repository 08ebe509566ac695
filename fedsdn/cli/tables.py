"""Tables on the terminal, and as plain columns where the output goes to a file or a program."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under headings; no value is ever cut or, off a terminal, broken over lines."""
    console = Console()
    if not console.is_terminal:
        _print_plain(title, [headings, *rows])
        return
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _print_plain(title: str, rows: Sequence[Sequence[str]]) -> None:
    print(title)
    for line in plain_table(rows):
        print(line)


def plain_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
