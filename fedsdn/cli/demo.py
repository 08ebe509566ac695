"""fedsdn demo: a lab from nothing, real data, proof, a picture."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedsdn.cli.views import lab_views
from fedsdn.errors import FedsdnError
from fedsdn.lab import build
from fedsdn.lab.lab import Lab
from fedsdn.pipeline.declarations import wan_port
from fedsdn.traffic.counters import recording
from fedsdn.traffic.runner import send, serving
from fedsdn.traffic.values import Amount
from fedsdn.verify.checks import Check, Result, run_checks, totals
from fedsdn.verify.loss import UplinkLoss, loss_check
from fedsdn.verify.paths import VmPath, paths
from fedsdn.verify.plan import FULL, all_checks
from fedsdn.verify.report import results_table
from fedsdn.verify.view import SiteView

_SECONDS = 5.0
_LOSS_SECONDS = 8.0
_PAUSE_SECONDS = 0.5
"""Between two transfers, so that the picture shows where one ends."""


def demo(
    topology: Annotated[Path, typer.Option(help="The lab to build.")] = Path("topo/two-site.yaml"),
    output: Annotated[Path, typer.Option(help="Directory for the picture.")] = Path("demo"),
    name: Annotated[str, typer.Option(help="Name of the lab.")] = "demo",
) -> None:
    """Build a lab, move data both ways, check everything, draw a picture, remove the lab."""
    console = Console()
    picture = output / "throughput.png"
    with _lab(topology, name, console) as lab:
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FedsdnError(f"{output}: cannot make this directory: {error.strerror}") from error
        views = lab_views(lab)
        results = [*_show_throughput(lab, views, picture, console), *_verify(views, console)]
    console.print(results_table(results))
    console.print(f"{picture} shows what each uplink carried", highlight=False)
    console.print(str(totals(results)), highlight=False)
    if totals(results).failed:
        raise typer.Exit(1)


@contextmanager
def _lab(topology: Path, name: str, console: Console) -> Iterator[Lab]:
    """Have a lab while the block runs, and remove it also when we are told to end."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console.print(f"[bold]lab {name}[/]", highlight=False)
    lab = build.up(topology, name, report=lambda line: console.print(f"  {line}"))
    try:
        yield lab
    finally:
        build.down(name)


def _verify(views: Sequence[SiteView], console: Console) -> list[Result]:
    """Run all checks, and show how far they are."""
    console.print("\n[bold]fedsdn verify[/]", highlight=False)
    results: list[Result] = []
    running = run_checks(all_checks(views, FULL))
    for section, of_section in groupby(running, key=lambda result: result.section):
        console.print(f"  {section}", highlight=False)
        results += of_section
    return results


def _show_throughput(
    lab: Lab, views: Sequence[SiteView], picture: Path, console: Console
) -> list[Result]:
    """Send data along every path, one connection at a time, and draw what the uplinks carried.

    The last connection loses an uplink on the way; returns what came of that.
    """
    # Here, not above: matplotlib takes as long to load as all other commands together.
    from fedsdn.inspect.picture import Panel, Phase, draw  # noqa: PLC0415

    console.print("\n[bold]one connection at a time[/]", highlight=False)
    phases = []
    with ExitStack() as stack:
        records = [stack.enter_context(recording(view.proxy)) for view in views]
        for path in paths(views):
            start = time.monotonic()
            rate = _send(path)
            phases.append(Phase(path.section, start, time.monotonic()))
            console.print(f"  {path.section}: {rate / 1e6:.0f} Mbit/s", highlight=False)
            time.sleep(_PAUSE_SECONDS)
        start = time.monotonic()
        results = list(run_checks([_loss_check(lab, paths(views)[0])]))
        phases.append(Phase("an uplink lost", start, time.monotonic()))
        console.print(f"  an uplink lost: {results[0].found}", highlight=False)
    recorded = dict(zip((view.name for view in views), records, strict=True))
    receivers = {path.far.name: path.far for path in paths(views)}
    panels = [
        Panel(f"received at {name}", recorded[name].samples, _labels(view))
        for name, view in receivers.items()
    ]
    title = "One TCP connection at a time uses every uplink"
    draw(picture, title, panels, phases)
    return results


def _loss_check(lab: Lab, path: VmPath) -> Check:
    sites = {path.near.name, path.far.name}
    wire = next(w for w in lab.topology.wires if {end.site for end in w.ends} == sites)
    ends = {end.site: end.uplink for end in wire.ends}

    def plug(carrier: bool) -> None:
        lab.change_wire(wire.name, carrier=carrier)

    near, far = ends[path.near.name], ends[path.far.name]
    return loss_check(UplinkLoss(path, near, far, plug, _LOSS_SECONDS))


def _send(path: VmPath) -> float:
    with serving(path.far_vm.shell):
        connection = send(path.near_vm.shell, path.transfer(Amount(seconds=_SECONDS)))[0]
    if connection.error or connection.received is None:
        raise FedsdnError(
            f"{path.section}: {connection.error}: keep the lab with 'fedsdn lab up' and look at it "
            "with 'fedsdn verify'"
        )
    return connection.received.rate(0, _SECONDS)


def _labels(view: SiteView) -> dict[str, str]:
    return {wan_port(uplink): f"uplink {uplink.name}" for uplink in view.site.uplinks}
