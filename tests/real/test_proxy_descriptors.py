"""More connections than a proxy has descriptors for: they wait, and nothing that runs suffers."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from fedsdn.lab.wait import wait_until as wait_at_most
from fedsdn.proxy.socks.asking import REPLY_SECONDS
from tests.real.proxy_net import LIMIT_S, SiteOfNet, proxy_net
from tests.unit.federations import two_sites

pytestmark = pytest.mark.real

DESCRIPTORS = 1200
CLIENTS = 500
STALLED = 100
"""Each holds up bytes: more than there are descriptors left to make pipes of."""

LONGEST_PAUSE_S = 40.0
"""Longer than a client that waits pauses between its SYNs: 1, 2, 4, 8, 16 and 32 s."""

Net = tuple[SiteOfNet, SiteOfNet]


@pytest.fixture(scope="module", params=["near", "far"])
def net(request: pytest.FixtureRequest) -> Iterator[Net]:
    """One of the two proxies, with one worker, is short of descriptors."""
    with proxy_net(two_sites()) as (near, far):
        short = near if request.param == "near" else far
        for site in (near, far):
            site.start_proxy("--workers", "1", descriptors=DESCRIPTORS if site is short else None)
        yield near, far


Name = tuple[str, int]


@contextmanager
def many(net: Net) -> Iterator[tuple[socket.socket, dict[Name, socket.socket]]]:
    """A listener at the far VM, and the near VM's connections to it by their own names."""
    near, far = net
    address = far.addresses[4]
    with ExitStack() as stack:
        listener = stack.enter_context(far.vm.listen(address))
        to = (address, listener.getsockname()[1])
        clients = near.vm.call(lambda: [connecting(to) for _ in range(CLIENTS)])
        for client in clients:
            stack.enter_context(client)
        yield listener, {client.getsockname(): client for client in clients}
    # Clients that were not answered have gone silently: the proxy asks for them to the end.
    limit = REPLY_SECONDS + LIMIT_S
    wait_at_most(
        lambda: not any(map(open_connections, net)),
        limit,
        lambda: f"open still: {[site.statistics() for site in net]}",
    )


def connecting(to: Name) -> socket.socket:
    """Begin to connect; the kernel repeats the SYN."""
    client = socket.socket()
    client.setblocking(False)
    client.connect_ex(to)
    return client


def open_connections(site: SiteOfNet) -> int:
    counted = site.statistics()
    return int(counted["outbound_open"] + counted["inbound_open"])


def accept(listener: socket.socket) -> list[socket.socket]:
    """Accept all that come, until for a second there is none."""
    listener.settimeout(1)
    accepted: list[socket.socket] = []
    with suppress(TimeoutError):
        while True:
            accepted.append(listener.accept()[0])
    return accepted


def accept_all(net: Net, listener: socket.socket) -> list[socket.socket]:
    """Accept until for a second none comes, and none is about to."""
    accepted: list[socket.socket] = []
    before = None
    while (now := moved(net)) != before:
        before = now
        accepted += accept(listener)
    return accepted


def moved(net: Net) -> list[int]:
    """What changes while connections are being opened."""
    names = ("outbound", "outbound_failed", "outbound_held", "handshakes", "inbound")
    return [site.statistics()[name] for site in net for name in names]


def pairs(
    clients: dict[Name, socket.socket], servers: list[socket.socket]
) -> list[tuple[socket.socket, socket.socket]]:
    """Both ends of each connection that came through."""
    return [(clients[server.getpeername()], server) for server in servers]


def assert_alive(connections: list[tuple[socket.socket, socket.socket]]) -> None:
    for client, server in connections:
        server.settimeout(LIMIT_S)
        client.settimeout(LIMIT_S)
        client.sendall(b"?")
        assert server.recv(1) == b"?"
        server.sendall(b"!")
        assert client.recv(1) == b"!"


def test_connections_over_the_limit_wait_and_come_through(net: Net) -> None:
    near, far = net
    with many(net) as (listener, clients):
        running = pairs(clients, accept_all(net, listener))
        assert 100 < len(running) < DESCRIPTORS / 2
        assert_alive(running)
        assert_waiting_costs_nothing(net, listener)
        through = len(running)
        while through < CLIENTS:
            close(running)
            select.select([listener], [], [], LONGEST_PAUSE_S)
            running = pairs(clients, accept_all(net, listener))
            assert running, f"only {through} of {CLIENTS} came through"
            assert_alive(running)
            through += len(running)
        close(running)
    assert near.statistics()["outbound_failed"] == 0
    assert far.statistics()["inbound_failed"] == 0


def close(connections: list[tuple[socket.socket, socket.socket]]) -> None:
    for client, server in connections:
        client.close()
        server.close()


def assert_waiting_costs_nothing(net: Net, listener: socket.socket) -> None:
    """For a second nothing comes through, and no worker uses more than a quarter of a core."""
    before = [site.cpu_ticks() for site in net]
    assert accept(listener) == []
    used = [site.cpu_ticks() - then for site, then in zip(net, before, strict=True)]
    assert max(used) < os.sysconf("SC_CLK_TCK") / 4


def test_stalled_connections_do_not_harm_others(net: Net) -> None:
    """Each of them holds a pipe with bytes that nobody takes, and so two descriptors more."""
    with many(net) as (listener, clients):
        running = pairs(clients, accept_all(net, listener))
        stalled, others = running[:STALLED], running[STALLED:]
        assert others
        for client, _ in stalled:
            client.settimeout(0)
            with suppress(BlockingIOError):
                while True:
                    client.send(bytes(1 << 16))
        assert_alive(others)
        for client in clients.values():
            client.close()
        close(running)
    for site in net:
        assert "Traceback" not in site.log
        assert "ERROR" not in site.log
