"""Connections through two proxies that end by a reset."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.real.proxy_connections import (
    Net,
    check_that_nothing_went_wrong,
    connection,
    fill,
    is_broken,
    is_reset,
    proxies,
    receive,
    reset,
    send,
    wait_until_none_is_open,
)
from tests.real.site_host import wait_until

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with proxies() as sites:
        yield sites


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_reset_is_passed_on(net: Net, family: int, who: str) -> None:
    with connection(*net, family) as (client, server):
        client.sendall(b"?")
        assert server.recv(1) == b"?"
        one, other = (client, server) if who == "client" else (server, client)
        reset(one)
        assert is_reset(other)


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_reset_is_passed_on_past_a_receiver_that_does_not_read(
    net: Net, family: int, who: str
) -> None:
    with connection(*net, family) as (client, server):
        one, other = (client, server) if who == "client" else (server, client)
        fill(one)
        reset(one)
        wait_until(lambda: is_broken(other))


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_reset_after_the_end_of_the_stream_is_passed_on(net: Net, family: int, who: str) -> None:
    with connection(*net, family) as (client, server):
        one, other = (client, server) if who == "client" else (server, client)
        send(one, b"end")
        assert receive(other) == b"end"
        reset(one)
        wait_until(lambda: is_broken(other))


def test_a_client_that_gives_up_leaves_nothing_behind(net: Net) -> None:
    near, far = net
    wait_until_none_is_open(net)
    with near.vm.open("10.2.0.98") as client:
        client.setblocking(False)
        client.connect_ex(("10.2.0.98", 80))
        wait_until(lambda: far.statistics()["inbound_open"] == 1)
    wait_until_none_is_open(net)


def test_nothing_went_wrong_on_the_way(net: Net) -> None:
    """Runs last."""
    check_that_nothing_went_wrong(net)
