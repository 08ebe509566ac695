"""The proxy's path manager with connections of this kernel, and what that tells of them."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_interface

import pytest

from fedsdn.config.model import AddressPair, Uplink
from fedsdn.mptcp import events
from fedsdn.mptcp.connection import open_pairs, subflow_infos, tcp_info, token
from fedsdn.mptcp.events import SubflowEvents
from fedsdn.mptcp.info import ESTABLISHED
from fedsdn.mptcp.requests import SubflowRequests
from fedsdn.mptcp.subflows import Subflows
from fedsdn.proxy.ended.record import Reason, Who
from fedsdn.proxy.sockets import path_manager
from fedsdn.proxy.sockets.path_manager import Managed, PathManager
from tests.real.in_namespace import inside_namespace, namespace_with
from tests.unit.loopback import until

pytestmark = pytest.mark.real

PORT, NOBODY = 1080, 1081
NEVER = 3600.0
PATHS = [
    (Uplink(f"a{n}", f"a{n}", ip_interface(f"192.0.2.{n}/32")),
     Uplink(f"b{n}", f"b{n}", ip_interface(f"198.51.100.{n}/32")))
    for n in (1, 2)
]  # fmt: skip
FIRST, SECOND = ((own.address.ip, other.address.ip) for own, other in PATHS)
SET_UP = """
ip link set lo up
for address in 192.0.2.1 192.0.2.2 198.51.100.1 198.51.100.2; do
  ip address add $address/32 dev lo
done
sysctl -qw net.mptcp.enabled=1 net.mptcp.pm_type=1
"""


@pytest.fixture
def ground() -> Iterator[str]:
    """Each test its own: the kernel may tell later of what ended with another's sockets."""
    with namespace_with(SET_UP) as name:
        yield name


class Ground:
    """Connections over the first path, and who ends their subflows."""

    def __init__(self, stack: ExitStack, name: str) -> None:
        self._stack = stack
        self._name = name
        self._listener = self._open()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("", PORT))
        self._listener.listen()
        self.subflows = stack.enter_context(Subflows(name))

    def _open(self) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_MPTCP)
        return self._stack.enter_context(sock)

    def connect(self) -> tuple[socket.socket, socket.socket]:
        client = self._open()
        client.bind((str(FIRST[0]), 0))
        client.connect((str(FIRST[1]), PORT))
        server = self._stack.enter_context(self._listener.accept()[0])
        for sender, receiver in ((client, server), (server, client)):
            sender.sendall(b"hello")
            assert receiver.recv(100) == b"hello"
        return client, server

    def end(self, name: int, *pairs: AddressPair) -> None:
        """End subflows of the connection with this token, as their last if need be."""
        ports = {
            (one.local_port, one.remote_port)
            for one in self.subflows.read()
            if one.token == name and (one.local, one.remote) in pairs
        }
        for local, remote in ports:
            ends = f"sport = :{local} and dport = :{remote}"
            subprocess.run(["ss", "-K", "--tcp", ends], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


async def told_of(listening: SubflowEvents, tokens: set[int]) -> None:
    """Wait until subflows of exactly these connections are told to have ended."""
    told: set[int] = set()

    def complete() -> bool:
        told.update(listening.ended() or ())
        return len(told) >= len(tokens)

    await until(complete)
    assert told == tokens


@inside_namespace
async def test_what_the_kernel_tells_of_a_connection(ground: str, stack: ExitStack) -> None:
    on = Ground(stack, ground)
    client, server = on.connect()
    requests = SubflowRequests()
    stack.callback(requests.close)
    accepts = SubflowEvents()
    stack.callback(accepts.close)
    requests.open_subflow(token(client), SECOND[0], 7, SECOND[1], PORT)
    await until(lambda: open_pairs(client) == {FIRST: True, SECOND: True})
    client.sendall(b"x" * 1000)
    server.recv(1000, socket.MSG_WAITALL)
    infos = subflow_infos(client)
    assert [info.state for info in infos] == [ESTABLISHED, ESTABLISHED]
    assert sum(info.bytes_sent for info in infos) >= 1005
    assert sum(info.bytes_received for info in subflow_infos(server)) >= 1005
    assert all(0 < info.min_rtt <= info.rtt for info in infos)
    found = [one for one in on.subflows.read() if one.token == token(client)]
    assert sorted(one.bytes_sent for one in found) == sorted(info.bytes_sent for info in infos)


@inside_namespace
async def test_what_the_kernel_tells_of_tcp(ground: str, stack: ExitStack) -> None:
    with (
        socket.create_server(("192.0.2.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0] as server,
    ):
        client.sendall(b"x" * 1000)
        assert server.recv(1000, socket.MSG_WAITALL) == b"x" * 1000
        assert tcp_info(client).state == tcp_info(server).state == ESTABLISHED
        assert tcp_info(client).bytes_sent == tcp_info(server).bytes_received == 1000
        assert subflow_infos(client) == []
        server.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
        assert tcp_info(client).state != ESTABLISHED


@inside_namespace
async def test_the_ends_of_subflows_are_told_and_nothing_else(
    ground: str, stack: ExitStack
) -> None:
    on = Ground(stack, ground)
    listening = SubflowEvents()
    stack.callback(listening.close)
    requests = SubflowRequests()
    stack.callback(requests.close)
    (client, server), (other, _) = on.connect(), on.connect()
    assert listening.ended() == set()
    name = token(client)
    requests.open_subflow(name, SECOND[0], 7, SECOND[1], PORT)
    await until(lambda: open_pairs(client) == {FIRST: True, SECOND: True})
    assert listening.ended() == set()
    on.end(name, SECOND)
    await told_of(listening, {name, token(server)})
    # A subflow that is refused has ended, too.
    requests.open_subflow(token(other), SECOND[0], 7, SECOND[1], NOBODY)
    await told_of(listening, {token(other)})


@inside_namespace
async def test_that_events_were_dropped_is_told_once(
    ground: str, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_QUEUE_BYTES", 0)
    on = Ground(stack, ground)
    listening = SubflowEvents()
    stack.callback(listening.close)
    ends = [on.connect() for _ in range(10)]
    for client, _ in ends:
        on.end(token(client), FIRST)
    await until(lambda: not any(open_pairs(end) for pair in ends for end in pair))
    assert listening.ended() is None
    assert listening.ended() == set()
    client, server = on.connect()
    on.end(token(client), FIRST)
    await told_of(listening, {token(client), token(server)})


@pytest.fixture
def no_timers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks at a connection by the clock."""
    monkeypatch.setattr(path_manager, "RETRY_SECONDS", NEVER)


class Managing:
    """A path manager that runs, and which connections it has looked at."""

    def __init__(self, stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
        self.looked: list[socket.socket] = []
        self.given_up: list[tuple[socket.socket, Reason, Who]] = []
        self.paths = PATHS
        self.port = PORT
        self.manager = PathManager(lambda _peer: self.paths, lambda: self.port)
        stack.callback(self.manager.close)
        self._stack = stack
        self._task = asyncio.get_running_loop().create_task(self.manager.run())
        stack.callback(self._task.cancel)

        def noted(sock: socket.socket) -> dict[AddressPair, bool]:
            self.looked.append(sock)
            return open_pairs(sock)

        monkeypatch.setattr(path_manager, "open_pairs", noted)

    def manage(self, sock: socket.socket) -> Managed:
        def give_up(reason: Reason, who: Who, _detail: str) -> None:
            self.given_up.append((sock, reason, who))

        return self._stack.enter_context(self.manager.managing(sock, "b", give_up))

    def join(self, sock: socket.socket) -> Managed:
        connection = self.manage(sock)
        self.manager.join(connection)
        return connection


@inside_namespace
async def test_only_who_lost_a_subflow_is_looked_at(
    ground: str, stack: ExitStack, no_timers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    on, managing = Ground(stack, ground), Managing(stack, monkeypatch)
    clients = [on.connect()[0] for _ in range(3)]
    connections = [managing.join(client) for client in clients]
    await until(lambda: all(open_pairs(one) == {FIRST: True, SECOND: True} for one in clients))
    for connection in connections:
        connection.rests_until = 0.0
    managing.looked.clear()
    for ended in (FIRST, SECOND, FIRST):
        on.end(token(clients[0]), ended)
        await until(lambda: clients[0] in managing.looked)
        await until(lambda: open_pairs(clients[0]) == {FIRST: True, SECOND: True})
        connections[0].rests_until = 0.0
        assert set(managing.looked) == {clients[0]}
        managing.looked.clear()


@inside_namespace
async def test_when_events_were_dropped_all_are_looked_at(
    ground: str, stack: ExitStack, no_timers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_QUEUE_BYTES", 0)
    on, managing = Ground(stack, ground), Managing(stack, monkeypatch)
    managing.paths = PATHS[:1]
    clients = [on.connect()[0] for _ in range(10)]
    for client in clients:
        managing.join(client)
    await asyncio.sleep(0)
    for client in clients:  # the path manager does not come to its turn meanwhile
        on.end(token(client), FIRST)
    await until(lambda: all(open_pairs(client) == {FIRST: True} for client in clients))


@inside_namespace
async def test_news_of_the_paths_concern_all(
    ground: str, stack: ExitStack, no_timers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    on, managing = Ground(stack, ground), Managing(stack, monkeypatch)
    managing.paths = PATHS[:1]
    clients = [on.connect()[0] for _ in range(3)]
    for client in clients:
        managing.join(client)
    managing.paths = PATHS
    managing.manager.look_in(0.0)
    await until(lambda: all(open_pairs(one) == {FIRST: True, SECOND: True} for one in clients))


@inside_namespace
async def test_who_has_no_subflow_left_and_is_refused_is_given_up(
    ground: str, stack: ExitStack, no_timers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    on, managing = Ground(stack, ground), Managing(stack, monkeypatch)
    managing.paths = PATHS[:1]
    (client, _), (other, _) = on.connect(), on.connect()
    managing.join(client)
    managing.join(other)
    managing.port = NOBODY
    on.end(token(client), FIRST)
    await until(lambda: managing.given_up == [(client, Reason.LOST, Who.PEER)])
    assert open_pairs(other) == {FIRST: True}


@inside_namespace
async def test_a_connection_whose_turn_fails_is_given_up_alone(
    ground: str, stack: ExitStack, no_timers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    on, managing = Ground(stack, ground), Managing(stack, monkeypatch)
    managing.paths = PATHS[:1]
    clients = [on.connect()[0] for _ in range(3)]
    for client in clients:
        managing.join(client)
    managing.paths = PATHS

    def failing(sock: socket.socket) -> dict[AddressPair, bool]:
        if sock is clients[1]:
            raise RuntimeError("a fault that this test has made")
        return open_pairs(sock)

    monkeypatch.setattr(path_manager, "open_pairs", failing)
    managing.manager.look()
    await until(lambda: [len(open_pairs(one)) for one in clients] == [2, 1, 2])
    assert managing.given_up == [(clients[1], Reason.FAULT, Who.HERE)]
