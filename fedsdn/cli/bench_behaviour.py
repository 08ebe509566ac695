"""fedsdn bench, on what applications see: behaviour, first-byte, flood, health."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from fedsdn.bench import first_byte as first_byte_bench
from fedsdn.bench import flood as flood_bench
from fedsdn.bench import health as health_bench
from fedsdn.bench.behaviour import run as behaviour_bench
from fedsdn.bench.behaviour.case import FULL, QUICK
from fedsdn.bench.behaviour.report import table as behaviour_table
from fedsdn.bench.rig import Rig
from fedsdn.cli.bench_lab import measured
from fedsdn.cli.views import lab_views
from fedsdn.errors import FedsdnError

_TopologyFile = Annotated[Path, typer.Option(help="The lab to build; two sites, two wires.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
_TWO_SITES = Path("topo/two-site.yaml")


def behaviour(
    *,
    topology: _TopologyFile = _TWO_SITES,
    quick: Annotated[
        bool, typer.Option("--quick", help="The longest cases shorter: under two minutes.")
    ] = False,
    case: Annotated[
        list[str] | None, typer.Option(help="Only this case; may be given again.")
    ] = None,
    json_output: _Json = False,
) -> None:
    """Do the same things between two VMs of one site and of two, and compare what is seen.

    Needs the programs that 'scripts/install-packages --tests' installs. Exit status 1 if there is
    a difference that is not explained.
    """
    known = {one.name: one for one in behaviour_bench.CASES}
    for name in case or ():
        if name not in known:
            raise FedsdnError(f"no case {name!r}: there are {', '.join(known)}")
    cases = [known[name] for name in case or known]
    results = behaviour_bench.BehaviourResults()
    with measured(
        topology, results, lambda: [behaviour_table(results)], json_output=json_output
    ) as (lab, report):
        behaviour_bench.run(lab, cases, QUICK if quick else FULL, results, report)


def first_byte(
    *,
    topology: _TopologyFile = _TWO_SITES,
    quick: Annotated[bool, typer.Option("--quick", help="A hundred of each only.")] = False,
    connections: Annotated[
        int | None, typer.Option(min=1, help="Connections of each way and IP version.")
    ] = None,
    json_output: _Json = False,
) -> None:
    """Time new connections to the first byte, in turns with those of VMs that a wire joins.

    Exit status 1 if a connection failed, or a figure is beyond its bound.
    """
    count = connections or (first_byte_bench.QUICK if quick else first_byte_bench.FULL)
    results = first_byte_bench.FirstByteResults()
    with measured(
        topology, results, lambda: [first_byte_bench.table(results)], json_output=json_output
    ) as (lab, report):
        first_byte_bench.run(Rig(lab, lab_views(lab)), count, results, report)


def flood(
    *,
    topology: _TopologyFile = _TWO_SITES,
    quick: Annotated[bool, typer.Option("--quick", help="IPv4 only, and shorter rests.")] = False,
    syns: Annotated[int | None, typer.Option(min=1, help="SYNs of each flood.")] = None,
    json_output: _Json = False,
) -> None:
    """Flood with SYNs from one VM: others' new connections, a transfer, and memory beside it.

    Exit status 1 if a connection of others failed, a figure is beyond its bound, or the SYNs went
    out too slowly, or did not come to the proxy: that was no flood.
    """
    effort = flood_bench.QUICK if quick else flood_bench.FULL
    effort = replace(effort, count=syns or effort.count)
    results = flood_bench.FloodResults()
    with measured(
        topology, results, lambda: [flood_bench.table(results)], json_output=json_output
    ) as (lab, report):
        flood_bench.run(Rig(lab, lab_views(lab)), effort, results, report)


def health(
    *,
    topology: _TopologyFile = _TWO_SITES,
    rounds: Annotated[int, typer.Option(min=1, help="How often the backend dies.")] = 50,
    json_output: _Json = False,
) -> None:
    """Check a backend every 200 ms, have it die and come back, and say which check saw it.

    Exit status 1 if a death was seen later than by the next check but one, or never.
    """
    results = health_bench.HealthResults()
    with measured(
        topology, results, lambda: [health_bench.table(results)], json_output=json_output
    ) as (lab, report):
        health_bench.run(lab, rounds, results, report)


COMMANDS = (behaviour, first_byte, flood, health)
