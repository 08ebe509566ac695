"""fedsdn identity: the keys by which peers know this site."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from fedsdn.cli.common import ConfigFile, FederationFile, SiteName, settings
from fedsdn.config.document import ConfigError
from fedsdn.config.identities import identity_document
from fedsdn.config.loader import load_federation
from fedsdn.config.local import LocalSettings
from fedsdn.config.model import Identity
from fedsdn.config.schema import check_site_name
from fedsdn.errors import FinalError
from fedsdn.identity import dates, rotation
from fedsdn.identity.new import make
from fedsdn.identity.store import add_tunnels_keys, alone, check_site, load, save
from fedsdn.identity.text import block
from fedsdn.inspect.lines import Line, look_at, screen
from fedsdn.verify.identity import IdentityView, parts

app = typer.Typer(help="Make, show, check and replace this site's keys.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def init(
    config_file: ConfigFile = None, site: SiteName = None, federation: FederationFile = None
) -> None:
    """Make this site's keys, if it has none, and print what the federation file is to have of them.

    Keys that were made before there was one for tunnels get that one besides, and stay.
    The private keys stay in the directory 'identity' beside the federation file.
    """
    local = settings(config_file, site, federation)
    check_site_name(local.site)
    with alone(local.identity):
        added = add_tunnels_keys(local.identity)
        own = load(local.identity) or (save(local.identity, make(local.site)),)
    check_site(local.site, own)
    _say(f"private keys are in {local.identity} ('fedsdn identity rotate' makes others)")
    for one in added:
        _say(f"{one.identity.name} has a key for tunnels now; its other keys are what they were")
    # The file, which would say which of several count, has no keys for tunnels, and is refused.
    printed = [one.identity for one in added] or rotation.for_file(_listed(local), own)
    if others := [one.identity.name for one in own if one.identity not in printed]:
        _say(f"this host has others, which are not printed here: {', '.join(others)}")
    _say(f"put this under sites.{local.site} in the federation file of every site:")
    print(block(printed, _ends(printed)))


@app.command()
def show(
    config_file: ConfigFile = None,
    site: SiteName = None,
    federation: FederationFile = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Print what the federation file has, or is to have, of the private keys on this host."""
    local = settings(config_file, site, federation)
    own = load(local.identity)
    if not own:
        raise FinalError(f"{local.identity}: found no identity: run 'fedsdn identity init'")
    check_site(local.site, own)
    listed = _listed(local)
    printed = rotation.for_file(listed, own)
    others = sorted({one.identity for one in own} - set(printed), key=dates.begin)
    if as_json:
        print(json.dumps([_document(one, listed) for one in (*printed, *others)], indent=2))
        return
    remarks = {
        one: f"{end}, {'in' if one in listed else 'not in'} the federation file"
        for one, end in _ends((*printed, *others)).items()
    }
    print(block(printed, remarks))
    for one in others:
        print(f"      # also on this host: {one.name}, {remarks[one]}")


@app.command()
def check(
    config_file: ConfigFile = None,
    site: SiteName = None,
    federation: FederationFile = None,
    *,
    as_json: AsJson = False,
) -> None:
    """See that the keys are good, private and in the federation file; warn 30 days before they end.

    The exit status is 1 if anything is wrong.
    """
    local = settings(config_file, site, federation)
    whole = load_federation(local.federation)
    view = IdentityView(whole, whole.local_site(local.site), local.identity)
    lines = [look_at(name, look) for name, look in parts(view)]
    _print_lines(local.site, lines, as_json=as_json)
    if any(line.fix for line in lines):
        raise typer.Exit(1)


@app.command()
def rotate(
    config_file: ConfigFile = None, site: SiteName = None, federation: FederationFile = None
) -> None:
    """Make keys that are to replace those in force, and print what the file is to have meanwhile.

    Nothing changes until the federation files do: docs/sites.md says in which order.
    """
    local = settings(config_file, site, federation)
    here = load_federation(local.federation).local_site(local.site)
    made = rotation.rotate(here, local.identity)
    old, new = made.old, made.new
    if made.broken:
        _say(
            f"{old.name} cannot be used: {made.broken}\n"
            f"1. put this in its place under sites.{local.site} in every site's federation file"
        )
    else:
        _say(
            f"1. put this under sites.{local.site} in every site's federation file\n"
            f"2. when all have it, take {old.name} out of the file, so that {new.name} alone is "
            "left: at this site first, then at the others"
        )
    _say(
        f"{2 if made.broken else 3}. then remove the old private keys: "
        f"rm {local.identity}/{old.name}*"
    )
    remarks = _ends((old, new))
    print(block(made.listed, {old: f"{remarks[old]}, in force", new: f"{remarks[new]}, the next"}))


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _ends(identities: Iterable[Identity]) -> dict[Identity, str]:
    return {one: f"until {dates.day(dates.end(one))}" for one in identities}


def _listed(local: LocalSettings) -> tuple[Identity, ...]:
    """Return what the federation file has of this site; nothing where there is no good file yet."""
    try:
        found = load_federation(local.federation).find_site(local.site)
    except ConfigError:
        return ()
    return () if found is None else found.identities


def _document(one: Identity, listed: tuple[Identity, ...]) -> dict[str, Any]:
    return {
        "name": one.name,
        "fingerprint": one.fingerprint.hex(),
        "begin": dates.begin(one).isoformat(),
        "end": dates.end(one).isoformat(),
        "listed": one in listed,
        **identity_document(one),
    }


def _print_lines(site: str, lines: list[Line], *, as_json: bool) -> None:
    if as_json:
        document = [{"name": one.name, "text": one.text, "fix": one.fix} for one in lines]
        print(json.dumps({"site": site, "parts": document}, indent=2))
    else:
        print("\n".join(screen(f"identity of site {site}", lines)))
