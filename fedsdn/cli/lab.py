"""fedsdn lab: a federation on this machine."""

from __future__ import annotations

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fedsdn.errors import FedsdnError
from fedsdn.lab import build
from fedsdn.lab.lab import Lab, open_lab
from fedsdn.lab.state import lab_names
from fedsdn.lab.this_machine import become_host

app = typer.Typer(help="Build a federation on this machine.", no_args_is_help=True)

LabName = Annotated[
    str | None, typer.Option("--name", help="The lab; not needed where there is only one.")
]


class Change(StrEnum):
    """What can be changed on a wire."""

    UP = "up"
    DOWN = "down"
    DELAY = "delay"
    RATE = "rate"
    LOSS = "loss"


_QUALITY = {Change.DELAY: "delay_ms", Change.RATE: "rate_mbit", Change.LOSS: "loss_percent"}
_LIMITS = {
    Change.DELAY: (0.0, 10_000.0),
    Change.RATE: (0.001, 100_000.0),
    Change.LOSS: (0.0, 100.0),
}
_UNITS = {Change.DELAY: "ms one way", Change.RATE: "Mbit/s", Change.LOSS: "percent"}


@app.command()
def up(
    topology: Annotated[Path, typer.Argument(help="A topology file.")] = Path("topo/two-site.yaml"),
    name: Annotated[str | None, typer.Option(help="Its name; by default the file's.")] = None,
) -> None:
    """Build a lab, in place of what is left of one of the same name."""
    lab = build.up(topology, name, report=lambda line: print(line, flush=True))
    print(f"lab {lab.name} is up: try 'fedsdn lab status'")


@app.command()
def down(
    name: Annotated[str | None, typer.Argument(help="The lab; by default the only one.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove all labs.")] = False,
) -> None:
    """Remove a lab, or what is left of one."""
    names = lab_names()
    if name is not None:
        names = [name]
    elif len(names) > 1 and not everything:
        raise FedsdnError(f"found {len(names)} labs: name one of {', '.join(names)}, or give --all")
    for each in names:
        build.down(each)
        print(f"lab {each} is down")


@app.command()
def machine(
    topology: Annotated[Path, typer.Argument(help="A topology file.")],
    site: Annotated[str, typer.Argument(help="Which of its sites.")],
) -> None:
    """Make this real machine the host of one site: settings, bridge, VMs, netem on the uplinks.

    For a lab of several machines. The site is then set up as any other: 'fedsdn identity init',
    the federation file with all sites' keys, 'fedsdn site up' …
    """
    become_host(topology, site)
    print(f"this machine is the host of site {site}: try 'fedsdn identity init'")


@app.command()
def status(
    name: LabName = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a lab's hosts, daemons, VMs and wires; exit status 1 if anything of it is not up."""
    lab = open_lab(name)
    found = lab.status()
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        _print_status(lab, found)
    if not found["up"]:
        raise typer.Exit(1)


def _print_status(lab: Lab, found: dict[str, Any]) -> None:
    console = Console()
    hosts = Table("site", "host", "daemons", "VMs", title=f"lab {lab.name}")
    for site, host in found["sites"].items():
        daemons = ", ".join(
            f"{daemon} {'up' if running else 'DOWN'}" for daemon, running in host["daemons"].items()
        )
        hosts.add_row(site, "up" if host["up"] else "DOWN", daemons, ", ".join(host["vms"]))
    console.print(hosts)
    if found["wires"]:
        _print_wires(console, found["wires"])


def _print_wires(console: Console, wires: dict[str, Any]) -> None:
    table = Table("wire", "carrier", "delay", "rate", "loss", "sent by", "MB", "dropped")
    for name, wire in wires.items():
        quality = (
            "up" if wire["carrier"] else "DOWN",
            f"{wire['delay_ms']:g} ms",
            f"{wire['rate_mbit']:g} Mbit/s",
            f"{wire['loss_percent']:g} %",
        )
        for index, (end, sent) in enumerate(wire["sent"].items()):
            first = (name, *quality) if index == 0 else ("",) * 5
            dropped = sent["dropped_queue"] + sent["dropped_loss"] + sent["dropped_carrier"]
            table.add_row(*first, end, f"{sent['bytes'] / 1e6:.3f}", str(dropped))
    console.print(table)


@app.command(name="exec", context_settings={"allow_interspersed_args": False})
def execute(
    place: Annotated[str, typer.Argument(metavar="SITE[/VM]", help="Where.")],
    command: Annotated[list[str], typer.Argument(help="The command, after '--'.")],
    name: LabName = None,
) -> None:
    """Run a command on a site's host or in a VM; its exit status is ours."""
    if command[0] == "--":
        command = command[1:]
    arguments = [*open_lab(name).prefix(place), *command]
    os.execvp(arguments[0], arguments)  # noqa: S606 - the command takes over our terminal


@app.command()
def link(
    wire: Annotated[str, typer.Argument(help="The wire.")],
    change: Annotated[Change | None, typer.Argument(help="What to change.")] = None,
    value: Annotated[
        float | None, typer.Argument(help="Delay one way in ms, rate in Mbit/s or loss in percent.")
    ] = None,
    name: LabName = None,
) -> None:
    """Show a wire, pull it (down), plug it in (up), or change its delay, rate or loss."""
    lab = open_lab(name)
    _print_wires(Console(), {wire: lab.change_wire(wire, **_as_change(change, value))})


def _as_change(change: Change | None, value: float | None) -> dict[str, float]:
    if change is None:
        return {}
    if change in (Change.UP, Change.DOWN):
        if value is not None:
            raise FedsdnError(f"'{change}' takes no value, found {value:g}: leave it out")
        return {"carrier": change is Change.UP}
    least, most = _LIMITS[change]
    if value is None or not least <= value <= most:
        raise FedsdnError(
            f"'{change}' takes a number from {least:g} to {most:g} ({_UNITS[change]}), "
            f"found {'none' if value is None else f'{value:g}'}"
        )
    return {_QUALITY[change]: value}
