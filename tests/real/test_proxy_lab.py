"""The proxies on two whole sites: bridges, flows and wires with delay between the VMs."""

from __future__ import annotations

import hashlib
import random
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from fedsdn.lab.lab import Lab
from fedsdn.lab.namespaces import Namespace
from fedsdn.lab.wait import wait_until
from fedsdn.proxy.process.stats_socket import read_statistics

pytestmark = pytest.mark.real

BYTES = 3_000_000
CONNECTIONS = 1000
LIMIT_SECONDS = 60.0
RESET = struct.pack("ii", 1, 0)
Pair = tuple[socket.socket, socket.socket]


class Vm:
    """A VM of the lab, in which the test itself has sockets."""

    def __init__(self, lab: Lab, site: str, name: str, family: int) -> None:
        self.host = lab.host(site)
        self.name = name
        self.namespace = Namespace(Path(f"/proc/{self.host.process.pid}/root/run/netns/{name}"))
        (vms,) = [s.vms for s in lab.topology.sites if s.name == site]
        (self.address,) = [
            str(address.ip)
            for vm in vms
            for address in vm.addresses
            if vm.name == name and address.version == family
        ]

    def run(self, command: str) -> str:
        return self.host.run("ip", "netns", "exec", self.name, *command.split())

    @contextmanager
    def filtering(self, rule: str) -> Iterator[None]:
        """Let a rule of the VM's own packet filter see all that arrives."""
        self.run("nft add table inet test")
        try:
            self.run(
                "nft add chain inet test arriving { type filter hook prerouting priority 0 ; }"
            )
            self.run(f"nft add rule inet test arriving {rule}")
            yield
        finally:
            self.run("nft delete table inet test")


@pytest.fixture(params=["a to b", "b to a"])
def ends(request: pytest.FixtureRequest, lab: Lab, family: int) -> tuple[Vm, Vm]:
    """Return the VM that opens connections, and the one that answers."""
    near, _, far = request.param.split()
    return Vm(lab, near, "vm1", family), Vm(lab, far, "vm2", family)


@contextmanager
def connections(
    near: Vm, far: Vm, count: int = 1, limit: float = LIMIT_SECONDS
) -> Iterator[list[Pair]]:
    """Open so many at once; each pair is the client's end and the server's."""
    with ExitStack() as stack:
        listener = stack.enter_context(far.namespace.listen(far.address))
        listener.settimeout(limit)
        port = listener.getsockname()[1]
        clients = [stack.enter_context(near.namespace.open(near.address)) for _ in range(count)]
        for client in clients:
            client.settimeout(limit)
        with ThreadPoolExecutor(max_workers=16) as threads:
            list(threads.map(lambda client: client.connect((far.address, port)), clients))
        by_name = {}
        for _ in clients:
            server, name = listener.accept()
            server.settimeout(limit)
            by_name[name[:2]] = stack.enter_context(server)
        yield [(client, by_name[client.getsockname()[:2]]) for client in clients]


def send(sock: socket.socket, seed: int) -> bytes:
    data = random.Random(seed).randbytes(BYTES)  # noqa: S311 -- no secrets
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)
    return hashlib.sha256(data).digest()


def receive(sock: socket.socket) -> bytes:
    digest = hashlib.sha256()
    while data := sock.recv(1 << 16):
        digest.update(data)
    return digest.digest()


def is_reset(sock: socket.socket) -> bool:
    try:
        while sock.recv(1 << 16):
            pass
    except ConnectionResetError:
        return True
    return False


def open_connections(lab: Lab) -> int:
    totals = [read_statistics(host.run_directory / "fedsdn/proxy.sock") for host in lab.hosts]
    return sum(one["outbound_open"] + one["inbound_open"] for one in totals)


def wait_until_all_ended(lab: Lab) -> None:
    wait_until(
        lambda: open_connections(lab) == 0,
        LIMIT_SECONDS,
        lambda: f"{open_connections(lab)} connections are still open",
    )


def test_data_are_intact_both_ways_at_once(ends: tuple[Vm, Vm]) -> None:
    with connections(*ends) as [(client, server)], ThreadPoolExecutor() as threads:
        at_server, at_client = threads.submit(receive, server), threads.submit(receive, client)
        sent = threads.submit(send, client, 1), threads.submit(send, server, 2)
        assert at_server.result() == sent[0].result()
        assert at_client.result() == sent[1].result()


def test_a_client_that_has_said_everything_still_gets_its_answer(ends: tuple[Vm, Vm]) -> None:
    with connections(*ends) as [(client, server)], ThreadPoolExecutor() as threads:
        question = threads.submit(send, client, 3)
        assert receive(server) == question.result()
        answer = threads.submit(send, server, 4)
        assert receive(client) == answer.result()


def test_a_closed_port_refuses(ends: tuple[Vm, Vm]) -> None:
    near, far = ends
    with far.namespace.listen(far.address) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        near.namespace.connect(far.address, port)


@pytest.mark.parametrize("who", [0, 1], ids=["client", "server"])
def test_a_reset_is_passed_on(ends: tuple[Vm, Vm], who: int) -> None:
    with connections(*ends) as [pair]:
        pair[who].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        pair[who].close()
        assert is_reset(pair[1 - who])


@pytest.mark.parametrize("who", [0, 1], ids=["client", "server"])
def test_a_reset_is_passed_on_past_lost_segments(ends: tuple[Vm, Vm], who: int) -> None:
    """The VM does not believe it, and asks again when the proxy has no socket any more."""
    with connections(*ends) as [pair], ends[1 - who].filtering("tcp flags psh counter drop"):
        pair[who].sendall(b"lost")
        wait_until(
            lambda: "packets 0" not in ends[1 - who].run("nft list table inet test"),
            LIMIT_SECONDS,
            lambda: "nothing was lost",
        )
        pair[who].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        pair[who].close()
        assert is_reset(pair[1 - who])


@pytest.mark.parametrize("who", [0, 1], ids=["client", "server"])
def test_a_connection_outlives_the_loss_of_conntrack(ends: tuple[Vm, Vm], who: int) -> None:
    """What its VM sends then comes by both ports; the one without the socket does not reset it."""
    vm = ends[who]
    with ExitStack() as stack:
        [pair] = stack.enter_context(connections(*ends))
        # Resets of connections before this one may still come.
        port = pair[who].getsockname()[1]
        stack.enter_context(vm.filtering(f"tcp flags rst tcp dport {port} counter"))
        vm.host.run("ovs-appctl", "dpctl/flush-conntrack")
        pair[who].sendall(b"from here")
        assert pair[1 - who].recv(100) == b"from here"
        pair[1 - who].sendall(b"from there")
        assert pair[who].recv(100) == b"from there"
        assert "packets 0" in vm.run("nft list table inet test")


def test_every_one_of_1000_parallel_connections_has_its_own_source(
    lab: Lab, ends: tuple[Vm, Vm]
) -> None:
    wait_until_all_ended(lab)
    with connections(*ends, count=CONNECTIONS) as pairs:
        assert len(pairs) == CONNECTIONS, "names at the server are those at the client"
        for number, (client, _) in enumerate(pairs):
            client.sendall(number.to_bytes(4, "big"))
        for number, (_, server) in enumerate(pairs):
            assert server.recv(4) == number.to_bytes(4, "big")
        assert open_connections(lab) == 2 * CONNECTIONS
    wait_until_all_ended(lab)
