"""What the benchmarks' commands share: a lab of their own, and how they show a table."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from fedsdn.bench.report import Measured, as_json
from fedsdn.cli.tables import print_table
from fedsdn.lab import build
from fedsdn.lab.lab import Lab


@contextmanager
def lab_of_our_own(topology: Path, console: Console) -> Iterator[Lab]:
    """Have a lab of our own while the block runs, and remove it also when we are told to end."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    name = f"bench-{os.getpid()}"
    console.print(f"[bold]lab {name}[/]")
    lab = build.up(topology, name, report=lambda line: console.print(f"  {line}"))
    try:
        yield lab
    finally:
        build.down(name)


def show_table(
    results: Measured,
    table: tuple[str, Sequence[str], Sequence[Sequence[str]]],
    console: Console,
    *,
    json_output: bool,
) -> None:
    """Print the table, or JSON, and to standard error what is broken."""
    if json_output:
        print(as_json(results))
    else:
        print_table(*table)
    for line in results.broken:
        console.print(f"[bold red]broken:[/] {escape(line)}")
