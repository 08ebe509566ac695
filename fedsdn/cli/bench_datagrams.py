"""fedsdn bench datagrams: what is not TCP, while uplinks are lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from fedsdn.bench import datagrams as datagrams_bench
from fedsdn.bench.rig import Rig
from fedsdn.cli.bench_lab import Table, measured
from fedsdn.cli.views import lab_views


def datagrams(
    *,
    topology: Annotated[Path, typer.Option(help="The lab to build; two sites, two wires.")] = Path(
        "topo/two-site.yaml"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="A few losses only.")] = False,
    losses: Annotated[int | None, typer.Option(min=0, help="Losses of each kind.")] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="How long each rate; 0: none.")
    ] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of a table.")
    ] = False,
) -> None:
    """Lose uplinks under a hundred datagrams a second each way, and count what is lost.

    Then see how much the paths carry beside a plain WireGuard tunnel. Exit status 1 if a figure is
    beyond its bound, or datagrams came twice or out of order without a change.
    """
    effort = datagrams_bench.QUICK if quick else datagrams_bench.FULL
    if losses is not None:
        effort = replace(effort, losses=losses)
    if seconds is not None:
        effort = replace(effort, seconds=seconds)
    results = datagrams_bench.DatagramResults()
    with measured(topology, results, lambda: _tables(results), json_output=json_output) as (
        lab,
        report,
    ):
        datagrams_bench.run(Rig(lab, lab_views(lab)), effort, results, report)


def _tables(results: datagrams_bench.DatagramResults) -> Iterator[Table]:
    yield datagrams_bench.table(results)
    if results.carried:
        yield datagrams_bench.rates_table(results)
