"""fedsdn demo: a lab from nothing, real data, proof, a picture."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedsdn.cli.verify import lab_views
from fedsdn.diagnostics.application import send, serving
from fedsdn.diagnostics.checks import Check, CheckFailedError, Result, run_checks, totals
from fedsdn.diagnostics.counters import recording
from fedsdn.diagnostics.path_checks import VmPath, paths
from fedsdn.diagnostics.report import results_table
from fedsdn.diagnostics.traffic import Amount
from fedsdn.diagnostics.verify import FULL, all_checks
from fedsdn.diagnostics.view import SiteView
from fedsdn.errors import FedsdnError
from fedsdn.lab import build
from fedsdn.lab.lab import Lab
from fedsdn.pipeline.declarations import wan_port

_SECONDS = 5.0
_LOSS_SECONDS = 8.0
_LOST_AT = 2.0
_BACK_AT = 5.0
_LEAST_AGAIN = 1.2
"""With the uplink back there must be so many times what there was without it."""
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
    from fedsdn.diagnostics.picture import Panel, Phase, draw  # noqa: PLC0415

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
    return Check(
        "an uplink lost in mid-transfer",
        f"one connection, {path.section}",
        "the data go on over the other uplinks, intact, and the uplink is used again when it is "
        "back",
        partial(_lose_uplink, lab, path),
    )


def _lose_uplink(lab: Lab, path: VmPath) -> str:
    """Pull a wire under a connection and put it back; return what the receiver saw."""
    wire = lab.topology.wires[0].name
    changes = [
        threading.Timer(at, lab.change_wire, (wire,), {"carrier": carrier})
        for at, carrier in ((_LOST_AT, False), (_BACK_AT, True))
    ]

    def start() -> None:
        for change in changes:
            change.start()

    with serving(path.far_vm.shell):
        transfer = path.transfer(Amount(seconds=_LOSS_SECONDS))
        connection = send(path.near_vm.shell, transfer, while_open=start)[0]
    for change in changes:
        change.join()
    received = connection.received
    if connection.error or received is None or not received.intact:
        raise CheckFailedError(
            connection.error or "what came is not what was sent",
            "look at the sites' logs in the lab ('fedsdn lab up'), and at 'fedsdn uplinks --watch'",
        )
    without = received.rate(_LOST_AT + 0.5, _BACK_AT)
    again = received.rate(_BACK_AT + 1, _LOSS_SECONDS)
    if again < _LEAST_AGAIN * without:
        raise CheckFailedError(
            f"{without / 1e6:.0f} Mbit/s without {wire}, only {again / 1e6:.0f} when it was back",
            "see 'fedsdn uplinks': its path must be up, and have subflows",
        )
    return (
        f"{received.longest_silence() * 1000:.0f} ms of silence; {without / 1e6:.0f} Mbit/s "
        f"without {wire}, {again / 1e6:.0f} again 1 s after it was back"
    )


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
