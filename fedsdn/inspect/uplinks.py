"""A site's uplinks and paths, out of the federation file, the application and the kernel."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from fedsdn.config.model import Address, AddressPair, Federation, Uplink
from fedsdn.errors import FedsdnError
from fedsdn.mptcp.endpoints import Endpoints
from fedsdn.mptcp.subflows import Subflows
from fedsdn.namespace import inside
from fedsdn.pipeline.declarations import PROXY_NAMESPACE, wan_port
from fedsdn.shell import Shell
from fedsdn.uplinks.path import PathName
from fedsdn.uplinks.status import (
    DifferingFile,
    PathState,
    PathStatus,
    PortState,
    RefusedProbes,
    SiteStatus,
    UplinkStatus,
    read_status,
)
from fedsdn.verify.tunnels import parse_counters, read_tunnels

_TUNNELS_SECONDS = 5.0
"""So long a command may take that says what the tunnels carried: the rest is shown without it."""

_COUNTERS = Path("/proc/thread-self/net/dev")
"""Not /sys/class/net, which shows the namespace of whoever mounted /sys (sysfs(5))."""


@dataclass(frozen=True, slots=True)
class KernelView:
    """The kernel's state in the proxy's namespace.

    ``endpoints`` are identifiers by address, ``subflows`` the addresses of each subflow,
    ``counters`` bytes sent and received by interface, ``tunnels`` the same by path, and
    ``tunnels_unread`` why that is not known.
    """

    endpoints: dict[Address, int]
    subflows: tuple[AddressPair, ...]
    counters: dict[str, tuple[int, int]]
    tunnels: Mapping[PathName, tuple[int, int]] = field(default_factory=dict)
    tunnels_unread: str = ""


@dataclass(frozen=True, slots=True)
class UplinkView:
    """One of the site's uplinks. ``since`` is in Unix time. None is unknown.

    What the tunnels carry for datagrams is counted apart, and with all of the uplink's bytes.
    """

    name: str
    port: str
    address: Address
    state: PortState
    endpoint: int | None
    subflows: int
    bytes_sent: int | None
    bytes_received: int | None
    datagrams_sent: int | None
    datagrams_received: int | None
    since: float | None


@dataclass(frozen=True, slots=True)
class PathView:
    """A path to a peer. ``loss`` is 0 to 1, ``since`` in Unix time. None is unknown."""

    uplink: str
    peer: str
    peer_uplink: str
    state: PathState
    rtt_ms: float | None
    loss: float | None
    subflows: int
    datagrams_sent: int | None
    datagrams_received: int | None
    since: float | None
    why: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All of a site at ``taken`` (Unix time); ``application`` says whether it runs.

    ``differing`` are the sites that have another federation file, ``refused`` counts datagrams that
    were not taken for probes. ``tunnels_unread`` says why it is unknown what the tunnels carried.
    """

    site: str
    taken: float
    application: bool
    uplinks: tuple[UplinkView, ...]
    paths: tuple[PathView, ...]
    differing: tuple[DifferingFile, ...]
    refused: tuple[RefusedProbes, ...] = ()
    tunnels_unread: str = ""


def read_snapshot(federation: Federation, site: str) -> Snapshot:
    """Ask the application's file and the kernel.

    Raises:
        FedsdnError: the proxy's namespace is missing.

    """
    kernel = read_kernel(PROXY_NAMESPACE)
    proxy = Shell(site).inside(PROXY_NAMESPACE)
    try:
        found = read_tunnels(federation, federation.site(site), proxy, _TUNNELS_SECONDS)
    except FedsdnError as error:
        kernel = replace(kernel, tunnels_unread=str(error))
    else:
        known = {view.path: (view.sent, view.received) for view in found if view.known}
        kernel = replace(kernel, tunnels=known)
    return snapshot(federation, site, read_status(), kernel, time.time())


def read_kernel(namespace: str) -> KernelView:
    """Ask the kernel for all but what the tunnels carried.

    Raises:
        FedsdnError: the namespace is missing.

    """
    with Subflows(namespace) as subflows, Endpoints(namespace) as endpoints:
        return KernelView(
            endpoints={one.address: number for one, number in endpoints.read().items()},
            subflows=tuple((one.local, one.remote) for one in subflows.read()),
            counters=parse_counters(inside(namespace, _COUNTERS.read_text)),
        )


def snapshot(
    federation: Federation, site: str, status: SiteStatus | None, kernel: KernelView, now: float
) -> Snapshot:
    """Join the federation file, the application's status and the kernel's view."""
    if status is not None and status.site != site:
        status = None  # of an application that runs as another site
    own = federation.site(site).uplinks
    reported_uplinks = {one.name: one for one in status.uplinks} if status else {}
    reported_paths = (
        {PathName(one.uplink, one.peer, one.peer_uplink): one for one in status.paths}
        if status
        else {}
    )
    subflows = Counter(kernel.subflows)
    return Snapshot(
        site=site,
        taken=now,
        application=status is not None,
        uplinks=tuple(_uplink(one, reported_uplinks.get(one.name), kernel) for one in own),
        paths=tuple(
            _path(name, reported_paths.get(name), subflows[pair], kernel.tunnels.get(name))
            for peer in federation.peers(site)
            for uplink in own
            for other in peer.uplinks
            if uplink.reaches(other)
            for name in [PathName(uplink.name, peer.name, other.name)]
            for pair in [(uplink.address.ip, other.peer_address)]
        ),
        differing=status.differing if status else (),
        refused=status.refused if status else (),
        tunnels_unread=kernel.tunnels_unread,
    )


def _uplink(uplink: Uplink, reported: UplinkStatus | None, kernel: KernelView) -> UplinkView:
    address = uplink.address.ip
    sent, received = kernel.counters.get(wan_port(uplink), (None, None))
    tunnels = [both for path, both in kernel.tunnels.items() if path.uplink == uplink.name]
    return UplinkView(
        name=uplink.name,
        port=uplink.port,
        address=address,
        state=reported.port if reported else PortState.UNKNOWN,
        endpoint=kernel.endpoints.get(address),
        subflows=sum(local == address for local, _ in kernel.subflows),
        bytes_sent=sent,
        bytes_received=received,
        datagrams_sent=sum(one for one, _ in tunnels) if tunnels else None,
        datagrams_received=sum(one for _, one in tunnels) if tunnels else None,
        since=reported.since if reported else None,
    )


def _path(
    name: PathName, reported: PathStatus | None, subflows: int, tunnel: tuple[int, int] | None
) -> PathView:
    sent, received = tunnel or (None, None)
    return PathView(
        uplink=name.uplink,
        peer=name.peer,
        peer_uplink=name.peer_uplink,
        state=reported.state if reported else PathState.UNKNOWN,
        rtt_ms=reported.rtt_ms if reported else None,
        loss=reported.loss if reported else None,
        subflows=subflows,
        datagrams_sent=sent,
        datagrams_received=received,
        since=reported.since if reported else None,
        why=reported.why if reported else "",
    )
