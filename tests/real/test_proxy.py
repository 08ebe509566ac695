"""What a VM sees through two proxies: as much as possible, what it would see without them."""

from __future__ import annotations

import hashlib
import random
import re
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from fedsdn.proxy.sockets.transparent import CONNECT_SECONDS
from fedsdn.proxy.sockets.transport import CHECK_SECONDS
from tests.real.proxy_net import LIMIT_S, SiteOfNet, proxy_net
from tests.real.site_host import wait_until
from tests.unit.federations import two_sites

pytestmark = pytest.mark.real

BYTES = 8 * 1024 * 1024
RESET = struct.pack("ii", 1, 0)
CONNECTIONS = 1000

Net = tuple[SiteOfNet, SiteOfNet]


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with proxy_net(two_sites()) as sites:
        for site in sites:
            site.start_proxy()
        yield sites


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture(params=["a to b", "b to a"])
def ends(request: pytest.FixtureRequest, net: Net) -> Net:
    return net if request.param == "a to b" else net[::-1]


@contextmanager
def connection(
    near: SiteOfNet, far: SiteOfNet, family: int, source: int = 0
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection from the VM of one site to that of the other: both its ends."""
    address = far.addresses[family]
    with far.vm.listen(address) as listener:
        port = listener.getsockname()[1]
        with near.vm.connect(address, port, (near.addresses[family], source)) as client:
            server, _ = listener.accept()
            with server:
                server.settimeout(LIMIT_S)
                yield client, server


def noise(seed: int) -> bytes:
    return random.Random(seed).randbytes(BYTES)  # noqa: S311  (only to be compared)


def send(sock: socket.socket, data: bytes) -> None:
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def receive(sock: socket.socket) -> bytes:
    """Everything up to the end of the stream."""
    received = bytearray()
    while data := sock.recv(1 << 16):
        received += data
    return bytes(received)


def carried(data: bytes, sender: socket.socket, receiver: socket.socket) -> bytes:
    """Send data, and the end of the stream, while the other end reads; return what it read."""
    with ThreadPoolExecutor(1) as thread:
        sending = thread.submit(send, sender, data)
        received = receive(receiver)
        sending.result()
    return received


def fill(sock: socket.socket) -> None:
    """Send until nothing on the way takes more."""
    sock.settimeout(1)
    with suppress(TimeoutError):
        while True:
            sock.send(bytes(1 << 20))
    sock.settimeout(LIMIT_S)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


def is_reset(sock: socket.socket) -> bool:
    """Whether the connection ends by a reset, whatever comes before."""
    try:
        while sock.recv(1 << 16):
            pass
    except ConnectionResetError:
        return True
    return False


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


def is_broken(sock: socket.socket) -> bool:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


def wait_until_none_is_open(net: Net) -> None:
    def none_is_open() -> bool:
        counted = [site.statistics() for site in net]
        return not any(one["outbound_open"] or one["inbound_open"] for one in counted)

    wait_until(none_is_open)


def test_a_refusal_is_a_reset(net: Net, family: int) -> None:
    near, far = net
    with far.vm.listen(far.addresses[family]) as closed:
        port = closed.getsockname()[1]
    with (
        near.counts(outbound=1, outbound_failed=1),
        far.counts(inbound=1, inbound_failed=1),
        pytest.raises(ConnectionResetError),  # which may come before connect() returns
        near.vm.connect(far.addresses[family], port) as client,
    ):
        client.recv(1)


def test_a_vm_that_does_not_exist_is_a_reset(net: Net) -> None:
    """Before the server has waited in vain for an answer: nobody has the address."""
    near, far = net
    with (
        far.counts(inbound=2, inbound_failed=2),
        near.vm.connect("10.2.0.99", 80) as client,
        near.vm.connect("fd00:2::99", 80) as other_client,
    ):
        for sock in (client, other_client):
            sock.settimeout(CONNECT_SECONDS / 2)
            assert is_reset(sock)


def test_a_client_that_gives_up_leaves_nothing_behind(net: Net) -> None:
    near, far = net
    wait_until_none_is_open(net)
    client = near.vm.connect("10.2.0.98", 80)
    wait_until(lambda: far.statistics()["inbound_open"] == 1)
    reset(client)
    wait_until_none_is_open(net)


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

            wait_until(lambda: len(timers()) >= 2)
            assert max(timers()) <= CHECK_SECONDS


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
    """Runs last: none of the above was a fallback, was refused, or hit a fault of the proxy."""
    for site in net:
        counted = site.statistics()
        wrong = {
            name: count
            for name, count in counted.items()
            if count and (name == "fallbacks" or name.startswith("refused_"))
        }
        assert wrong == {}
        assert "Traceback" not in site.log
        assert "ERROR" not in site.log
