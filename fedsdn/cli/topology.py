"""fedsdn topology: what the federation file says, and what it stands."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import islice
from math import comb
from pathlib import Path
from typing import Annotated, Any

import typer

from fedsdn.cli.common import ConfigFile, settings
from fedsdn.cli.tables import print_table
from fedsdn.config.document import load_document
from fedsdn.config.graph import CutOff, SitePair, paths
from fedsdn.config.loader import federation_document, is_topology, load_federation
from fedsdn.config.losses import Losses
from fedsdn.config.model import Federation
from fedsdn.lab.topology import load_topology

app = typer.Typer(help="Show and check a federation file.", no_args_is_help=True)

_MOST_LOSSES, _MOST_PAIRS = 20, 4
"""So many losses are printed, and of each so many pairs of sites."""

File = Annotated[
    Path | None,
    typer.Argument(
        help="Federation file or lab topology; without it, the one the config file names.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def show(file: File = None, config_file: ConfigFile = None, as_json: AsJson = False) -> None:
    """Print sites, prefixes, uplinks, and the paths between sites."""
    _, federation = _load(file, config_file)
    if as_json:
        print(json.dumps(_show_document(federation), indent=2))
        return
    size = _size(federation, Losses(federation))
    print(f"SOCKS servers on TCP port {federation.proxy_port}; {size}")
    _print_sites(federation)
    _print_uplinks(federation)
    _print_paths(federation)


@app.command()
def check(
    file: File = None,
    config_file: ConfigFile = None,
    as_json: AsJson = False,
    every: Annotated[
        bool, typer.Option("--all", help="Print every loss, and every two sites that it cuts off.")
    ] = False,
) -> None:
    """Check the file; say which losses of one or two uplinks would cut sites off."""
    path, federation = _load(file, config_file)
    losses = Losses(federation)
    most = None if every else _MOST_LOSSES
    first = list(islice(losses, None if most is None else most + 1))
    found, truncated = first[:most], len(first) > len(first[:most])
    counts = _counts(losses)
    if as_json:
        document = {"file": str(path), **counts, "losses": _losses_document(found)}
        print(json.dumps(document | {"truncated": truncated}, indent=2))
        return
    one, two = counts["one"], counts["two"]
    print(f"{path}: good: {_size(federation, losses)}")
    for loss in found:
        print(_loss_line(loss, None if every else _MOST_PAIRS))
    if truncated:
        print(f"these are the first {most} such losses: 'fedsdn topology check --all' prints all")
    print(
        f"cut sites off: {one['cut_off']} of {one['losses']} losses of one uplink, "
        f"{two['cut_off']} of {two['losses']} losses of two"
    )


def _loss_line(loss: CutOff, most: int | None) -> str:
    lost = " and ".join(map(str, loss.uplinks))
    return f"loss of {lost} cuts off {_cut_off(loss.cut_off, most)}"


def _cut_off(pairs: Sequence[SitePair], most: int | None) -> str:
    """Say which pairs of sites; of more than ``most`` what they have in common, or the first."""
    if most is None or len(pairs) <= most:
        return ", ".join(map(_apart, pairs))
    shared = frozenset(pairs[0]).intersection(*pairs)
    if shared:
        return f"{min(shared)} from {len(pairs)} other sites"
    return f"{', '.join(map(_apart, pairs[:most]))} and {len(pairs) - most} more"


def _load(file: Path | None, config_file: Path | None) -> tuple[Path, Federation]:
    """Read the file that is named, or the one of this host, which must have this host's site."""
    if file is None:
        local = settings(config_file, site=None, federation=None)
        federation = load_federation(local.federation)
        federation.local_site(local.site)
        return local.federation, federation
    if is_topology(load_document(file)):
        return file, load_topology(file).federation
    return file, load_federation(file)


def _size(federation: Federation, losses: Losses) -> str:
    prefixes = sum(len(site.prefixes) for site in federation.sites)
    sites = len(federation.sites)
    return f"{sites} sites, {prefixes} prefixes, {losses.uplinks} uplinks, {losses.paths} paths"


def _losses_document(cutting: Iterable[CutOff]) -> list[dict[str, Any]]:
    return [
        {
            "uplinks": [str(uplink) for uplink in loss.uplinks],
            "cut_off": loss.cut_off,
            "alone": loss.alone,
        }
        for loss in cutting
    ]


def _counts(losses: Losses) -> dict[str, dict[str, int]]:
    """Count the losses of one uplink and those of two, and how many of them cut sites off."""
    return {
        "one": {"losses": losses.uplinks, "cut_off": losses.one},
        "two": {"losses": comb(losses.uplinks, 2), "cut_off": losses.two},
    }


def _apart(pair: SitePair) -> str:
    return f"{pair[0]} from {pair[1]}"


def _show_document(federation: Federation) -> dict[str, Any]:
    every = [
        {"sites": pair, "uplinks": [str(here), str(there)]}
        for pair, between in paths(federation)
        for here, there in between
    ]
    return federation_document(federation) | {"paths": every}


def _print_sites(federation: Federation) -> None:
    print_table(
        "Sites",
        ("site", "bridge", "provider network", "table-miss flow"),
        [
            (
                site.name,
                network.bridge,
                "flat" if network.segmentation_id is None else f"vlan {network.segmentation_id}",
                network.table_miss,
            )
            for site in federation.sites
            for network in [site.provider_network]
        ],
    )
    print_table(
        "Prefixes",
        ("site", "prefix", "proxy address"),
        [
            (site.name, str(prefix.network), str(prefix.proxy_address))
            for site in federation.sites
            for prefix in site.prefixes
        ],
    )


def _print_uplinks(federation: Federation) -> None:
    print_table(
        "Uplinks",
        ("uplink", "port", "address", "gateway", "public address"),
        [
            (
                f"{site.name}/{uplink.name}",
                uplink.port,
                str(uplink.address),
                str(uplink.gateway or "-"),
                str(uplink.public or "-"),
            )
            for site in federation.sites
            for uplink in site.uplinks
        ],
    )


def _print_paths(federation: Federation) -> None:
    print_table(
        "Paths",
        ("from", "to"),
        [(str(here), str(there)) for _, between in paths(federation) for here, there in between],
    )
