"""fedsdn federation: whether sites have the same federation file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fedsdn.cli.common import ConfigFile, settings
from fedsdn.config.differences import Difference, Place, differences, read_text
from fedsdn.config.model import Federation
from fedsdn.errors import FedsdnError
from fedsdn.tunnels.plan import renumbered

app = typer.Typer(help="Compare federation files.", no_args_is_help=True)
app.callback()(lambda: None)  # or else its only command would go without its name

FILE_ERROR = 2
"""Exit status where nothing could be compared, as diff(1) has it."""


@app.command()
def diff(
    first: Annotated[
        Path, typer.Argument(metavar="FILE", help="Federation file; /dev/stdin, too.")
    ],
    second: Annotated[
        Path | None,
        typer.Argument(
            metavar="[OTHER]",
            help="The other file; without it, the running site's is compared with FILE.",
            show_default=False,
        ),
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config_file: ConfigFile = None,
) -> None:
    """Say what two federation files mean differently, one line for each site's field.

    The exit status is 0 if they mean the same, 1 if not, 2 if one of them cannot be read.
    """
    try:
        if second is None:
            first, second = settings(config_file, site=None, federation=None).federation, first
        texts = read_text(first), read_text(second)
        found = differences(*texts)
    except FedsdnError as error:
        print(f"fedsdn: {error}", file=sys.stderr)
        raise typer.Exit(FILE_ERROR) from error
    before, after = (text.federation for text in texts)
    moved = renumbered(before, after)
    if as_json:
        files = {"first": str(first), "second": str(second)}
        said = {"differences": [asdict(one) for one in found], "moved_tunnels": moved}
        print(json.dumps(files | said, indent=2))
    else:
        for one in found:
            print(_line(one, first, second))
        for line in _moved(before, after, moved):
            print(f"fedsdn: {line}", file=sys.stderr)
    raise typer.Exit(1 if found else 0)


def _moved(
    before: Federation, after: Federation, moved: dict[str, tuple[str, ...]]
) -> Iterator[str]:
    """Say which tunnels have other UDP ports in the other file, and why."""
    alone = "until every site has the same file, their paths carry TCP alone"
    if before.datagrams_port != after.datagrams_port:
        if moved:
            yield f"all tunnels have other UDP ports in the other file (datagrams.port): {alone}"
        return
    for site, uplinks in moved.items():
        names, others = (
            {uplink.name for uplink in one.site(site).uplinks} for one in (before, after)
        )
        advice = "; a new uplink whose name comes last moves none" if others - names else ""
        yield (
            f"site {site}: the tunnels of {', '.join(uplinks)} have other UDP ports in the other "
            f"file, as uplinks are numbered by their names: {alone}{advice}"
        )


def _line(one: Difference, first: Path, second: Path) -> str:
    return f"{one.name}: {_at(one.first, first)}; {_at(one.second, second)}"


def _at(place: Place, file: Path) -> str:
    return f"{place.text} at {file}:{place.line}"
