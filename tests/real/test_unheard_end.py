"""An end of stream that another's proxy does not acknowledge, though it lives.

Linux's fault behind it cannot be provoked: here a packet filter takes off what would have said it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from fedsdn.proxy.relay.unheard_end import LOOK_SECONDS, LOOKS
from tests.real.proxy_connections import Net, connection
from tests.real.proxy_net import SiteOfNet, proxy_net
from tests.real.site_host import wait_until
from tests.real.test_interop import FEDERATION, MICROSOCKS, PLAIN_HOST, running

pytestmark = pytest.mark.real

_LIMIT_SECONDS = 3 * LOOKS * LOOK_SECONDS


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with proxy_net(FEDERATION) as (near, far):
        for command in PLAIN_HOST.strip().splitlines():
            far.inside(command)
        near.start_proxy()
        with running(far, MICROSOCKS, 1080):
            yield near, far


@contextmanager
def ends_taken_off(far: SiteOfNet) -> Iterator[None]:
    """Take Multipath TCP's options off all segments without data; the peer's TCP answers them."""
    far.inside("nft add table inet middlebox")
    try:
        chain = "{ type filter hook prerouting priority -300 ; }"
        far.inside(f"nft 'add chain inet middlebox c {chain}'")
        for no_data in ("ip length <= 80", "ip6 length <= 60"):
            rule = f"{no_data} tcp flags & (syn | rst) == 0 reset tcp option mptcp"
            far.inside(f"nft 'add rule inet middlebox c {rule}'")
        yield
    finally:
        far.inside("nft delete table inet middlebox")


def idle(near: SiteOfNet, client: socket.socket, server: socket.socket) -> None:
    """Have data acknowledged, and both uplinks used, before anything is taken off."""
    client.settimeout(_LIMIT_SECONDS)
    server.settimeout(_LIMIT_SECONDS)
    client.sendall(b"?")
    assert server.recv(1) == b"?"
    wait_until(lambda: len(near.inside("ss -HtnO dport = :1080").splitlines()) == 2)


def test_it_is_reset(net: Net) -> None:
    near, far = net
    with (
        near.counts(ended_end_unheard=1, outbound_open=0),
        connection(near, far, 4) as (client, server),
    ):
        idle(near, client, server)
        with ends_taken_off(far):
            client.shutdown(socket.SHUT_WR)
            with pytest.raises(ConnectionResetError):
                client.recv(1)
    wait_until(lambda: "end not acknowledged: outbound, " in near.log)


def test_one_that_is_acknowledged_late_goes_on(net: Net) -> None:
    near, far = net
    with near.counts(ended_end_unheard=0), connection(near, far, 4) as (client, server):
        idle(near, client, server)
        with ends_taken_off(far):
            client.shutdown(socket.SHUT_WR)
            server.settimeout(LOOKS * LOOK_SECONDS / 3)
            with pytest.raises(TimeoutError):
                server.recv(1)
        server.settimeout(_LIMIT_SECONDS)
        assert server.recv(1) == b""
        server.close()
        assert client.recv(1) == b""
