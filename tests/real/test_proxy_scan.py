"""A VM that asks for addresses that do not exist harms nobody else."""

from __future__ import annotations

import errno
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial

import pytest

from fedsdn.lab.wait import wait_until
from fedsdn.pipeline.declarations import PROXY_NAMESPACE
from fedsdn.proxy.socks.asking import REPLY_SECONDS
from tests.real.proxy_net import LIMIT_S, SiteOfNet, proxy_net
from tests.unit.federations import two_sites

pytestmark = pytest.mark.real

SCANNED = 2500
OTHERS = 100
MOST_ASKED = 256
"""Addresses that the kernel may be asking for: a quarter of its table, the only one of the host."""

OTHER = "fd00:1::12"
NOBODY = "fd00:2::a:{:x}{:02x}"
VM = "fd00:2::b:{:x}"
PORT = 7000

Net = tuple[SiteOfNet, SiteOfNet]


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    """At site a there is another client, at site b are VMs that nobody has asked for yet."""
    with proxy_net(two_sites()) as (near, far):
        for port in ("socksifier", "server"):
            near.output(f"ip -n vm address add {OTHER}/128 dev {port} nodad")
            script = "".join(
                f"address add {VM.format(number)}/128 dev {port} nodad\n"
                for number in range(OTHERS)
            )
            (far.run_directory / "vms").write_text(script)
            far.output("ip -n vm -batch /run/vms")
        for site in (near, far):
            site.start_proxy()
        yield near, far


def scan(site: SiteOfNet) -> list[socket.socket]:
    """Ask for many addresses of the other site's IPv6 prefix at once."""
    return site.vm.call(lambda: [_asking(site, number) for number in range(SCANNED)])


def _asking(site: SiteOfNet, number: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6)
    sock.setblocking(False)
    sock.bind((site.addresses[6], 0))
    with suppress(BlockingIOError):
        sock.connect((NOBODY.format(*divmod(number, 256)), PORT))
    return sock


def told(sockets: list[socket.socket]) -> Counter[int]:
    """What connect() says to how many; 0 to those that wait still."""
    return Counter(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for sock in sockets)


def incomplete(site: SiteOfNet) -> int:
    """How many addresses the kernel is asking for."""
    return site.output(f"ip -6 -n {PROXY_NAMESPACE} neigh show nud incomplete").count("\n")


def is_answered(net: Net, number: int) -> bool:
    """Whether the other client gets an answer of a VM that nobody has asked for before."""
    near, _ = net
    try:
        with near.vm.connect(VM.format(number), PORT, (OTHER, 0)) as client:
            client.sendall(b"?")
            return client.recv(1) == b"!"
    except OSError:
        return False


def answer(listener: socket.socket) -> None:
    """Answer all clients with one byte, until the listener is closed."""
    with suppress(OSError):
        while True:
            server, _ = listener.accept()
            with server:
                if server.recv(1):
                    server.sendall(b"!")


def test_a_scan_keeps_nobody_else_from_new_addresses(net: Net) -> None:
    near, far = net
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(max_workers=9))
        listener = stack.enter_context(far.vm.listen("::", PORT))
        threads.submit(answer, listener)
        stack.callback(listener.shutdown, socket.SHUT_RDWR)
        sockets = [stack.enter_context(sock) for sock in scan(near)]
        others = [threads.submit(is_answered, net, number) for number in range(OTHERS)]
        asked = []
        while not all(other.done() for other in others):
            asked.append(incomplete(far))
        assert 0 < max(asked) <= MOST_ASKED
        assert [other.result() for other in others] == [True] * OTHERS
        # The others are not asked for, or wait for their turns: their SYNs are repeated.
        found: Counter[int] = Counter()

        def enough_are_told() -> bool:
            found.update(told(sockets))
            return found[errno.EHOSTUNREACH] > 10

        wait_until(enough_are_told, LIMIT_S, lambda: f"they are told {found}")
        assert found.keys() == {0, errno.EHOSTUNREACH}
    limit = REPLY_SECONDS + LIMIT_S
    for site in net:
        wait_until(partial(nothing_is_open, site), limit, lambda: "connections are still open")


def nothing_is_open(site: SiteOfNet) -> bool:
    counted = site.statistics()
    return not counted["outbound_open"] and not counted["inbound_open"]
