"""Options and error handling that all commands share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from fedsdn.config.local import LocalSettings, local_settings
from fedsdn.errors import FINAL_STATUS, FinalError

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


@contextmanager
def service(*, again: bool = False) -> Iterator[None]:
    """End the command so that its unit knows whether to start it again (systemd.service(5)).

    With ``again`` it is started again whatever the error is.
    """
    try:
        yield
    except FinalError as error:
        if again:
            raise
        print(f"fedsdn: {error}", file=sys.stderr)
        raise typer.Exit(FINAL_STATUS) from error
