"""SYNs at the listener for peers: their sender may not be the peer whose address they bear."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from fedsdn.pipeline.declarations import PROXY_NAMESPACE
from tests.real.proxy_connections import Net, proxies
from tests.real.test_direction import retransmitted, syn

pytestmark = pytest.mark.real

FLOOD_PORTS = range(1024, 13_024)
"""More than twice what may wait at the listeners of two workers (``tcp_max_syn_backlog``)."""

OWN_PORTS = range(30_000, 30_004)
LIMIT_S = 60.0


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with proxies() as sites:
        yield sites


def test_a_flood_that_nobody_answers_for_keeps_no_peer_out(net: Net) -> None:
    """The peer's address says nothing to our SYN-ACKs, as one that is down."""
    near, far = net
    port = near.federation.proxy_port
    here, there = (str(site.site.uplinks[0].address.ip) for site in net)
    silent = f"tcp sport {port} tcp dport {FLOOD_PORTS[0]}-{FLOOD_PORTS[-1]} drop"
    chain = "{ type filter hook prerouting priority raw; }"
    far.inside(f"nft 'table inet f {{ chain i {chain}; }}; add rule inet f i {silent}'")
    try:
        with far.proxy.raw(4) as sender:
            for own in FLOOD_PORTS:
                sender.sendto(syn((there, own), (here, port), own), (here, 0))
        for own in OWN_PORTS:
            with far.proxy.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as sock:
                sock.bind((there, own))
                sock.settimeout(LIMIT_S)
                sock.connect((here, port))
                assert retransmitted(sock) == 0, "the first SYN was not answered"
    finally:
        far.output(f"ip netns exec {PROXY_NAMESPACE} nft delete table inet f")
