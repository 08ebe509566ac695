"""fedsdn bench load and scale: what a large federation costs a site."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from fedsdn.bench import scale, scale_host
from fedsdn.cli.bench_lab import progress
from fedsdn.cli.tables import print_table

Sites = Annotated[
    list[int] | None,
    typer.Option(min=2, max=scale.MOST_SITES, help="So many sites; may be given again."),
]
Prefixes = Annotated[
    int, typer.Option(min=2, max=scale.MOST_PREFIXES, help="Prefixes of each site.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]

_SITES = (10, 100, 1000)
_IDLE_SECONDS, _QUICK_IDLE_SECONDS = 20.0, 3.0


def load(
    *,
    sites: Sites = None,
    prefixes: Prefixes = 10,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each; medians count.")] = 5,
    json_output: AsJson = False,
) -> None:
    """Read federation files of 10, 100 and 1,000 sites, without a lab, and make what follows.

    Flows, paths and the look-up of a connection's peers; all in CPU time.
    """
    with TemporaryDirectory() as directory:
        costs = [
            scale.measure(number, prefixes, rounds, Path(directory)) for number in sites or _SITES
        ]
    if json_output:
        print(json.dumps([asdict(one) for one in costs], indent=2))
    else:
        print_table(*scale.table(costs))


def scale_command(
    *,
    sites: Sites = None,
    prefixes: Prefixes = 10,
    quick: Annotated[bool, typer.Option("--quick", help="10 and 100 sites only.")] = False,
    json_output: AsJson = False,
) -> None:
    """Set a host up in federations of 10, 100 and 1,000 sites, and change the file under it."""
    numbers = sites or (_SITES[:-1] if quick else _SITES)
    idle = _QUICK_IDLE_SECONDS if quick else _IDLE_SECONDS
    report = progress()
    costs = [scale_host.measure(number, prefixes, idle, report) for number in numbers]
    if json_output:
        print(json.dumps([asdict(one) for one in costs], indent=2))
    else:
        print_table(*scale_host.table(costs))
