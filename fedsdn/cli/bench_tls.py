"""fedsdn bench tls: what encryption costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsdn.bench import tls as tls_bench
from fedsdn.bench.rig import Rig
from fedsdn.cli.bench_lab import measured
from fedsdn.cli.views import lab_views


def tls(
    *,
    topology: Annotated[Path, typer.Option(help="The lab to build; two sites, two wires.")] = Path(
        "topo/two-site.yaml"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="Two short rounds: two minutes.")] = False,
    haproxy: Annotated[
        bool, typer.Option("--haproxy", help="HAProxy under mptcpize has its turns, too.")
    ] = False,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of a table.")
    ] = False,
) -> None:
    """Move data and open short connections with TLS between the sites and without, in turns.

    Exit status 1 if a connection failed, or a figure is beyond its bound.
    """
    results = tls_bench.TlsResults()
    with measured(
        topology, results, lambda: [tls_bench.table(results)], json_output=json_output
    ) as (lab, report):
        effort = tls_bench.QUICK if quick else tls_bench.FULL
        tls_bench.run(Rig(lab, lab_views(lab)), effort, results, report, haproxy=haproxy)
