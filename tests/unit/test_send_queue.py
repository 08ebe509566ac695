"""The send buffer towards a peer follows the congestion windows; on loopback, with real MPTCP."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from fedsdn.mptcp.info import TcpInfo
from fedsdn.proxy.sockets import send_queue
from fedsdn.proxy.sockets.send_queue import SendQueue

MUCH = 1 << 20
LEAST = 1 << 18


@pytest.fixture(autouse=True)
def less_than_loopback_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths of loopback are short: ten segments of it are less than the least buffer."""
    monkeypatch.setattr(send_queue, "_LEAST_BYTES", LEAST)


@contextmanager
def connection(protocol: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_INET, proto=protocol))
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client = stack.enter_context(socket.socket(socket.AF_INET, proto=protocol))
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        stack.enter_context(server)
        client.sendall(b"?")
        assert server.recv(1) == b"?"
        yield client, server


def buffer_of(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


def test_it_is_left_to_the_kernel_until_much_is_sent() -> None:
    with connection(socket.IPPROTO_MPTCP) as (client, _):
        before = buffer_of(client)
        SendQueue(client).sent(1000)
        assert buffer_of(client) == before


def test_it_is_as_large_as_what_the_paths_hold_and_twice_that_while_it_grows() -> None:
    with connection(socket.IPPROTO_MPTCP) as (client, _):
        queue = SendQueue(client)
        queue.sent(MUCH)
        growing = buffer_of(client)
        queue.sent(MUCH)
        settled = buffer_of(client)
        assert settled >= LEAST
        assert growing == pytest.approx(2 * settled, rel=0.01)


def test_a_window_that_grows_again_makes_it_larger() -> None:
    with connection(socket.IPPROTO_MPTCP) as (client, server):
        queue = SendQueue(client)
        for _ in range(2):
            queue.sent(MUCH)
        before = buffer_of(client)
        for _ in range(64):
            client.sendall(bytes(1 << 18))
            left = 1 << 18
            while left:
                left -= len(server.recv(left))
            queue.sent(1 << 18)
        assert buffer_of(client) > before


def test_plain_tcp_is_left_to_the_kernel() -> None:
    with connection(0) as (client, _):
        before = buffer_of(client)
        SendQueue(client).sent(MUCH)
        assert buffer_of(client) == before


def path(mbit: int, rtt_ms: int) -> TcpInfo:
    """A subflow that BBR has found to carry so much; the congestion window does not limit it."""
    rtt = rtt_ms * 1000
    return TcpInfo(
        state=1, options=0, snd_mss=1448, unacked=0, last_data_recv=0, last_ack_recv=0,
        rtt=rtt, snd_cwnd=1 << 20, pacing_rate=mbit * 125_000, bytes_acked=0, bytes_received=0,
        notsent_bytes=0, min_rtt=rtt, bytes_sent=0, bytes_retrans=0,
    )  # fmt: skip


def test_paths_that_are_not_alike_get_no_more_than_the_kernel_gives_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unlike = [path(mbit=1000, rtt_ms=10), path(mbit=10, rtt_ms=600)]
    monkeypatch.setattr(send_queue, "subflow_infos", lambda _: unlike)
    with connection(socket.IPPROTO_MPTCP) as (client, _):
        queue = SendQueue(client)
        queue.sent(MUCH)
        assert 2 * queue.paths_hold == pytest.approx(183 << 20, rel=0.01), "while it grows"
        assert buffer_of(client) == 64 << 20


def test_paths_that_are_alike_get_what_they_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    alike = [path(mbit=1000, rtt_ms=40), path(mbit=1000, rtt_ms=80)]
    monkeypatch.setattr(send_queue, "subflow_infos", lambda _: alike)
    with connection(socket.IPPROTO_MPTCP) as (client, _):
        queue = SendQueue(client)
        for _ in range(2):
            queue.sent(MUCH)
        assert buffer_of(client) == pytest.approx(2 * 125e6 * 0.110, rel=0.01)
