"""fedsdn bench: what the users of a federation would notice, in figures."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from fedsdn.bench import channel as channel_bench
from fedsdn.bench import failover as failover_bench
from fedsdn.bench import harm as harm_bench
from fedsdn.bench import restore as restore_bench
from fedsdn.bench import stalled as stalled_bench
from fedsdn.bench.failover import Part
from fedsdn.bench.harm import HarmResults
from fedsdn.bench.report import harm_table, restore_table, stalled_table, tables
from fedsdn.bench.restore import RestoreResults
from fedsdn.bench.results import Results
from fedsdn.bench.rig import Rig
from fedsdn.bench.short import Way
from fedsdn.bench.stalled import StalledResults
from fedsdn.cli import (
    bench_attack,
    bench_behaviour,
    bench_datagrams,
    bench_probes,
    bench_repair,
    bench_restart,
    bench_scale,
    bench_tls,
)
from fedsdn.cli.bench_lab import measured
from fedsdn.cli.tables import print_table
from fedsdn.cli.views import lab_views

app = typer.Typer(help="Measure, mostly in a lab made for it.")
for command in bench_behaviour.COMMANDS:
    app.command()(command)
app.command()(bench_repair.repair)
app.command()(bench_attack.attack)
app.command()(bench_probes.probes)
app.command()(bench_datagrams.datagrams)
app.command()(bench_scale.load)
app.command("scale")(bench_scale.scale_command)
app.command()(bench_restart.restart)
app.command()(bench_tls.tls)


@app.callback()
def bench() -> None:
    """Measure, mostly in a lab made for it."""


@app.command()
def failover(
    *,
    topology: Annotated[Path, typer.Option(help="The lab to build; two sites, two wires.")] = Path(
        "topo/two-site.yaml"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="A handful of losses only.")] = False,
    part: Annotated[
        list[Part] | None, typer.Option(help="Measure only this; may be given again.")
    ] = None,
    losses: Annotated[int | None, typer.Option(min=1, help="Losses per class.")] = None,
    seed: Annotated[int | None, typer.Option(help="Repeat the flaps of another run.")] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of tables.")
    ] = False,
) -> None:
    """Lose uplinks under running connections, with the application and without it.

    Exit status 1 if a connection broke, bytes were lost or endpoints were wrong in the end;
    figures beyond their bounds are marked in the tables.
    """
    effort = failover_bench.QUICK if quick else failover_bench.FULL
    if losses is not None:
        effort = replace(effort, losses=losses)
    results = Results()
    with measured(topology, results, lambda: tables(results), json_output=json_output) as (
        lab,
        report,
    ):
        failover_bench.run(
            *(Rig(lab, lab_views(lab)), effort, part or list(Part)),
            secrets.randbelow(1_000_000) if seed is None else seed,
            results,
            report,
        )


@app.command()
def restore(
    *,
    topology: Annotated[Path, typer.Option(help="The lab to build.")] = Path("topo/two-site.yaml"),
    quick: Annotated[bool, typer.Option("--quick", help="A few hundred connections only.")] = False,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of a table.")
    ] = False,
) -> None:
    """Open connections whose sources the proxy restores, and the bridge, turn about.

    Exit status 1 if one failed, or was seen as somebody else.
    """
    effort = restore_bench.QUICK if quick else restore_bench.FULL
    results = RestoreResults()
    with measured(topology, results, lambda: [restore_table(results)], json_output=json_output) as (
        lab,
        report,
    ):
        restore_bench.run(lab, lab_views(lab), effort, results, report)


@app.command()
def harm(
    *,
    topology: Annotated[Path, typer.Option(help="The lab to build; two sites, two wires.")] = Path(
        "topo/two-site.yaml"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="A few hundred connections only.")] = False,
    downloads: Annotated[
        int | None, typer.Option(min=0, help="Downloads per class; 0: none.")
    ] = None,
    half_closing: Annotated[
        int | None, typer.Option(min=0, help="Half-closing connections per class; 0: none.")
    ] = None,
    unread: Annotated[
        int | None,
        typer.Option(min=0, help="Answers of servers that close with input unread; 0: none."),
    ] = None,
    loss: Annotated[
        float,
        typer.Option(
            min=0, max=50, metavar="PERCENT", help="Lose these packets instead; pull no wire."
        ),
    ] = 0.0,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of a table.")
    ] = False,
) -> None:
    """Open short connections while uplinks flap, with the application and without it, in turns.

    A class is IPv4 or IPv6, with or without. Exit status 1 if a connection hung, ended cleanly
    with another answer than the server's, or lost an answer to the reset behind it.
    """
    effort = harm_bench.QUICK if quick else harm_bench.FULL
    given = {Way.DOWNLOAD: downloads, Way.HALF_CLOSE: half_closing, Way.UNREAD: unread}
    counts = effort.count | {way: count for way, count in given.items() if count is not None}
    results = HarmResults()
    with measured(topology, results, lambda: [harm_table(results)], json_output=json_output) as (
        lab,
        report,
    ):
        harm_bench.run(Rig(lab, lab_views(lab)), harm_bench.Effort(counts, loss), results, report)


@app.command()
def stalled(
    *,
    topology: Annotated[Path, typer.Option(help="The lab to build; two sites, two wires.")] = Path(
        "topo/two-site.yaml"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="A hundred readers only.")] = False,
    readers: Annotated[int | None, typer.Option(min=1, help="How many do not read.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="IPv4 and IPv6 in turn.")] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of a table.")
    ] = False,
) -> None:
    """Run a transfer before there are connections whose readers do not read, and beside them.

    Exit status 1 if a connection broke. A transfer that keeps less than 90 % of its rate is marked.
    """
    effort = stalled_bench.QUICK if quick else stalled_bench.FULL
    effort = replace(effort, readers=readers or effort.readers, rounds=rounds or effort.rounds)
    results = StalledResults()
    with measured(topology, results, lambda: [stalled_table(results)], json_output=json_output) as (
        lab,
        report,
    ):
        stalled_bench.run(Rig(lab, lab_views(lab)), effort, results, report)


@app.command()
def channel(
    *,
    connections: Annotated[int, typer.Option(min=1, help="Connections that move bytes.")] = 5000,
    seconds: Annotated[float, typer.Option(min=1, help="How long to measure; twice.")] = 10.0,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of a table.")
    ] = False,
) -> None:
    """Report connections to an application, and measure its processor time. Needs no lab."""
    cost = channel_bench.measure(connections, seconds)
    if json_output:
        print(json.dumps(asdict(cost)))
        return
    print_table(
        "Application's processor time for the channel",
        ("connections that move", "for their reports", "for listing them once a second"),
        [
            (
                str(cost.connections),
                *(f"{one * 1000:.0f} ms/s" for one in (cost.moving, cost.listing)),
            )
        ],
    )
