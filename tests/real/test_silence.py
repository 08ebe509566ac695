"""VMs that stand still, die or do not read: what the other VM sees, and when, is up to its kernel.

A second VM at site b stands still for two minutes, and all cases that need time share these.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest

from fedsdn.mptcp.connection import unanswered
from fedsdn.proxy.relay.silence import SILENT_SECONDS
from fedsdn.proxy.relay.vm_watch import SWEEP_SECONDS
from fedsdn.proxy.sockets.vm_liveness import IDLE_SECONDS, PROBE_SECONDS
from tests.real.proxy_connections import Net, check_that_nothing_went_wrong, proxies
from tests.real.proxy_net import LIMIT_S, SiteOfNet

pytestmark = pytest.mark.real

STANDS_STILL_S = 120.0
READS_NOTHING_S = 60.0

ATTENTIVE = {socket.TCP_KEEPIDLE: 5, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}
DIRECT_S = 20.0
"""When a VM with this keepalive notices on a direct path that the other one is gone."""

LATER_S = max(IDLE_SECONDS + PROBE_SECONDS, SILENT_SECONDS) + SWEEP_SECONDS
"""How much later, at most, it notices through the proxies."""

TOLERANCE_S = 20.0
"""Of a machine that has other things to do; without us it were the whole time."""
TCP_RTO_MAX_MS = 44
OFTEN_MS = 20_000
"""Longest interval of a VM's retransmissions, so that the test need not wait for minutes."""

BYTES = 1 << 21
Pair = tuple[socket.socket, socket.socket]

_STILL = """
table inet still {{
  chain arriving {{
    type filter hook prerouting priority -400;
    ip daddr {4} drop; ip6 daddr {6} drop;
  }}
  chain leaving {{
    type filter hook output priority -400;
    ip saddr {4} drop; ip6 saddr {6} drop;
  }}
}}
table arp still {{
  chain arriving {{ type filter hook input priority 0; arp daddr ip {4} drop; }}
}}
"""


class StillVm:
    """A second VM at a site, with addresses of its own, that can stand still."""

    def __init__(self, site: SiteOfNet) -> None:
        self.site = site
        self.addresses = {family: own[:-1] + "2" for family, own in site.addresses.items()}
        for port in ("socksifier", "server"):
            for address in self.addresses.values():
                site.output(
                    f"ip -n vm address add {address} dev {port}" + " nodad" * (":" in address)
                )

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Nothing reaches it, and nothing comes from it."""
        (self.site.run_directory / "still.nft").write_text(
            _STILL.format(None, None, None, None, self.addresses[4], None, self.addresses[6])
        )
        self.site.output("ip netns exec vm nft -f /run/still.nft")
        try:
            yield
        finally:
            for family in ("inet", "arp"):
                self.site.output(f"ip netns exec vm nft delete table {family} still")


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with proxies() as sites:
        yield sites


def opened(stack: ExitStack, near: SiteOfNet, far: SiteOfNet, addresses: tuple[str, str]) -> Pair:
    """Open a connection between two addresses; it carries a byte each way."""
    own, other = addresses
    listener = stack.enter_context(far.vm.listen(other))
    client = near.vm.connect(other, listener.getsockname()[1], (own, 0))
    stack.enter_context(client)
    client.sendall(b"?")
    server = stack.enter_context(listener.accept()[0])
    server.settimeout(LIMIT_S)
    assert server.recv(1) == b"?"
    server.sendall(b"!")
    assert client.recv(1) == b"!"
    return client, server


def probes(sock: socket.socket) -> None:
    """Have the VM's kernel look after the other VM, often."""
    for option, value in ATTENTIVE.items():
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def ended_after(sock: socket.socket) -> float:
    """Wait until the VM's kernel gives up; return after how many seconds."""
    begun = time.monotonic()
    sock.settimeout(STANDS_STILL_S)
    with pytest.raises(TimeoutError, match="timed out") as ended:
        sock.recv(1)
    assert ended.value.errno is not None, "the connection did not end"
    return time.monotonic() - begun


def send_all(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, TCP_RTO_MAX_MS, OFTEN_MS)
    sock.settimeout(2 * STANDS_STILL_S)
    sock.sendall(bytes(BYTES))


def receive_all(sock: socket.socket) -> int:
    sock.settimeout(STANDS_STILL_S)
    got = 0
    while got < BYTES:
        got += len(sock.recv(1 << 16))
    return got


def most_unanswered(sock: socket.socket, seconds: float) -> int:
    """Return how many probes in a row of the VM's kernel had no answer, at most."""
    most, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        most = max(most, unanswered(sock))
        time.sleep(0.05)
    return most


def test_a_vm_that_stands_still_for_two_minutes(net: Net) -> None:
    near, far = net
    still = StillVm(far)
    with ExitStack() as stack, ThreadPoolExecutor(32) as threads:

        def both(far_addresses: dict[int, str], *, reverse: bool = False) -> list[Pair]:
            """Open a connection of each family with a VM at b; near ends first."""
            pairs = []
            for family in (4, 6):
                ends = (near.addresses[family], far_addresses[family])
                if reverse:
                    pairs.append(opened(stack, far, near, ends[::-1])[::-1])
                else:
                    pairs.append(opened(stack, near, far, ends))
            return pairs

        either = [*both(still.addresses), *both(still.addresses, reverse=True)]
        attentive = [*both(still.addresses), *both(still.addresses, reverse=True)]
        patient = [*both(still.addresses), *both(still.addresses, reverse=True)]
        unread = both(far.addresses)
        with still.standing_still():
            begun = time.monotonic()
            for own, _ in attentive:
                probes(own)
            noticed = [threads.submit(ended_after, own) for own, _ in attentive]
            sending = [threads.submit(send_all, own) for own, _ in (*patient, *unread)]
            stalled = [threads.submit(most_unanswered, own, READS_NOTHING_S) for own, _ in unread]
            for seconds in noticed:
                assert DIRECT_S - 1 <= seconds.result() <= DIRECT_S + LATER_S + TOLERANCE_S
            assert max(most.result() for most in stalled) <= 1, "the one under way"
            assert [receive_all(other) for _, other in unread] == [BYTES, BYTES]
            time.sleep(max(0.0, STANDS_STILL_S - (time.monotonic() - begun)))
        received = [threads.submit(receive_all, other) for _, other in patient]
        assert [got.result() for got in received] == len(patient) * [BYTES]
        for sent in sending:
            sent.result()
        for own, other in either:
            other.sendall(b"back")
            assert own.recv(100) == b"back"
            own.sendall(b"again")
            assert other.recv(100) == b"again"
        for _, other in attentive:
            other.sendall(b"still there?")
            with pytest.raises(ConnectionResetError):
                other.recv(1)
    check_that_nothing_went_wrong(net)
