"""fedsdn status and support-bundle: a site on one screen, and in one archive for support."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fedsdn.cli.common import ConfigFile, FederationFile, SiteName
from fedsdn.cli.views import site_view
from fedsdn.inspect.bundle import write_bundle
from fedsdn.inspect.lines import screen
from fedsdn.inspect.overview import overview


def status(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config_file: ConfigFile = None,
    site: SiteName = None,
    federation: FederationFile = None,
) -> None:
    """Show this site on one screen; the exit status is 1 if anything is wrong."""
    view = site_view(config_file, site, federation)
    lines = overview(view)
    if as_json:
        print(json.dumps({"site": view.name, "parts": [asdict(one) for one in lines]}, indent=2))
    else:
        print("\n".join(screen(f"site {view.name}", lines)))
    if any(line.fix for line in lines):
        raise typer.Exit(1)


def support_bundle(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="Where to write it; fedsdn-SITE-TIME.tar.gz."),
    ] = None,
    *,
    config_file: ConfigFile = None,
    site: SiteName = None,
    federation: FederationFile = None,
) -> None:
    """Write the site's state into one archive, for support. There is no secret in it."""
    print(write_bundle(site_view(config_file, site, federation), file))
