"""fedsdn datagrams: every flow of UDP, ICMP and other protocols that is not a connection of TCP."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Annotated

import typer

from fedsdn.cli.common import ConfigFile, FederationFile, SiteName, settings
from fedsdn.cli.tables import plain_table
from fedsdn.cli.watch import check_options, watch_blocks
from fedsdn.config.loader import load_federation
from fedsdn.config.model import Address
from fedsdn.inspect.datagrams import FlowView, by_rate, document, read_datagrams
from fedsdn.socket_address import SocketAddress
from fedsdn.units import ago, size

_HEADINGS = (
    *("direction", "protocol", "source", "destination", "peer", "path"),
    *("sent", "received", "age"),
)


def datagrams(
    *,
    watch: Annotated[
        bool, typer.Option("--watch", help="Refresh every second, the fastest first.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config_file: ConfigFile = None,
    site: SiteName = None,
    federation: FederationFile = None,
) -> None:
    """List the flows that are not TCP between this site's VMs and others', with their path."""
    check_options(watch=watch, as_json=as_json)
    local = settings(config_file, site, federation)
    whole = load_federation(local.federation)
    collect = partial(read_datagrams, whole, whole.local_site(local.site))
    if as_json:
        print(json.dumps([document(view) for view in collect()], indent=2))
    elif watch:
        watch_blocks(collect, _with_rates)
    else:
        print("\n".join(lines(collect())))


def _with_rates(now: Sequence[FlowView], before: Sequence[FlowView], seconds: float) -> list[str]:
    found = list(by_rate(now, before, seconds))
    return lines([view for _, view in found], [rate for rate, _ in found])


def lines(views: Sequence[FlowView], rates: Sequence[float] | None = None) -> list[str]:
    """Write flows as a table, under a line that counts them."""
    headings = _HEADINGS if rates is None else (*_HEADINGS, "rate")
    rows = []
    for number, view in enumerate(views):
        cells = _cells(view)
        rows.append(cells if rates is None else (*cells, f"{size(rates[number])}/s"))
    count = f"{len(views)} flows"
    silent = sum(not view.answered for view in views)
    count += f", {silent} without an answer" if silent else ""
    return [count, *plain_table([headings, *rows])] if rows else [count]


def _cells(view: FlowView) -> tuple[str, ...]:
    echo = "" if view.identifier is None else f" id {view.identifier}"
    return (
        view.direction,
        f"{view.protocol}{echo}",
        _end(view.source, view.source_port),
        _end(view.destination, view.destination_port),
        view.peer,
        _path(view),
        size(view.sent),
        size(view.received),
        "" if view.age is None else ago(0.0, view.age),
    )


def _path(view: FlowView) -> str:
    """Name the path there, and the one back where that is another."""
    there, back = view.sent_by, view.received_by
    if there is None and back is None:
        return "none yet"
    if there == back or back is None:
        return str(there)
    came = f"{back.peer}/{back.peer_uplink} to {back.uplink}"
    return came if there is None else f"{there}, back {came}"


def _end(address: Address, port: int | None) -> str:
    return str(address) if port is None else str(SocketAddress(address, port))
