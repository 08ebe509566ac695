"""One VM cannot take all that a proxy can carry."""

from __future__ import annotations

import socket
from contextlib import ExitStack, suppress

import pytest

from tests.real.proxy_net import LIMIT_S, proxy_net
from tests.real.site_host import wait_until
from tests.real.test_proxy_descriptors import DESCRIPTORS, assert_alive
from tests.unit.federations import two_sites

pytestmark = pytest.mark.real

CROWD = 2000
"""More than the proxy has slots, or room to wait."""

OTHERS = 50
OTHER = "10.1.0.12"
SILENT_PORT = 9


def asking(address: str) -> socket.socket:
    """Ask for an answer that does not come."""
    sock = socket.socket()
    sock.setblocking(False)
    with suppress(BlockingIOError):
        sock.connect((address, SILENT_PORT))
    return sock


def test_one_vm_with_many_unanswered_connections_keeps_no_other_from_being_answered() -> None:
    with proxy_net(two_sites()) as (near, far), ExitStack() as stack:
        near.start_proxy("--workers", "1", descriptors=DESCRIPTORS)
        far.start_proxy("--workers", "1")
        for port in ("socksifier", "server"):
            near.output(f"ip -n vm address add {OTHER}/32 dev {port}")
        far.output(
            "ip netns exec vm nft 'table inet silent { chain arriving { "
            f"type filter hook input priority 0; tcp dport {SILENT_PORT} drop; }}; }}'"
        )
        address = far.addresses[4]
        listener = stack.enter_context(far.vm.listen(address))
        listener.settimeout(LIMIT_S)
        for sock in near.vm.call(lambda: [asking(address) for _ in range(CROWD)]):
            stack.enter_context(sock)
        wait_until(lambda: near.statistics()["ended_unasked"] > 0)
        for _ in range(OTHERS):
            port = listener.getsockname()[1]
            client = stack.enter_context(near.vm.connect(address, port, (OTHER, 0)))
            server = stack.enter_context(listener.accept()[0])
            assert_alive([(client, server)])
        assert near.statistics()["outbound_held"] > 0
