"""What the benchmarks' commands share: a lab of their own, output, exit status."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape

from fedsdn.bench.report import Measured, as_json
from fedsdn.cli.tables import print_table
from fedsdn.lab import build
from fedsdn.lab.build import Progress
from fedsdn.lab.lab import Lab

Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""Title, headings and rows."""


@contextmanager
def measured(
    topology: Path, results: Measured, tables: Callable[[], Iterable[Table]], *, json_output: bool
) -> Iterator[tuple[Lab, Progress]]:
    """Have a lab, and somebody to report to, while the block fills ``results``; then print them.

    Raises:
        typer.Exit: with status 1: there is something broken.

    """
    console = _console()
    try:
        with _lab_of_our_own(topology, console) as lab:
            yield lab, lambda line: console.print(f"  {line}")
    finally:  # an hour's figures are not to be lost by what went wrong in its last minute
        if json_output:
            print(as_json(results))
        else:
            for table in tables():
                print_table(*table)
        for line in results.broken:
            console.print(f"[bold red]broken:[/] {escape(line)}")
    if results.broken:
        raise typer.Exit(1)


def progress() -> Progress:
    """Return what prints lines of progress."""
    console = _console()
    return lambda line: console.print(f"  {line}")


def _console() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


@contextmanager
def _lab_of_our_own(topology: Path, console: Console) -> Iterator[Lab]:
    """Have a lab of our own while the block runs, and remove it also when we are told to end."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    name = f"bench-{os.getpid()}"
    console.print(f"[bold]lab {name}[/]")
    lab = build.up(topology, name, report=lambda line: console.print(f"  {line}"))
    try:
        yield lab
    finally:
        build.down(name)
