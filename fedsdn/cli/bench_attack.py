"""fedsdn bench attack: strangers in a peer's name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from fedsdn.bench import attack as attack_bench
from fedsdn.bench.rig import Rig
from fedsdn.cli.bench_lab import measured
from fedsdn.cli.views import lab_views
from fedsdn.errors import FedsdnError


def attack(
    *,
    topology: Annotated[Path, typer.Option(help="The lab to build; two sites, two wires.")] = Path(
        "topo/two-site.yaml"
    ),
    quick: Annotated[
        bool, typer.Option("--quick", help="Four kinds only, and shorter rests.")
    ] = False,
    kind: Annotated[list[str] | None, typer.Option(help="Only this; may be given again.")] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of a table.")
    ] = False,
) -> None:
    """Attack a site's proxy from a peer's address, beside others' connections and a transfer.

    Exit status 1 if somebody was served or not refused, a connection of others failed, or a figure
    is beyond its bound.
    """
    effort = attack_bench.QUICK if quick else attack_bench.FULL
    known = {str(one): one for one in attack_bench.KINDS}
    for name in kind or ():
        if name not in known:
            raise FedsdnError(f"no kind {name!r}: there are {', '.join(known)}")
    if kind:
        effort = replace(effort, kinds=tuple(known[name] for name in kind))
    results = attack_bench.AttackResults()
    with measured(
        topology, results, lambda: [attack_bench.table(results)], json_output=json_output
    ) as (lab, report):
        attack_bench.run(Rig(lab, lab_views(lab)), effort, results, report)
