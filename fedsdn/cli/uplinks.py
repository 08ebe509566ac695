"""fedsdn uplinks: the site's uplinks and paths, what they carry, and since when they are so."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fedsdn.cli.common import ConfigFile, FederationFile, SiteName, settings
from fedsdn.cli.tables import print_table
from fedsdn.config.loader import load_federation
from fedsdn.config.model import Address, AddressPair, Federation, Uplink
from fedsdn.errors import FedsdnError
from fedsdn.mptcp.endpoints import Endpoints
from fedsdn.mptcp.subflows import Subflows
from fedsdn.namespace import inside
from fedsdn.pipeline.declarations import PROXY_NAMESPACE, wan_port
from fedsdn.units import ago, size
from fedsdn.uplinks.path import PathName
from fedsdn.uplinks.status import (
    PathState,
    PathStatus,
    PortState,
    SiteStatus,
    UplinkStatus,
    read_status,
)

_REFRESH_SECONDS = 1.0
_COUNTERS = Path("/proc/thread-self/net/dev")
"""Not /sys/class/net, which shows the namespace of whoever mounted /sys (sysfs(5))."""

_NO_APPLICATION = (
    "the application does not run here (osken-manager fedsdn.app), so nothing is known of ports "
    "and paths"
)


@dataclass(frozen=True, slots=True)
class KernelView:
    """What the kernel has in the proxy's namespace.

    ``endpoints`` are identifiers by address, ``subflows`` the addresses of each subflow,
    ``counters`` bytes sent and received by interface.
    """

    endpoints: dict[Address, int]
    subflows: tuple[AddressPair, ...]
    counters: dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class UplinkView:
    """One of the site's uplinks. ``since`` is in Unix time; None is what nothing tells of."""

    name: str
    port: str
    address: Address
    state: PortState
    endpoint: int | None
    subflows: int
    bytes_sent: int | None
    bytes_received: int | None
    since: float | None


@dataclass(frozen=True, slots=True)
class PathView:
    """A path to a peer. ``loss`` is 0 to 1, ``since`` in Unix time; None: nothing tells of it."""

    uplink: str
    peer: str
    peer_uplink: str
    state: PathState
    rtt_ms: float | None
    loss: float | None
    subflows: int
    since: float | None
    why: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All of a site at ``taken`` (Unix time); ``application`` says whether it runs."""

    site: str
    taken: float
    application: bool
    uplinks: tuple[UplinkView, ...]
    paths: tuple[PathView, ...]


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table as it is to be read."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


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
    if watch and as_json:
        raise FedsdnError("--json prints one document: leave out --watch")
    local = settings(config_file, site, federation)
    whole = load_federation(local.federation)

    def collect() -> Snapshot:
        return snapshot(whole, local.site, read_status(), read_kernel(), time.time())

    if as_json:
        print(json.dumps(asdict(collect()), default=str, indent=2))
    elif watch:
        with suppress(KeyboardInterrupt):
            _watch(collect)
    else:
        _print(collect())


# Collecting


def read_kernel(namespace: str = PROXY_NAMESPACE) -> KernelView:
    """Ask the kernel.

    Raises:
        FedsdnError: the namespace is missing.

    """
    with Subflows(namespace) as subflows, Endpoints(namespace) as endpoints:
        return KernelView(
            endpoints={one.address: number for one, number in endpoints.read().items()},
            subflows=tuple((one.local, one.remote) for one in subflows.read()),
            counters=parse_counters(inside(namespace, _COUNTERS.read_text)),
        )


def parse_counters(text: str) -> dict[str, tuple[int, int]]:
    """Read bytes sent and received by interface from /proc/net/dev (proc_pid_net(5))."""
    counters = {}
    for line in text.splitlines()[2:]:
        name, _, values = line.partition(":")
        received, sent = (int(values.split()[column]) for column in (0, 8))
        counters[name.strip()] = (sent, received)
    return counters


def snapshot(
    federation: Federation, site: str, status: SiteStatus | None, kernel: KernelView, now: float
) -> Snapshot:
    """Join what the federation file, the application and the kernel say of a site."""
    if status is not None and status.site != site:
        status = None  # of an application that runs as another site
    own = federation.site(site).uplinks
    told_uplinks = {one.name: one for one in status.uplinks} if status else {}
    told_paths = (
        {PathName(one.uplink, one.peer, one.peer_uplink): one for one in status.paths}
        if status
        else {}
    )
    return Snapshot(
        site=site,
        taken=now,
        application=status is not None,
        uplinks=tuple(_uplink(one, told_uplinks.get(one.name), kernel) for one in own),
        paths=tuple(
            _path(name, told_paths.get(name), kernel.subflows.count(pair))
            for peer in federation.peers(site)
            for uplink in own
            for other in peer.uplinks
            if uplink.reaches(other)
            for name in [PathName(uplink.name, peer.name, other.name)]
            for pair in [(uplink.address.ip, other.peer_address)]
        ),
    )


def _uplink(uplink: Uplink, told: UplinkStatus | None, kernel: KernelView) -> UplinkView:
    address = uplink.address.ip
    sent, received = kernel.counters.get(wan_port(uplink), (None, None))
    return UplinkView(
        name=uplink.name,
        port=uplink.port,
        address=address,
        state=told.port if told else PortState.UNKNOWN,
        endpoint=kernel.endpoints.get(address),
        subflows=sum(local == address for local, _ in kernel.subflows),
        bytes_sent=sent,
        bytes_received=received,
        since=told.since if told else None,
    )


def _path(name: PathName, told: PathStatus | None, subflows: int) -> PathView:
    return PathView(
        uplink=name.uplink,
        peer=name.peer,
        peer_uplink=name.peer_uplink,
        state=told.state if told else PathState.UNKNOWN,
        rtt_ms=told.rtt_ms if told else None,
        loss=told.loss if told else None,
        subflows=subflows,
        since=told.since if told else None,
        why=told.why if told else "",
    )


# Showing


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
                *("sent", "received", *rates, "since"),
            ],
            [
                [
                    *(one.name, one.port, str(one.address), one.state),
                    *("none" if one.endpoint is None else str(one.endpoint), str(one.subflows)),
                    *(_bytes(one.bytes_sent), _bytes(one.bytes_received)),
                    *(_rates(one, older.get(one.name), seconds) if before else ()),
                    ago(one.since, now.taken),
                ]
                for one in now.uplinks
            ],
        ),
        TextTable(
            "paths",
            ["path", "state", "RTT", "loss", "subflows", "since", "why"],
            [
                [
                    str(PathName(one.uplink, one.peer, one.peer_uplink)),
                    one.state,
                    "" if one.rtt_ms is None else f"{one.rtt_ms:.1f} ms",
                    "" if one.loss is None else f"{one.loss * 100:.1f} %",
                    *(str(one.subflows), ago(one.since, now.taken), one.why),
                ]
                for one in now.paths
            ],
        ),
    )


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


def _print(now: Snapshot, before: Snapshot | None = None) -> None:
    if not now.application:
        print(_NO_APPLICATION)
    for table in tables(now, before):
        print_table(table.title, table.headings, table.rows)


def _watch(collect: Callable[[], Snapshot]) -> None:
    """Show the tables for ever: in place on a terminal, else one after the other."""
    before = None
    now = collect()
    if not sys.stdout.isatty():
        while True:
            _print(now, before or now)
            time.sleep(_REFRESH_SECONDS)
            before, now = now, collect()
    with Live(_screen(now, now), auto_refresh=False) as live:
        while True:
            time.sleep(_REFRESH_SECONDS)
            before, now = now, collect()
            live.update(_screen(now, before), refresh=True)


def _screen(now: Snapshot, before: Snapshot) -> Group:
    parts: list[Table | Text] = [] if now.application else [Text(_NO_APPLICATION)]
    for table in tables(now, before):
        shown = Table(title=table.title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for heading in table.headings:
            shown.add_column(heading, overflow="fold")
        for row in table.rows:
            shown.add_row(*map(Text, row))
        parts.append(shown)
    return Group(*parts)
