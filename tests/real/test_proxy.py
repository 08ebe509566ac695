"""What a VM sees through two proxies: as much as possible, what it would see without them."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.real.proxy_connections import (
    BYTES,
    Net,
    carried,
    check_that_nothing_went_wrong,
    connection,
    noise,
    proxies,
    receive,
    send,
    wait_until_none_is_open,
)
from tests.real.proxy_net import LIMIT_S, SiteOfNet

pytestmark = pytest.mark.real

CONNECTIONS = 1000


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with proxies() as sites:
        yield sites


@pytest.fixture(params=["a to b", "b to a"])
def ends(request: pytest.FixtureRequest, net: Net) -> Net:
    return net if request.param == "a to b" else net[::-1]


def test_data_both_ways_at_once(ends: Net, family: int) -> None:
    with connection(*ends, family) as (client, server), ThreadPoolExecutor(4) as threads:
        up, down = noise(1), noise(2)
        threads.submit(send, client, up)
        threads.submit(send, server, down)
        received = [threads.submit(receive, end) for end in (server, client)]
        digests = [hashlib.sha256(future.result()).hexdigest() for future in received]
    assert digests == [hashlib.sha256(data).hexdigest() for data in (up, down)]


def test_the_far_vm_sees_the_near_vms_address_and_port(ends: Net, family: int) -> None:
    with connection(*ends, family) as (client, server):
        assert server.getpeername() == client.getsockname()
        assert client.getpeername() == server.getsockname()


@pytest.mark.parametrize("port", [1, 1080, 1081, 65535])
def test_any_source_port_is_kept(net: Net, family: int, port: int) -> None:
    """Those at which the proxy itself listens, too."""
    with connection(*net, family, source=port) as (client, server):
        assert server.getpeername()[1] == port
        client.sendall(b"?")
        assert server.recv(1) == b"?"


def test_one_source_port_to_two_destinations(net: Net, family: int) -> None:
    with (
        connection(*net, family, source=40001) as (first, _),
        connection(*net, family, source=40001) as (second, server),
    ):
        assert first.getsockname() == second.getsockname() == server.getpeername()


def test_a_source_port_is_used_again_at_once(net: Net, family: int) -> None:
    """The end that closes last may open the same connection again (RFC 6191)."""
    near, far = net
    address = far.addresses[family]
    with far.vm.listen(address, 8081) as listener:
        for _ in range(3):
            with near.vm.connect(address, 8081, (near.addresses[family], 40002)) as client:
                server, _ = listener.accept()
                server.close()
                assert client.recv(1) == b""


def test_the_end_of_the_clients_stream_leaves_the_other_direction_open(
    net: Net, family: int
) -> None:
    with connection(*net, family) as (client, server):
        send(client, b"question")
        assert receive(server) == b"question"
        assert carried(noise(3), server, client) == noise(3)


def test_the_end_of_the_servers_stream_leaves_the_other_direction_open(
    net: Net, family: int
) -> None:
    with connection(*net, family) as (client, server):
        send(server, b"banner")
        assert receive(client) == b"banner"
        assert carried(noise(4), client, server) == noise(4)


def test_data_before_the_end_of_connection_set_up(net: Net, family: int) -> None:
    """What a client sends, and its end of stream, may come before the far VM has answered."""
    near, far = net
    address = far.addresses[family]
    with far.vm.listen(address) as listener, near.vm.open(address) as client:
        client.setblocking(False)
        client.connect_ex((address, listener.getsockname()[1]))
        client.settimeout(LIMIT_S)
        send(client, b"early")
        server, _ = listener.accept()
        with server:
            assert receive(server) == b"early"
            send(server, b"answer")
        assert receive(client) == b"answer"


def test_bytes_are_counted(net: Net) -> None:
    near, far = net
    with (
        near.counts(bytes_sent=BYTES, bytes_received=5),
        far.counts(bytes_sent=5, bytes_received=BYTES),
        connection(near, far, 4) as (client, server),
        ThreadPoolExecutor(1) as threads,
    ):
        threads.submit(send, client, noise(5))
        assert len(receive(server)) == BYTES
        send(server, b"thank")
        assert receive(client) == b"thank"


def test_a_thousand_connections_at_once(net: Net, family: int) -> None:
    near, far = net
    address = far.addresses[family]
    wait_until_none_is_open(net)
    before = [descriptors(site) for site in net]
    with (
        ThreadPoolExecutor(1) as threads,
        near.counts(outbound=CONNECTIONS, outbound_failed=0, outbound_open=0),
        far.counts(inbound=CONNECTIONS, inbound_failed=0, inbound_open=0),
        far.vm.listen(address) as listener,
    ):
        port = listener.getsockname()[1]
        accepting = threads.submit(accept, listener)
        clients = near.vm.call(lambda: [open_one(address, port) for _ in range(CONNECTIONS)])
        servers = accepting.result()
        names = [(client.getsockname(), receive_name(client)) for client in clients]
        idle = [descriptors(site) for site in net]
        for sock in (*clients, *servers):
            sock.close()
    assert [client for client, seen in names if str(client[:2]) != seen] == []
    assert len({client for client, _ in names}) == CONNECTIONS
    # An idle connection holds two; pipes are lent, and kept for later.
    assert all(now - then <= 2 * CONNECTIONS + 300 for now, then in zip(idle, before, strict=True))


def open_one(address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    sock.settimeout(LIMIT_S)
    sock.connect((address, port))
    return sock


def accept(listener: socket.socket) -> list[socket.socket]:
    """Accept them all, and tell each client who it is seen as."""
    servers = []
    for _ in range(CONNECTIONS):
        server, client = listener.accept()
        server.sendall(str(client[:2]).encode().ljust(100))
        servers.append(server)
    return servers


def receive_name(sock: socket.socket) -> str:
    return sock.recv(100, socket.MSG_WAITALL).decode().strip()


def descriptors(site: SiteOfNet) -> int:
    """Descriptors that the site's workers hold."""
    _parent, *workers = site.proxy_pids()
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in workers)


def test_nothing_went_wrong_on_the_way(net: Net) -> None:
    """Runs last."""
    check_that_nothing_went_wrong(net)
