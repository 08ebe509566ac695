"""Options and error handling that all commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedsdn.config.local import LocalSettings, local_settings

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config-file",
        envvar="FEDSDN_CONFIG_FILE",
        help="File with [fedsdn] site and federation; /etc/fedsdn/fedsdn.conf if it exists.",
    ),
]
SiteName = Annotated[
    str | None, typer.Option("--site", help="This site's name; overrides the config file.")
]
FederationFile = Annotated[
    Path | None,
    typer.Option("--federation", help="The federation file; overrides the config file."),
]


def settings(config_file: Path | None, site: str | None, federation: Path | None) -> LocalSettings:
    """Merge the command line over the site's config file."""
    return local_settings(config_file, site=site, federation=federation)
