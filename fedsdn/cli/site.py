"""fedsdn site: set this host up as a site of the federation, and look at that."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import groupby
from typing import Annotated

import typer

from fedsdn.channel import ask
from fedsdn.channel.server import CHANNEL_SOCKET
from fedsdn.cli.common import ConfigFile, FederationFile, SiteName, service, settings
from fedsdn.config.loader import load_federation
from fedsdn.errors import FedsdnError
from fedsdn.pipeline.declarations import PROXY_NAMESPACE
from fedsdn.proxy.process.stats_socket import check_namespace
from fedsdn.site import setup
from fedsdn.site.show import Item, compare

app = typer.Typer(help="Set this host up as a site, look at it, and take it down.")

_TEXT_WIDTH = 60


@app.command()
def up(
    config_file: ConfigFile = None, site: SiteName = None, federation: FederationFile = None
) -> None:
    """Make the proxy's namespace and ports, or correct what differs from the federation file."""
    with service():
        local = settings(config_file, site, federation)
        wanted = load_federation(local.federation)
        ask.reload(CHANNEL_SOCKET)  # resets still need the routes that are about to go
        changed = setup.up(wanted, local.site, _warn)
    print(f"site {local.site}: " + (f"set up {', '.join(changed)}" if changed else "nothing to do"))


@app.command(hidden=True)
def prepare() -> None:
    """Make the namespace that 'fedsdn site up' takes, in the mounts of the whole host (unit)."""
    setup.prepare()


@app.command(hidden=True)
def forget() -> None:
    """Remove what 'fedsdn site down' without the mounts of the whole host could not (unit)."""
    setup.forget()


def _warn(text: str) -> None:
    print(f"fedsdn: warning: {text}", file=sys.stderr)


@app.command()
def down(config_file: ConfigFile = None, site: SiteName = None) -> None:
    """Remove everything that 'fedsdn site up' made; what else the bridge forwards goes on.

    With a site's name, given or in the config file, only if this host was set up as that site.
    """
    named = config_file is not None or site is not None
    name = settings(config_file, site, None).site if named else None
    removed = setup.down(name)
    print("site taken down" if removed.anything else "nothing to do")
    for bridge in removed.handed_over:
        print(
            f"bridge {bridge} forwarded by fedsdn's table-miss flow alone: it keeps "
            "'priority=0,actions=NORMAL', so that its VMs reach each other and their gateway"
        )


@app.command()
def show(
    config_file: ConfigFile = None,
    site: SiteName = None,
    federation: FederationFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare what is on this host with what the site is to have; exit status 1 if they differ."""
    local = settings(config_file, site, federation)
    items = [*compare(load_federation(local.federation), local.site), *_proxy()]
    different = sum(not item.ok for item in items)
    if as_json:
        listed = [asdict(item) | {"ok": item.ok} for item in items]
        answer = {"site": local.site, "different": different, "items": listed}
        print(json.dumps(answer, indent=2))
    else:
        _print(items)
        print(f"site {local.site}: " + (f"{different} differ" if different else "as planned"))
    raise typer.Exit(1 if different else 0)


def _proxy() -> Iterator[Item]:
    """Say whether a proxy that runs is in the namespace; one that does not run is no fault."""
    try:
        check_namespace(PROXY_NAMESPACE)
    except FedsdnError as error:
        text = f"inside namespace {PROXY_NAMESPACE}"
        yield Item("proxy", text, wanted=True, there=False, found=str(error))


def _print(items: Iterable[Item]) -> None:
    for part, members in groupby(items, key=lambda item: item.part):
        print(part)
        for item in members:
            print(f"  {'✓' if item.ok else '✗'} {item.text:{_TEXT_WIDTH}} {_remark(item)}".rstrip())


def _remark(item: Item) -> str:
    if item.ok:
        return item.meaning
    if not item.wanted:
        return "not wanted"
    return f"is {item.found}" if item.found else "missing"
