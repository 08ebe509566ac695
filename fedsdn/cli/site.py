"""fedsdn site: set this host up as a site of the federation, and look at that."""

from __future__ import annotations

import typer

from fedsdn.cli.common import ConfigFile, FederationFile, SiteName, settings
from fedsdn.config.loader import load_federation
from fedsdn.site import setup

app = typer.Typer(help="Set this host up as a site, look at it, and take it down.")


@app.command()
def up(
    config_file: ConfigFile = None, site: SiteName = None, federation: FederationFile = None
) -> None:
    """Make the proxy's namespace and ports, or correct what differs from the federation file."""
    local = settings(config_file, site, federation)
    changed = setup.up(load_federation(local.federation), local.site, local.openflow_port)
    print(f"site {local.site}: " + (f"set up {', '.join(changed)}" if changed else "nothing to do"))


@app.command()
def down(config_file: ConfigFile = None, site: SiteName = None) -> None:
    """Remove everything that 'fedsdn site up' made; the federation file is not needed for it."""
    named = config_file is not None or site is not None
    name = settings(config_file, site, None).site if named else None
    print("site taken down" if setup.down(name) else "nothing to do")
