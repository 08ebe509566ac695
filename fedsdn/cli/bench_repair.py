"""fedsdn bench repair: what others do to a shared bridge."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from fedsdn.bench import reconnects as reconnects_bench
from fedsdn.bench import repair as repair_bench
from fedsdn.bench.rig import Rig
from fedsdn.cli.bench_lab import Table, measured
from fedsdn.cli.views import lab_views


def repair(
    *,
    topology: Annotated[Path, typer.Option(help="The lab to build; two sites, two wires.")] = Path(
        "topo/two-site.yaml"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="A few times each only.")] = False,
    harm: Annotated[
        list[repair_bench.Harm] | None,
        typer.Option(help="Only this, and no reconnects; may be given again."),
    ] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of a table.")
    ] = False,
) -> None:
    """Delete and change flows, overwrite the list of controllers, kill ovs-vswitchd.

    With --topology topo/neutron.yaml also restart Neutron's agent, which deletes our flows.

    200 connections talk meanwhile. Then the connection to the bridge is closed, again and again.
    Exit status 1 if one of the 200 ended, a figure is beyond its bound, or the application has more
    threads, descriptors or memory than before.
    """
    effort = repair_bench.QUICK if quick else repair_bench.FULL
    if harm:
        times = {one: count for one, count in effort.times.items() if one in harm}
        effort = repair_bench.Effort(times, reconnects=0)
    results = repair_bench.RepairResults()
    with measured(topology, results, lambda: _tables(results), json_output=json_output) as (
        lab,
        report,
    ):
        repair_bench.run(Rig(lab, lab_views(lab)), effort, results, report)


def _tables(results: repair_bench.RepairResults) -> Iterator[Table]:
    yield repair_bench.table(results)
    if results.reconnects:
        yield reconnects_bench.table(results.reconnects)
