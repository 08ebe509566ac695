"""fedsdn connections: every federated connection, and the last that failed or were ended."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import partial
from typing import Annotated

import typer

from fedsdn.cli.common import ConfigFile, FederationFile, SiteName, settings
from fedsdn.cli.tables import plain_table
from fedsdn.cli.watch import check_options, watch_blocks
from fedsdn.config.loader import load_federation
from fedsdn.errors import FedsdnError
from fedsdn.inspect.connections import ConnectionView, by_rate, document, read_connections
from fedsdn.pipeline.declarations import PROXY_NAMESPACE
from fedsdn.proxy.ended.record import Ended
from fedsdn.proxy.ended.record import document as ended_document
from fedsdn.proxy.process.stats_socket import check_namespace, read_ended
from fedsdn.units import ago, size

_ENDED_HEADINGS = ("ago", "why", "by", "direction", "client", "destination", "peer", "detail")
_HEADINGS = ("direction", "client", "destination", "peer", "sent", "received", "uplinks", "age")


def connections(
    *,
    watch: Annotated[
        bool, typer.Option("--watch", help="Refresh every second, the fastest first.")
    ] = False,
    ended: Annotated[
        bool,
        typer.Option("--ended", help="Those that failed or were ended by us instead, and why."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config_file: ConfigFile = None,
    site: SiteName = None,
    federation: FederationFile = None,
) -> None:
    """List the connections that this site's proxy carries, with their subflows."""
    check_options(watch=watch, as_json=as_json)
    if ended:
        if watch:
            raise FedsdnError("--ended prints what was: leave out --watch")
        _print_ended(as_json=as_json)
        return
    local = settings(config_file, site, federation)
    whole = load_federation(local.federation)
    collect = partial(read_connections, whole, whole.local_site(local.site))
    if as_json:
        print(json.dumps([document(view) for view in collect()], indent=2))
    elif watch:
        watch_blocks(collect, _with_rates)
    else:
        print("\n".join(lines(collect(), time.time())))


def _print_ended(*, as_json: bool) -> None:
    check_namespace(PROXY_NAMESPACE)
    found = read_ended()
    if as_json:
        print(json.dumps([ended_document(one) for one in found], indent=2))
    else:
        print("\n".join(ended_lines(found, time.time())))


def ended_lines(found: Sequence[Ended], now: float) -> list[str]:
    """Write records as a table, the last first, under a line that counts them."""
    count = f"the last {len(found)} connections that failed or were ended by us"
    rows = [
        (
            ago(one.time, now),
            str(one.reason),
            str(one.who),
            str(one.direction or "?"),
            str(one.client or "?"),
            str(one.destination or "?"),
            one.peer or "?",
            f"{one.count} connections: {one.detail}" if one.count > 1 else one.detail,
        )
        for one in found
    ]
    return [count, *plain_table([_ENDED_HEADINGS, *rows])] if rows else [count]


def _with_rates(
    now: Sequence[ConnectionView], before: Sequence[ConnectionView], seconds: float
) -> list[str]:
    found = list(by_rate(now, before, seconds))
    return lines([view for _, view in found], time.time(), [rate for rate, _ in found])


def lines(
    views: Sequence[ConnectionView], now: float, rates: Sequence[float] | None = None
) -> list[str]:
    """Write connections as a table, under a line that counts them and the odd ones."""
    headings = _HEADINGS if rates is None else (*_HEADINGS, "rate")
    rows = []
    for number, view in enumerate(views):
        cells = _cells(view, now)
        rows.append(cells if rates is None else (*cells, f"{size(rates[number])}/s"))
    plain = sum(not view.multipath for view in views)
    in_clear = sum(not view.encrypted for view in views)
    odd = sum(bool(view.absent) for view in views)
    count = f"{len(views)} connections"
    count += f", {plain} on plain TCP" if plain else ""
    count += f", {in_clear} not encrypted" if in_clear else ""
    count += f", {odd} not in every view (conntrack, proxy, MPTCP)" if odd else ""
    return [count, *plain_table([headings, *rows])] if rows else [count]


def _cells(view: ConnectionView, now: float) -> tuple[str, ...]:
    paths = ", ".join(
        f"{share.uplink}{f' x{share.subflows}' if share.subflows > 1 else ''} "
        f"{share.rtt_ms:.0f} ms {size(share.sent)}↑ {size(share.received)}↓"
        for share in view.shares
    )
    if not view.multipath:
        paths = "plain TCP"
    if not view.encrypted:
        paths = f"{paths} (not encrypted)".strip()
    if view.absent:
        paths = f"{paths} (not in {', '.join(view.absent)})".strip()
    return (
        view.direction or "?",
        str(view.client or "?"),
        str(view.destination or "?"),
        view.peer or "?",
        size(view.sent),
        size(view.received),
        paths,
        ago(view.since, now),
    )
