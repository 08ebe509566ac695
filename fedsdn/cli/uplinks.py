"""fedsdn uplinks: the site's uplinks and paths, their states and traffic."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Annotated

import typer

from fedsdn.cli.common import ConfigFile, FederationFile, SiteName, settings
from fedsdn.cli.tables import TextTable, print_blocks
from fedsdn.cli.watch import check_options, watch_blocks
from fedsdn.config.loader import load_federation
from fedsdn.inspect.uplinks import PathView, Snapshot, UplinkView, read_snapshot
from fedsdn.units import ago, size
from fedsdn.uplinks.path import PathName
from fedsdn.uplinks.probe import Refusal
from fedsdn.uplinks.status import COMPARE_FILES, RefusedProbes
from fedsdn.verify.files import differing

_NO_APPLICATION = (
    "the application does not run here (osken-manager fedsdn.app), so the states of ports and "
    "paths are unknown"
)


def uplinks(
    *,
    watch: Annotated[
        bool, typer.Option("--watch", help="Refresh every second, with rates, until Ctrl-C.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config_file: ConfigFile = None,
    site: SiteName = None,
    federation: FederationFile = None,
) -> None:
    """Show this site's uplinks and its paths to the others: state, round-trip time, subflows."""
    check_options(watch=watch, as_json=as_json)
    local = settings(config_file, site, federation)
    collect = partial(read_snapshot, load_federation(local.federation), local.site)
    if as_json:
        print(json.dumps(asdict(collect()), default=str, indent=2))
    elif watch:
        watch_blocks(collect, lambda now, before, _: _blocks(now, before))
    else:
        print_blocks(_blocks(collect()))


def _blocks(now: Snapshot, before: Snapshot | None = None) -> list[TextTable | str]:
    first = [] if now.application else [_NO_APPLICATION]
    unread = [f"datagrams: unknown: {now.tunnels_unread}"] if now.tunnels_unread else []
    last = differing(now.differing, now.taken)
    compare = [COMPARE_FILES] if last else []
    return [*first, *tables(now, before), *unread, *last, *compare, *_refused(now.refused)]


def _refused(every: Sequence[RefusedProbes]) -> list[str]:
    """Say which datagrams were not taken for probes, but for those of handshakes."""
    told = [
        f"{one.why} {one.number} ({f'site {one.site}' if one.site else 'no site'})"
        for one in every
        if one.why != Refusal.UNPROVEN
    ]
    return [f"refused probes, since the application's start: {', '.join(told)}"] if told else []


def tables(now: Snapshot, before: Snapshot | None = None) -> tuple[TextTable, TextTable]:
    """Return the tables of uplinks and paths, with rates if there is an earlier snapshot."""
    older = {one.name: one for one in before.uplinks} if before else {}
    seconds = now.taken - before.taken if before else 0.0
    rates = ["sent/s", "received/s"] if before else []
    return (
        TextTable(
            f"uplinks of {now.site}",
            [
                *("uplink", "port", "address", "state", "endpoint", "subflows"),
                *("sent", "received", *rates, "datagrams", "since"),
            ],
            [
                _uplink_row(
                    one,
                    _rates(one, older.get(one.name), seconds) if before else (),
                    ago(one.since, now.taken),
                )
                for one in now.uplinks
            ],
        ),
        TextTable(
            "paths",
            ["path", "state", "RTT", "loss", "subflows", "datagrams", "since", "why"],
            [_path_row(one, ago(one.since, now.taken)) for one in now.paths],
        ),
    )


def _uplink_row(one: UplinkView, rates: Sequence[str], since: str) -> list[str]:
    return [
        *(one.name, one.port, str(one.address), one.state),
        *("none" if one.endpoint is None else str(one.endpoint), str(one.subflows)),
        *(_bytes(one.bytes_sent), _bytes(one.bytes_received)),
        *(*rates, _datagrams(one), since),
    ]


def _path_row(one: PathView, since: str) -> list[str]:
    return [
        str(PathName(one.uplink, one.peer, one.peer_uplink)),
        one.state,
        "" if one.rtt_ms is None else f"{one.rtt_ms:.1f} ms",
        "" if one.loss is None else f"{one.loss * 100:.1f} %",
        *(str(one.subflows), _datagrams(one), since, one.why),
    ]


def _datagrams(one: UplinkView | PathView) -> str:
    if one.datagrams_sent is None or one.datagrams_received is None:
        return ""
    return f"{size(one.datagrams_sent)}↑ {size(one.datagrams_received)}↓"


def _rates(now: UplinkView, before: UplinkView | None, seconds: float) -> tuple[str, str]:
    if before is None or seconds <= 0:
        return "", ""
    return (
        _rate(now.bytes_sent, before.bytes_sent, seconds),
        _rate(now.bytes_received, before.bytes_received, seconds),
    )


def _rate(now: int | None, before: int | None, seconds: float) -> str:
    if now is None or before is None or now < before:
        return ""  # the interface is another one
    return f"{(now - before) * 8 / seconds / 1e6:.1f} Mbit"


def _bytes(number: float | None) -> str:
    return "" if number is None else size(number)
