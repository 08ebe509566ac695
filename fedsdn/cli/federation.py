"""fedsdn federation: whether sites have the same federation file."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fedsdn.cli.common import ConfigFile, settings
from fedsdn.config.differences import Difference, Place, differences, read_text
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
    if as_json:
        files = {"first": str(first), "second": str(second)}
        print(json.dumps(files | {"differences": [asdict(one) for one in found]}, indent=2))
    else:
        for one in found:
            print(_line(one, first, second))
        for site, uplinks in renumbered(*(text.federation for text in texts)).items():
            print(_moved(site, uplinks), file=sys.stderr)
    raise typer.Exit(1 if found else 0)


def _moved(site: str, uplinks: tuple[str, ...]) -> str:
    return (
        f"fedsdn: site {site}: the tunnels of {', '.join(uplinks)} have other UDP ports in the "
        "other file, as uplinks are numbered by their names: until every site has the same file, "
        "their paths carry TCP alone; a new uplink whose name comes last moves none"
    )


def _line(one: Difference, first: Path, second: Path) -> str:
    return f"{one.name}: {_at(one.first, first)}; {_at(one.second, second)}"


def _at(place: Place, file: Path) -> str:
    return f"{place.text} at {file}:{place.line}"
