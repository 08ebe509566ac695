"""fedsdn connections: every federated connection, who carries it, and over which uplinks."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from typing import Annotated

import typer
from rich.live import Live
from rich.text import Text

from fedsdn.channel.ask import open_connections
from fedsdn.channel.server import CHANNEL_SOCKET
from fedsdn.cli.common import ConfigFile, FederationFile, SiteName, settings
from fedsdn.cli.tables import plain_table
from fedsdn.config.loader import load_federation
from fedsdn.config.model import Site
from fedsdn.errors import FedsdnError
from fedsdn.inspect.connections import ConnectionView, by_rate, joined
from fedsdn.mptcp.subflows import Subflows
from fedsdn.ovs.conntrack import entries
from fedsdn.pipeline.declarations import PROXY_NAMESPACE
from fedsdn.shell import Shell
from fedsdn.units import ago, size

_REFRESH_SECONDS = 1.0
_HEADINGS = ("direction", "client", "destination", "peer", "sent", "received", "uplinks", "age")


def connections(
    *,
    watch: Annotated[
        bool, typer.Option("--watch", help="Refresh every second, the fastest first.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    config_file: ConfigFile = None,
    site: SiteName = None,
    federation: FederationFile = None,
) -> None:
    """List the connections that this site's proxy carries, with their subflows."""
    if watch and as_json:
        raise FedsdnError("--json prints one document: leave out --watch")
    local = settings(config_file, site, federation)
    here = load_federation(local.federation).local_site(local.site)
    if as_json:
        print(json.dumps([document(view) for view in collect(here)], indent=2))
    elif watch:
        with suppress(KeyboardInterrupt):
            _watch(here)
    else:
        print("\n".join(lines(collect(here), time.time())))


def collect(site: Site) -> list[ConnectionView]:
    """Ask conntrack, the application and the kernel.

    Raises:
        FedsdnError: one of them does not answer.

    """
    tracked = entries(Shell(site.name), site.provider_network.bridge)
    carried = open_connections(CHANNEL_SOCKET)
    with Subflows(PROXY_NAMESPACE) as kernel:
        subflows = kernel.read()
    names = {uplink.address.ip: uplink.name for uplink in site.uplinks}
    return joined(tracked, carried, subflows, names)


def document(view: ConnectionView) -> dict[str, object]:
    """Write a connection as what JSON holds."""
    addresses = {
        name: None if value is None else [str(value.address), value.port]
        for name, value in (("client", view.client), ("destination", view.destination))
    }
    return {**asdict(view), **addresses}


def lines(
    views: Sequence[ConnectionView], now: float, rates: Sequence[float] | None = None
) -> list[str]:
    """Write connections as a table, with a line for what is odd about one."""
    headings = _HEADINGS if rates is None else (*_HEADINGS, "rate")
    rows = []
    for number, view in enumerate(views):
        cells = _cells(view, now)
        rows.append(cells if rates is None else (*cells, f"{size(rates[number])}/s"))
    plain = sum(not view.multipath for view in views)
    odd = sum(bool(view.absent) for view in views)
    count = f"{len(views)} connections"
    count += f", {plain} on plain TCP" if plain else ""
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


def _watch(site: Site) -> None:
    before, taken = collect(site), time.monotonic()
    with ExitStack() as stack:
        live = stack.enter_context(Live(auto_refresh=False)) if sys.stdout.isatty() else None
        while True:
            time.sleep(_REFRESH_SECONDS)
            now, then, taken = collect(site), taken, time.monotonic()
            sorted_views = list(by_rate(now, before, taken - then))
            before = now
            shown = lines(
                [view for _, view in sorted_views], time.time(), [rate for rate, _ in sorted_views]
            )
            if live is None:
                print("\n".join(shown), flush=True)
            else:
                live.update(Text("\n".join(shown)), refresh=True)
