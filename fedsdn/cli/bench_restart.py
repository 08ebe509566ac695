"""fedsdn bench restart: what restarts do to connections."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from fedsdn.bench import restart as restart_bench
from fedsdn.bench.rig import Rig
from fedsdn.cli.bench_lab import measured
from fedsdn.cli.views import lab_views


def restart(
    *,
    topology: Annotated[Path, typer.Option(help="The lab to build; two sites, two wires.")] = Path(
        "topo/two-site.yaml"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="Four restarts of each.")] = False,
    reloads: Annotated[
        int | None, typer.Option(min=0, help="How often the proxy is reloaded; 0: never.")
    ] = None,
    kills: Annotated[
        int | None, typer.Option(min=0, help="How often the application is killed; 0: never.")
    ] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of a table.")
    ] = False,
) -> None:
    """Reload the proxy, and kill the application, at both sites in turn, under connections.

    Exit status 1 if an open connection broke, or a new one was not made.
    """
    effort = restart_bench.QUICK if quick else restart_bench.FULL
    effort = replace(
        effort,
        reloads=effort.reloads if reloads is None else reloads,
        kills=effort.kills if kills is None else kills,
    )
    results = restart_bench.RestartResults()
    with measured(
        topology, results, lambda: [restart_bench.table(results)], json_output=json_output
    ) as (lab, report):
        restart_bench.run(Rig(lab, lab_views(lab)), effort, results, report)
