"""One view of each connection out of three: conntrack's, the proxy's and Multipath TCP's.

Each of the three is read at another moment, so what has just begun or ended may be in one of them
and not yet in another.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

from fedsdn.channel.ask import open_connections
from fedsdn.channel.connection import Connection, Direction
from fedsdn.channel.server import CHANNEL_SOCKET
from fedsdn.config.model import Address, Federation, Site
from fedsdn.errors import FedsdnError
from fedsdn.mptcp.subflows import Subflow, SubflowKind, Subflows
from fedsdn.ovs.conntrack import Entry, entries
from fedsdn.pipeline.declarations import PROXY_NAMESPACE
from fedsdn.proxy.admission.policy import Policy
from fedsdn.proxy.process.stats_socket import read_statistics
from fedsdn.shell import Shell
from fedsdn.socket_address import SocketAddress


@dataclass(frozen=True, slots=True)
class UplinkShare:
    """What a connection has on one uplink: subflows, bytes each way, smallest round-trip time."""

    uplink: str
    subflows: int
    sent: int
    received: int
    rtt_ms: float


@dataclass(frozen=True, slots=True)
class ConnectionView:
    """A federated connection.

    ``peer`` and ``since`` (Unix time) are the proxy's report, None without one. ``multipath`` is
    False if the proxies' connection is plain TCP, ``encrypted`` if the federation file has the
    peer's so. ``sent`` and ``received`` are the VMs' bytes. ``absent`` names the views that lack
    it.
    """

    direction: Direction | None
    client: SocketAddress | None
    destination: SocketAddress | None
    peer: str | None = None
    multipath: bool = True
    encrypted: bool = True
    sent: int = 0
    received: int = 0
    since: float | None = None
    shares: tuple[UplinkShare, ...] = ()
    state: str = ""
    absent: tuple[str, ...] = ()


CONNTRACK, PROXY, MPTCP = "conntrack", "proxy", "MPTCP"


def read_connections(federation: Federation, site: Site) -> list[ConnectionView]:
    """Ask conntrack, the application and the kernel of this host, which is ``site``'s.

    Raises:
        FedsdnError: one of them does not answer.

    """
    tracked = entries(Shell(site.name), site.provider_network.bridge)
    carried = open_connections(CHANNEL_SOCKET)
    waiting = 0
    with suppress(FedsdnError):  # no proxy, which then has none
        counted = read_statistics()
        waiting = counted["pool_open"] + counted["idle_open"]
    with Subflows(PROXY_NAMESPACE) as kernel:
        subflows = kernel.read()
    uplinks = {uplink.address.ip: uplink.name for uplink in site.uplinks}
    policy = Policy(federation, site)
    plain = {peer.name for peer in federation.peers(site.name) if not policy.is_encrypted(peer)}
    return [
        replace(view, encrypted=view.peer not in plain)
        for view in joined(tracked, carried, subflows, uplinks, waiting)
    ]


def joined(
    tracked: Iterable[Entry],
    carried: Iterable[Connection],
    subflows: Iterable[Subflow],
    uplinks: Mapping[Address, str],
    waiting: int,
) -> list[ConnectionView]:
    """Join the three views; ``uplinks`` are the site's by address.

    Left out are entries of conntrack that have ended, and that the proxy no longer carries, and so
    many connections between proxies as are ``waiting`` there for a request: those that have carried
    least.
    """
    left = {(entry.client, entry.destination): entry for entry in tracked}
    by_token: defaultdict[int, list[Subflow]] = defaultdict(list)
    for subflow in subflows:
        by_token[subflow.token].append(subflow)
    by_token.pop(0, None)  # plain TCP: it has no token to tell the connections apart
    found = []
    for connection in carried:
        ends = (connection.shown, connection.destination)
        # An older connection between the same two, opened from the other end, may have left it.
        entry = left.pop(ends, None) or left.pop(ends[::-1], None)
        own = by_token.pop(connection.token, []) if connection.token else []
        found.append(_carried(connection, entry, _shares(own, uplinks)))
    found += [_tracked(entry) for entry in left.values() if not entry.ended]
    strays = [shares for group in by_token.values() if (shares := _shares(group, uplinks))]
    strays.sort(key=lambda shares: sum(share.sent + share.received for share in shares))
    found += [
        ConnectionView(None, None, None, shares=shares, absent=(CONNTRACK, PROXY))
        for shares in strays[waiting:]
    ]
    return found


def _carried(
    connection: Connection, entry: Entry | None, shares: tuple[UplinkShare, ...]
) -> ConnectionView:
    absent = [] if entry else [CONNTRACK]
    absent += [MPTCP] if connection.token and not shares else []
    return ConnectionView(
        direction=connection.direction,
        client=connection.client,
        destination=connection.destination,
        peer=connection.peer,
        multipath=connection.token != 0,
        sent=connection.sent,
        received=connection.received,
        since=connection.since,
        shares=shares,
        state=entry.state if entry else "",
        absent=tuple(absent),
    )


def _tracked(entry: Entry) -> ConnectionView:
    return ConnectionView(
        direction=Direction.OUTBOUND if entry.outbound else Direction.INBOUND,
        client=entry.client,
        destination=entry.destination,
        state=entry.state,
        absent=(PROXY, MPTCP),
    )


def _shares(subflows: Sequence[Subflow], uplinks: Mapping[Address, str]) -> tuple[UplinkShare, ...]:
    groups: defaultdict[str, list[Subflow]] = defaultdict(list)
    for subflow in subflows:
        if subflow.kind is not SubflowKind.FALLBACK:
            groups[uplinks.get(subflow.local, str(subflow.local))].append(subflow)
    return tuple(
        UplinkShare(
            uplink=name,
            subflows=len(group),
            sent=sum(one.bytes_sent for one in group),
            received=sum(one.bytes_received for one in group),
            rtt_ms=min(one.rtt_ms for one in group),
        )
        for name, group in sorted(groups.items())
    )


def document(view: ConnectionView) -> dict[str, object]:
    """Write a connection as what JSON holds."""
    addresses = {
        name: None if value is None else [str(value.address), value.port]
        for name, value in (("client", view.client), ("destination", view.destination))
    }
    return {**asdict(view), **addresses}


def by_rate(
    views: Iterable[ConnectionView], before: Iterable[ConnectionView], seconds: float
) -> Iterator[tuple[float, ConnectionView]]:
    """Yield views with their bytes per second, both ways together, the fastest first."""
    then = {(one.client, one.destination, one.since): one.sent + one.received for one in before}
    rates = []
    for view in views:
        key = (view.client, view.destination, view.since)
        total = view.sent + view.received
        rates.append(((total - then.get(key, total)) / seconds, view))
    yield from sorted(rates, key=lambda pair: -pair[0])
