"""A site on one screen: one line for each part, with what is wrong and what to do about it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import cache, partial

from fedsdn.inspect.lines import Line, look_at
from fedsdn.pipeline.declarations import PROXY_NAMESPACE
from fedsdn.proxy.process.stats_socket import check_namespace, check_workers, read_statistics
from fedsdn.uplinks.status import PathState, PathStatus, PortState, SiteStatus, read_status
from fedsdn.verify import bridge as bridge_checks
from fedsdn.verify import proxy as proxy_checks
from fedsdn.verify.checks import CheckFailedError
from fedsdn.verify.failures import failures
from fedsdn.verify.files import files
from fedsdn.verify.identity import identity
from fedsdn.verify.tunnels import tunnels_line
from fedsdn.verify.view import SiteView

_TOLD_LOSS, _BAD_LOSS = 0.01, 0.05
"""Part of the last probes on a path: so much is said, so much is wrong."""

_SILENT_SECONDS = 15.0
"""How long after a start a peer's probes may be missing."""

Status = Callable[[], SiteStatus | None]
"""What the application reports of this site; None while it reports nothing."""


def overview(view: SiteView) -> list[Line]:
    """Look at every part; what cannot be looked at is said in its line."""
    status = cache(partial(_status, view))
    counted = cache(read_statistics)
    parts: tuple[tuple[str, Callable[[], str]], ...] = (
        ("bridge", partial(_bridge, view)),
        ("application", partial(_application, view, status)),
        ("flows", partial(bridge_checks.flows, view)),
        ("proxy", partial(_proxy, counted)),
        ("identity", partial(identity, view.identity_view)),
        ("uplinks", partial(_uplinks, view, status)),
        ("peers", partial(_peers, view, status)),
        ("tunnels", lambda: tunnels_line(view, status())),
        ("files", lambda: files(view, status())),
        ("connections", lambda: _connections(counted())),
        ("failures", lambda: failures(counted())),
        ("sources", partial(proxy_checks.sources, view)),
        ("encryption", partial(proxy_checks.encryption, view)),
    )
    return [look_at(name, look) for name, look in parts]


def _status(view: SiteView) -> SiteStatus | None:
    """Read what the application reports; None while none reports of this site."""
    status = read_status()
    return None if status is None or status.site != view.name else status


def _bridge(view: SiteView) -> str:
    version = bridge_checks.switch(view)
    return f"{bridge_checks.bridge(view)}, Open vSwitch {version}, {bridge_checks.ports(view)}"


def _application(view: SiteView, status: Status) -> str:
    connected = f"connected to {bridge_checks.application(view)}"
    if status() is None:
        raise CheckFailedError(f"{connected}, but reports nothing", view.start_application)
    return connected


def _proxy(counted: Callable[[], Mapping[str, int]]) -> str:
    check_namespace(PROXY_NAMESPACE)
    return check_workers(counted())


def _uplinks(view: SiteView, status: Status) -> str:
    bridge_checks.switch(view)  # a report outlives the switch for a moment
    found = _reported(view, status)
    shown = ", ".join(f"{one.name} {one.port}" for one in found.uplinks)
    if any(one.port is PortState.UNKNOWN for one in found.uplinks):
        raise CheckFailedError(
            f"{shown}: the application is not connected to {view.bridge}", view.start_application
        )
    if any(one.port is not PortState.UP for one in found.uplinks):
        raise CheckFailedError(shown, "fedsdn uplinks")
    return shown


def _peers(view: SiteView, status: Status) -> str:
    found = _reported(view, status)
    by_peer: defaultdict[str, list[PathStatus]] = defaultdict(list)
    for path in found.paths:
        by_peer[path.peer].append(path)
    peers = view.federation.peers(view.name)
    shown = ", ".join(_peer(peer.name, by_peer[peer.name]) for peer in peers)
    if any(_is_bad(path) for path in found.paths):
        raise CheckFailedError(shown, "fedsdn uplinks")
    for peer in peers:
        if peer.proxy == "fedsdn" and _is_silent(by_peer[peer.name]):
            raise CheckFailedError(
                f"{shown}: no probe of {peer.name} comes, on no path",
                f"see at site {peer.name} whether its application runs: fedsdn status; if it does, "
                "see here what is said of the paths: fedsdn uplinks",
            )
    return shown


def _is_bad(path: PathStatus) -> bool:
    return path.state is PathState.DOWN or (path.loss or 0.0) >= _BAD_LOSS


def _is_silent(paths: list[PathStatus]) -> bool:
    """Whether nothing is known of any path, and not only because all has just been started."""
    latest = time.time() - _SILENT_SECONDS
    return bool(paths) and all(
        path.state is PathState.UNKNOWN and path.since < latest for path in paths
    )


def _reported(view: SiteView, status: Status) -> SiteStatus:
    found = status()
    if found is None:
        raise CheckFailedError("unknown: no application reports them here", view.start_application)
    return found


def _peer(name: str, paths: list[PathStatus]) -> str:
    up = [path for path in paths if path.state is PathState.UP]
    unknown = sum(path.state is PathState.UNKNOWN for path in paths)
    nearest = min((path.rtt_ms for path in up if path.rtt_ms is not None), default=None)
    distance = "" if nearest is None else f", {nearest:.0f} ms"
    doubt = f", {unknown} unknown" if unknown else ""
    most = max((path.loss or 0.0 for path in up), default=0.0)
    loss = f", up to {100 * most:.0f} % loss" if most >= _TOLD_LOSS else ""
    return f"{name} ({len(up)} of {len(paths)} paths{doubt}{distance}{loss})"


def _connections(counted: Mapping[str, int]) -> str:
    ways = ", ".join(
        f"{counted[f'{way}_open']} {way} open of {counted[way]}" for way in ("outbound", "inbound")
    )
    return f"{ways}, {counted['pool_open']} to peers ready"
