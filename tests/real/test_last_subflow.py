"""No connection loses the last subflow that works, whatever its ends did: MPTCP of this kernel."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address

import pytest

from fedsdn.config.model import AddressPair
from fedsdn.lab.wait import wait_until
from fedsdn.mptcp.connection import token as token_of
from fedsdn.mptcp.events import SubflowEvents
from fedsdn.mptcp.requests import SubflowRequests
from fedsdn.mptcp.subflows import Doomed, Subflows
from tests.real.cables import Joined, joined

pytestmark = pytest.mark.real

LIMIT_SECONDS = 60.0
ALWAYS = float("-inf")
CABLES = [[("192.0.2.1/24", "192.0.2.2/24")], [("198.51.100.1/24", "198.51.100.2/24")]]
FIRST, SECOND = (
    (ip_address("192.0.2.1"), ip_address("192.0.2.2")),
    (ip_address("198.51.100.1"), ip_address("198.51.100.2")),
)


@dataclass
class Connection:
    """An MPTCP connection that began over the first wire, and its near end's kernel."""

    near: Joined
    far: Joined
    client: socket.socket
    server: socket.socket
    requests: SubflowRequests
    subflows: Subflows

    def open_second(self) -> None:
        _, port = self.client.getpeername()
        token = token_of(self.client)
        wait_until(lambda: self._asked(token, port), LIMIT_SECONDS, lambda: "no join is opened")

    def _asked(self, token: int, port: int) -> bool:
        try:
            self.requests.open_subflow(token, SECOND[0], 7, SECOND[1], port)
        except OSError:
            return False
        return True

    def doomed(self, pair: AddressPair = FIRST) -> list[Doomed]:
        return self.subflows.doomed({pair})

    def end(self, *, live: AddressPair = SECOND, since: float = ALWAYS) -> int:
        (other,) = {FIRST, SECOND} - {live}
        return self.subflows.end(self.doomed(other), {live: since})

    def states(self) -> dict[str, str]:
        """What TCP says of the subflows at the near end, by their addresses there."""
        command = ("ip", "netns", "exec", self.near.name, "ss", "-Htan")
        found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        lines = [line.split() for line in found.splitlines()]
        return {line[3].rpartition(":")[0]: line[0] for line in lines}

    def both_work(self) -> None:
        self.open_second()
        wait_until(lambda: len(self.doomed()) == 1, LIMIT_SECONDS, lambda: f"found {self.states()}")


@pytest.fixture
def connection() -> Iterator[Connection]:
    with ExitStack() as stack:
        near, far = ends = stack.enter_context(joined(CABLES))
        for end in ends:
            end.run("sysctl", "-q", "net.mptcp.pm_type=1")
        requests = near.call(SubflowRequests)
        stack.callback(requests.close)
        stack.callback(far.call(SubflowEvents).close)
        listener = far.call(
            lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_MPTCP)
        )
        stack.enter_context(listener).bind(("0.0.0.0", 0))
        listener.listen()
        client = stack.enter_context(
            near.connect("192.0.2.2", listener.getsockname()[1], protocol=socket.IPPROTO_MPTCP)
        )
        server = stack.enter_context(listener.accept()[0])
        for sock in (client, server):
            sock.settimeout(LIMIT_SECONDS)
        for sender, receiver in ((client, server), (server, client)):
            sender.sendall(b"hello")
            assert receiver.recv(100) == b"hello"
        subflows = stack.enter_context(Subflows(near.name))
        yield Connection(near, far, client, server, requests, subflows)


def drop(end: Joined, rule: str) -> None:
    end.run("nft", "add table inet test; add chain inet test arriving "
                   "{ type filter hook input priority 0 ; }; "
                   f"add rule inet test arriving {rule} drop")  # fmt: skip


def test_a_subflow_ends_when_another_works(connection: Connection) -> None:
    connection.both_work()
    assert connection.end() == 1
    connection.client.sendall(b"over the second")
    assert connection.server.recv(100) == b"over the second"
    assert connection.end(live=FIRST) == 0


def test_a_join_that_the_peer_refuses_later_is_no_other(connection: Connection) -> None:
    """The peer finishes sending meanwhile, which the near end does not know: the wire is dead."""
    drop(connection.far, "iifname wire1 tcp flags != syn")
    connection.open_second()
    wait_until(
        lambda: connection.states().get("198.51.100.1") == "ESTAB",
        LIMIT_SECONDS,
        lambda: f"found {connection.states()}",
    )
    drop(connection.near, "iifname wire0")
    connection.server.sendall(b"the rest")
    connection.server.shutdown(socket.SHUT_WR)
    assert connection.end() == 0
    connection.far.run("nft", "delete table inet test")
    wait_until(
        lambda: "198.51.100.1" not in connection.states(),
        LIMIT_SECONDS,
        lambda: f"it is not refused: {connection.states()}",
    )
    assert connection.end() == 0
    connection.near.run("nft", "delete table inet test")
    assert connection.client.recv(100) == b"the rest"
    assert connection.client.recv(100) == b""
    connection.client.sendall(b"an answer")
    assert connection.server.recv(100) == b"an answer"


@pytest.mark.parametrize("who", ["near", "far"])
def test_nothing_is_ended_once_an_end_has_finished_sending(
    connection: Connection, who: str
) -> None:
    """The peer would refuse a subflow in place of it."""
    connection.both_work()
    sender, receiver = connection.client, connection.server
    if who == "far":
        sender, receiver = receiver, sender
    sender.shutdown(socket.SHUT_WR)
    assert receiver.recv(100) == b""
    assert connection.end() == 0
    receiver.sendall(b"goes on")
    assert sender.recv(100) == b"goes on"


def test_another_that_was_not_heard_of_since_its_path_is_back_is_none(
    connection: Connection,
) -> None:
    """The peer may have ended it meanwhile, and its reset was lost."""
    connection.both_work()
    back = time.monotonic()
    assert connection.end(since=back) == 0
    wait_until(
        lambda: _exchanged(connection) and connection.end(since=back) == 1,
        LIMIT_SECONDS,
        lambda: "what is sent over it does not count",
    )


def _exchanged(connection: Connection) -> bool:
    connection.client.sendall(bytes(100_000))
    left = 100_000
    while left:
        left -= len(connection.server.recv(left))
    return True


def test_another_that_ended_meanwhile_is_none(connection: Connection) -> None:
    connection.both_work()
    doomed = connection.doomed()
    assert connection.end(live=FIRST) == 1
    assert connection.subflows.end(doomed, {SECOND: ALWAYS}) == 0


def test_a_path_that_is_not_live_any_more_takes_over_nothing(connection: Connection) -> None:
    connection.both_work()
    assert connection.subflows.end(connection.doomed(), {}) == 0
