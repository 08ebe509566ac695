"""Callers in a peer's name that prove nothing: who is shed, and who does not notice."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fedsdn.bench.stranger import Kind, said
from fedsdn.proxy.ended.record import Reason
from fedsdn.proxy.process.stats_socket import read_refused
from tests.real.proxy_connections import (
    Net,
    check_that_nothing_went_wrong,
    connection,
    wait_until_none_is_open,
)
from tests.real.proxy_net import LIMIT_S, SiteOfNet, proxy_net
from tests.real.site_host import wait_until
from tests.unit.federations import two_sites

pytestmark = pytest.mark.real

DESCRIPTORS = 1024
MOST = DESCRIPTORS // 16
"""Unproven callers of the one worker; one address has half of them at most."""

CROWD = 400
ALERT = b"\x15"
"""The first octet of a TLS alert (RFC 8446, section 5.1), all that a stranger is told."""

OTHER_KINDS = (Kind.GARBAGE, Kind.HTTP, Kind.SOCKS, Kind.OVERSIZED, Kind.COSTLY_HELLO)


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with proxy_net(two_sites()) as (near, far):
        near.start_proxy()
        far.start_proxy("--workers", "1", descriptors=DESCRIPTORS)
        yield near, far


def stranger(net: Net, protocol: int = 0) -> socket.socket:
    """Connect to b's server from an uplink's address of a."""
    near, far = net
    server, own = (str(site.site.uplinks[0].address.ip) for site in (far, near))
    return near.proxy.connect(server, far.federation.proxy_port, (own, 0), protocol)


def descriptors(site: SiteOfNet) -> int:
    _parent, worker = site.proxy_pids()
    return len(list(Path(f"/proc/{worker}/fd").iterdir()))


def refused(site: SiteOfNet, reason: Reason) -> int:
    """How many were refused in site a's name."""
    found = read_refused(site.run_directory / "fedsdn/proxy.sock")
    return sum(one.count for one in found if (one.peer, one.reason) == ("a", reason))


@pytest.mark.parametrize("protocol", [0, socket.IPPROTO_MPTCP], ids=["plain", "multipath"])
def test_of_a_silent_crowd_the_oldest_are_shed_and_the_peer_does_not_notice(
    net: Net, protocol: int
) -> None:
    near, far = net
    before = descriptors(far)
    with connection(near, far, 4) as (client, server), ExitStack() as stack:
        shed = refused(far, Reason.CROWDED)
        crowd = [stack.enter_context(stranger(net, protocol)) for _ in range(CROWD)]
        wait_until(lambda: refused(far, Reason.CROWDED) - shed >= CROWD - MOST)
        assert descriptors(far) - before < 2 * MOST
        with pytest.raises(ConnectionResetError):
            crowd[0].recv(1)
        for family in (4, 6):
            with connection(near, far, family) as (another, end):
                another.sendall(b"new")
                assert end.recv(3) == b"new"
        client.sendall(b"old")
        assert server.recv(3) == b"old"
        assert far.statistics()["asked_again"] == 0  # nobody is the peer who fell back
    wait_until_none_is_open(net)


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_who_speaks_something_else_is_refused_and_counted(net: Net, kind: Kind) -> None:
    _, far = net
    before = refused(far, Reason.GARBLED)
    with stranger(net) as sock:
        sock.settimeout(LIMIT_S)
        try:
            sock.sendall(said(kind))
            answer = sock.recv(1 << 12)
        except ConnectionResetError:
            answer = b""
        assert answer[:1] in {b"", ALERT}
    wait_until(lambda: refused(far, Reason.GARBLED) == before + 1)


def test_it_is_no_fault_of_the_peers(net: Net) -> None:
    """Runs last."""
    check_that_nothing_went_wrong(net)
