"""Connections through two proxies use all uplinks, and depend on none."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest

from fedsdn.proxy.sockets.transport import CHECK_SECONDS
from tests.real.proxy_connections import (
    Net,
    check_that_nothing_went_wrong,
    connection,
    proxies,
    wait_until_none_is_open,
)
from tests.real.proxy_net import SiteOfNet
from tests.real.site_host import wait_until

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with proxies() as sites:
        yield sites


def test_a_connection_has_a_subflow_on_each_uplink(net: Net) -> None:
    near, far = net
    wait_until_none_is_open(net)
    with connection(near, far, 4) as (client, server):
        client.sendall(b"?")
        assert server.recv(1) == b"?"
        wait_until(lambda: remotes(near) == {"192.0.2.2", "2001:db8:2::2"})


def remotes(site: SiteOfNet) -> set[str]:
    """Far ends of the site's established subflows."""
    listed = site.inside("ss -Hnt state established dport = :1080")
    names = [line.split()[3].rpartition(":")[0] for line in listed.splitlines()]
    return {name.strip("[]").removeprefix("::ffff:") for name in names}


def test_peers_are_asked_whether_they_still_have_a_connection(net: Net) -> None:
    """On each subflow, those that came later too."""
    near, far = net
    with connection(near, far, 4) as (client, server):
        client.sendall(b"?")
        assert server.recv(1) == b"?"
        for site, end in ((near, "dport"), (far, "sport")):
            command = f"ss -HtnOo state established {end} = :1080"

            def timers(site: SiteOfNet = site, command: str = command) -> list[float]:
                shown = re.findall(
                    r"timer:\(keepalive,(?:(\d+)min)?([\d.]+)?", site.inside(command)
                )
                return [60 * float(minutes or 0) + float(rest or 0) for minutes, rest in shown]

            found: list[float] = []

            def have_timers(
                timers: Callable[[], list[float]] = timers, found: list[float] = found
            ) -> bool:
                found[:] = timers()  # while something is sent there is another timer
                return len(found) >= 2

            wait_until(have_timers)
            assert max(found) <= CHECK_SECONDS


@pytest.mark.parametrize("uplink", ["wan-up1", "wan-up2"])
def test_new_connections_do_not_depend_on_one_uplink(net: Net, uplink: str) -> None:
    """An uplink that swallows everything: the connections that try it first take the other."""
    near, far = net
    near.inside(
        f"nft 'table inet hole {{ chain out {{ type filter hook output priority 0; }}; }};"
        f'add rule inet hole out oifname "{uplink}" drop\''
    )
    try:
        for _ in range(4):
            with connection(near, far, 4) as (client, server):
                client.sendall(b"?")
                assert server.recv(1) == b"?"
        swallowed = near.inside("nft list table inet hole")
    finally:
        near.inside("nft delete table inet hole")
    assert "drop" in swallowed


def test_nothing_went_wrong_on_the_way(net: Net) -> None:
    """Runs last."""
    check_that_nothing_went_wrong(net)
