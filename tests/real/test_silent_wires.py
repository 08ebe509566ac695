"""What the kernel makes of segments that get lost: all uplinks and a VM are silent for a while."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.real.proxy_connections import Net, connection
from tests.real.proxy_net import SiteOfNet, proxy_net
from tests.real.site_host import wait_until
from tests.unit.federations import two_sites

pytestmark = pytest.mark.real

LEAST_SEGMENT = 1000
TIME_OUTS = 8


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with proxy_net(two_sites()) as (near, far):
        for site in (near, far):
            site.start_proxy()
        yield near, far


@contextmanager
def silence(site: SiteOfNet) -> Iterator[None]:
    """Lose all that reaches a site's proxy from its peer."""
    site.inside("nft add table inet silence")
    try:
        chain = "{ type filter hook prerouting priority -300 ; }"
        site.inside(f"nft 'add chain inet silence c {chain}'")
        site.inside("nft 'add rule inet silence c tcp dport 1080 drop'")
        yield
    finally:
        site.inside("nft delete table inet silence")


def of_subflows(site: SiteOfNet, what: str) -> list[int]:
    """Return a figure of all subflows that the site has opened."""
    return [
        int(found) for found in re.findall(rf" {what}:(\d+)", site.inside("ss -tinH dport = :1080"))
    ]


def test_segments_do_not_shrink_to_nothing(net: Net) -> None:
    """Loss looks like an uplink that swallows large segments; then it was 48 bytes each."""
    near, far = net
    with connection(near, far, 4) as (client, server):
        client.sendall(b"?")
        assert server.recv(1) == b"?"
        with silence(far):
            client.sendall(bytes(100_000))
            wait_until(lambda: max(of_subflows(near, "backoff"), default=0) >= TIME_OUTS)
            assert min(of_subflows(near, "mss")) >= LEAST_SEGMENT
        left = 100_000
        while left:
            left -= len(server.recv(left))


def test_a_vm_that_takes_nothing_is_left_alone(net: Net) -> None:
    """The one second that uplinks have is not for VMs: they are asked less and less often."""
    near, far = net
    with connection(near, far, 4) as (client, _):
        client.settimeout(1.0)
        with suppress(TimeoutError):
            while True:
                client.send(bytes(1 << 16))
        wait_until(
            lambda: any(
                int(seconds) >= 2
                for seconds in re.findall(r"timer:\(persist,(\d+)sec", far.inside("ss -tinoH"))
            )
        )
