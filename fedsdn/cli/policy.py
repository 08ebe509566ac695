"""fedsdn policy: which rule of the federation file decides, and whether all decide as expected."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from fedsdn.cli.common import ConfigFile, settings
from fedsdn.config.decision import Question, decide
from fedsdn.config.expectations import read_expectations, unmet
from fedsdn.config.loader import load_federation
from fedsdn.errors import FedsdnError
from fedsdn.inspect.trace.question import parse_end

app = typer.Typer(help="Ask and test the rules of a federation file.", no_args_is_help=True)

ERROR = 2
"""Exit status where nothing could be decided."""

File = Annotated[
    Path | None,
    typer.Option(
        "--federation",
        help="Federation file or lab topology; without it, the one the config file names.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def check(
    source: Annotated[str, typer.Argument(metavar="SRC", help="The client.")],
    destination: Annotated[
        str, typer.Argument(metavar="DST:PORT", help="The server; of ICMP without a port.")
    ],
    *,
    protocol: Annotated[
        Literal["tcp", "udp", "icmp"], typer.Option("--protocol", help="Of what it is.")
    ] = "tcp",
    as_json: AsJson = False,
    federation: File = None,
    config_file: ConfigFile = None,
) -> None:
    """Say which rule decides about a connection, by file and line.

    The exit status is 0 if it is allowed, 1 if not, 2 if that cannot be said.
    """
    try:
        asked = _question(source, destination, protocol)
        path = _file(federation, config_file)
        decision = decide(load_federation(path), asked)
    except FedsdnError as error:
        raise _cannot_say(error) from error
    if as_json:
        print(json.dumps(decision.document(path), indent=2))
    else:
        print(f"{decision}{decision.place(path)}")
    raise typer.Exit(0 if decision.allowed else 1)


@app.command("test")
def hold_against(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Expectations; docs/policy.md.")],
    *,
    as_json: AsJson = False,
    federation: File = None,
    config_file: ConfigFile = None,
) -> None:
    """Hold a file of expectations against the rules; one line for each that is not met.

    The exit status is 0 if all are met, 1 if not, 2 if a file cannot be read.
    """
    try:
        expected = read_expectations(file)
        path = _file(federation, config_file)
        found = unmet(load_federation(path), expected)
    except FedsdnError as error:
        raise _cannot_say(error) from error
    if as_json:
        report = [
            {
                "line": one.expected.line,
                "asked": str(one.expected.asked),
                "expected": "allowed" if one.expected.allowed else "refused",
                "found": one.found.document(path),
            }
            for one in found
        ]
        print(json.dumps({"expectations": len(expected), "unmet": report}, indent=2))
    else:
        for one in found:
            print(f"{file}:{one.expected.line}: {one}{one.found.place(path)}")
        print(f"{len(expected) - len(found)} of {len(expected)} expectations met")
    raise typer.Exit(1 if found else 0)


def _cannot_say(error: FedsdnError) -> typer.Exit:
    print(f"fedsdn: {error}", file=sys.stderr)
    return typer.Exit(ERROR)


def _file(federation: Path | None, config_file: Path | None) -> Path:
    if federation is not None:
        return federation
    return settings(config_file, site=None, federation=None).federation


def _question(source: str, destination: str, protocol: Literal["tcp", "udp", "icmp"]) -> Question:
    """Read the two ends.

    Raises:
        FedsdnError: one of them is no address, or has a port too much or too few.

    """
    client, client_port = parse_end(source)
    if client_port is not None:
        raise FedsdnError(f"{source!r} has a port, rules know of no client's: leave it out")
    server, port = parse_end(destination)
    if protocol != "icmp" and port is None:
        raise FedsdnError(f"{destination!r} has no port: write it behind, as '10.2.0.11:80'")
    if protocol == "icmp" and port is not None:
        raise FedsdnError(f"{destination!r} has a port, ICMP has none: leave it out")
    if client.version != server.version:
        raise FedsdnError(f"{client} and {server} are of different families: name two of one")
    return Question(client, server, port or 0, protocol)
