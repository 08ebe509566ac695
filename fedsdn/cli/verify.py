"""fedsdn verify: proof that a site, or a lab, does what it should."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedsdn.cli.common import ConfigFile, FederationFile, SiteName
from fedsdn.cli.views import lab_views, machine_views, site_view
from fedsdn.config.local import DEFAULT_CONFIG_FILE
from fedsdn.errors import FedsdnError
from fedsdn.lab.lab import open_lab
from fedsdn.lab.state import lab_names
from fedsdn.lab.topology import load_topology
from fedsdn.shell import Shell
from fedsdn.traffic.program import MOST_CONNECTIONS
from fedsdn.verify.checks import Result, run_checks, totals
from fedsdn.verify.plan import FULL, QUICK, Effort, all_checks
from fedsdn.verify.report import as_json, as_junit, print_results
from fedsdn.verify.view import SiteView

_Connections = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MOST_CONNECTIONS,
        help=f"Parallel connections per direction and family; default {FULL.connections}.",
    ),
]
_Machines = Annotated[
    Path | None,
    typer.Option(
        "--machines",
        metavar="TOPOLOGY",
        help="Check the sites of this topology, each on the machine that ssh knows by its "
        "name, with real connections.",
    ),
]
_PullWith = Annotated[
    str | None,
    typer.Option(
        "--pull-with",
        metavar="PROGRAM",
        help="Pull each uplink in mid-transfer, too: PROGRAM SITE UPLINK down, and then up.",
    ),
]


def verify(
    *,
    lab: Annotated[
        str | None, typer.Option("--lab", help="Check this lab, with real connections.")
    ] = None,
    connections: _Connections = None,
    machines: _Machines = None,
    ssh_config: Annotated[
        Path | None, typer.Option("--ssh-config", help="ssh's configuration file for these.")
    ] = None,
    pull_with: _PullWith = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer connections, shorter transfers.")
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
    junit: Annotated[
        Path | None, typer.Option("--junit", help="Write the results there as JUnit XML too.")
    ] = None,
    config_file: ConfigFile = None,
    site: SiteName = None,
    federation: FederationFile = None,
) -> None:
    """Check this site, or a whole lab; exit status 1 if anything failed.

    Without --lab, the site of the config file is checked; on a machine without one, its only lab.
    """
    views = (
        _views(lab, config_file, site, federation)
        if machines is None
        else machine_views(load_topology(machines), ssh_config)
    )
    effort = QUICK if quick else FULL
    if connections is not None:
        effort = Effort(connections, effort.seconds)
    console = Console(quiet=json_output)
    plug = None if pull_with is None else partial(_plug, pull_with)
    results = print_results(run_checks(all_checks(views, effort, plug)), console)
    _write(results, json_output=json_output, junit=junit)
    if totals(results).failed:
        raise typer.Exit(1)


def _views(
    lab: str | None, config_file: Path | None, site: str | None, federation: Path | None
) -> list[SiteView]:
    configured = config_file or site or DEFAULT_CONFIG_FILE.exists()
    if lab is None and configured:
        return [site_view(config_file, site, federation)]
    if lab is None and not lab_names():
        raise FedsdnError(
            "found neither a site's settings nor a lab: give --config-file, or run 'fedsdn lab up'"
        )
    return lab_views(open_lab(lab))


def _write(results: Sequence[Result], *, json_output: bool, junit: Path | None) -> None:
    if json_output:
        print(as_json(results))
    if junit is not None:
        try:
            junit.write_text(as_junit(results), encoding="utf-8")
        except OSError as error:
            raise FedsdnError(f"{junit}: cannot write the results: {error.strerror}") from error


def _plug(program: str, site: str, uplink: str, carrier: bool) -> None:
    Shell("here").output(program, site, uplink, "up" if carrier else "down")
