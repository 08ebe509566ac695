"""The relay between two real TCP connections over loopback."""

from __future__ import annotations

import asyncio
import random
import resource
import socket
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress

import pytest

from fedsdn.proxy import tcp
from fedsdn.proxy.pipes import PIPE_BYTES, PipePool
from fedsdn.proxy.poller import Poller
from fedsdn.proxy.relay import Relay
from tests.unit.loopback import (
    asynchronous,
    descriptors,
    pipe_ends,
    receive,
    send,
    tcp_pair,
    until,
)


class Ground:
    """client <-> near, far <-> server, and a relay between near and far."""

    def __init__(self, poller: Poller, pipes: PipePool, buffer: int | None = None) -> None:
        self.client, self.near = tcp_pair(buffer)
        self.far, self.server = tcp_pair(buffer)
        for sock in (self.near, self.far):
            tcp.prepare(sock)
        self.sent = 0
        self.received = 0
        self.relay = Relay(self.near, self.far, poller, pipes, self.count_sent, self.count_received)

    def count_sent(self, moved: int) -> None:
        self.sent += moved

    def count_received(self, moved: int) -> None:
        self.received += moved

    @property
    def sides(self) -> tuple[socket.socket, socket.socket]:
        return self.client, self.server

    def start(self, far_ready: Awaitable[None] | None = None) -> asyncio.Task[None]:
        return asyncio.create_task(self.run(far_ready))

    async def run(self, far_ready: Awaitable[None] | None = None) -> None:
        """Do as the proxy does: close the sockets when the relay is over."""
        with self.near, self.far:
            await self.relay.run(far_ready)


@contextmanager
def ground(buffer: int | None = None) -> Iterator[Ground]:
    poller, pipes = Poller(), PipePool()
    made = Ground(poller, pipes, buffer)
    try:
        yield made
    finally:
        for sock in (*made.sides, made.near, made.far):
            sock.close()
        poller.close()
        pipes.close()


async def is_reset(sock: socket.socket) -> bool:
    """Read until the end; whether it is a reset."""
    try:
        await receive(sock)
    except ConnectionResetError:
        return True
    return False


async def fill(sock: socket.socket) -> int:
    """Send until nothing more is taken; return how much was."""
    filled, quiet = 0, 0
    while quiet < 20:
        with suppress(BlockingIOError):
            filled += sock.send(bytes(1 << 16))
            quiet = 0
            continue
        quiet += 1
        await asyncio.sleep(0.005)
    return filled


@pytest.mark.parametrize(
    ("outward", "inward"), [(0, 0), (1, 0), (0, 1), (70_001, 3), (5_000_003, 4_000_037)]
)
@asynchronous
async def test_data_are_intact_both_ways_at_once(outward: int, inward: int) -> None:
    with ground() as g:
        running = g.start()
        sent_out, sent_in, at_server, at_client = await asyncio.gather(
            send(g.client, outward, 1),
            send(g.server, inward, 2),
            receive(g.server),
            receive(g.client),
        )
        await running
        assert at_server == (outward, sent_out)
        assert at_client == (inward, sent_in)
        assert (g.sent, g.received) == (outward, inward)


@pytest.mark.parametrize("first", [0, 1])
@asynchronous
async def test_half_closed_it_goes_on_carrying_the_other_way(first: int) -> None:
    with ground() as g:
        opener, answerer = g.sides[first], g.sides[1 - first]
        running = g.start()
        question = await send(opener, 100_000, 1)
        assert await receive(answerer) == (100_000, question)
        assert not running.done()
        answer, received = await asyncio.gather(send(answerer, 3_000_000, 2), receive(opener))
        assert received == (3_000_000, answer)
        await running


@pytest.mark.parametrize("who", [0, 1])
@asynchronous
async def test_a_reset_is_passed_on(who: int) -> None:
    with ground() as g:
        running = g.start()
        tcp.reset(g.sides[who])
        assert await is_reset(g.sides[1 - who])
        await running


@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize("writer", [0, 1])
@asynchronous
async def test_a_reset_is_passed_on_while_a_direction_is_held_up(who: int, writer: int) -> None:
    with ground(buffer=1 << 14) as g:
        running = g.start()
        await fill(g.sides[writer])
        tcp.reset(g.sides[who])
        await running
        assert await is_reset(g.sides[1 - who])


@pytest.mark.parametrize("who", [0, 1])
@asynchronous
async def test_a_reset_after_the_half_close_is_passed_on(who: int) -> None:
    with ground() as g:
        running = g.start()
        g.client.shutdown(socket.SHUT_WR)
        assert (await receive(g.server))[0] == 0
        tcp.reset(g.sides[who])
        await running


@asynchronous
async def test_cancelled_it_resets_both_sides() -> None:
    with ground() as g:
        running = g.start()
        g.client.send(b"x")
        await until(lambda: g.sent == 1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await is_reset(g.client)
        assert await is_reset(g.server)


@asynchronous
async def test_a_receiver_that_does_not_read_stops_the_sender() -> None:
    with ground(buffer=1 << 14) as g:
        running = g.start()
        filled = await fill(g.client)
        buffers = sum(
            sock.getsockopt(socket.SOL_SOCKET, option)
            for sock in (g.client, g.near, g.far, g.server)
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF)
        )
        assert g.sent < filled < buffers + PIPE_BYTES
        g.client.shutdown(socket.SHUT_WR)
        assert (await receive(g.server))[0] == filled
        g.server.close()
        await running


@asynchronous
async def test_idle_connections_hold_two_descriptors_each() -> None:
    poller, pipes = Poller(), PipePool()
    before = pipe_ends()
    grounds = [Ground(poller, pipes) for _ in range(50)]
    running = [g.start() for g in grounds]
    for g in grounds:
        g.client.send(b"question")
        g.server.send(b"answer")
    await until(lambda: all((g.sent, g.received) == (8, 6) for g in grounds))
    await asyncio.sleep(0)
    assert pipe_ends() - before <= 2 * 2, "one pipe for each direction, at the same time"
    for g in grounds:
        g.client.close()
        g.server.close()
    await asyncio.wait(running)
    poller.close()
    pipes.close()


@pytest.mark.parametrize("end", ["order", "reset", "cancel", "not ready"])
@asynchronous
async def test_nothing_is_left_open(end: str) -> None:
    before = len(descriptors())
    with ground() as g:
        running = g.start(nothing_comes(g) if end == "not ready" else None)
        await fill(g.client)
        if end == "order":
            g.client.close()
            await receive(g.server)
            g.server.close()
        elif end == "cancel":
            running.cancel()
        else:
            tcp.reset(g.client)
        await asyncio.wait([running])
    assert len(descriptors()) == before


async def nothing_comes(g: Ground) -> None:
    await asyncio.get_running_loop().sock_recv(g.far, 1)
    raise AssertionError


@asynchronous
async def test_early_data_go_out_before_far_is_ready_and_far_is_left_to_it() -> None:
    answer = b"ready"

    async def ready() -> None:
        loop, seen = asyncio.get_running_loop(), b""
        while len(seen) < len(answer):
            seen += await loop.sock_recv(g.far, len(answer) - len(seen))
        assert seen == answer

    with ground() as g:
        running = g.start(ready())
        loop = asyncio.get_running_loop()
        g.client.send(b"early")
        assert await loop.sock_recv(g.server, 100) == b"early"
        g.server.send(answer[:2])
        await until(lambda: g.sent == 5)
        g.server.send(answer[2:] + b"first")
        assert await loop.sock_recv(g.client, 100) == b"first"
        assert g.received == 5
        g.client.close()
        g.server.close()
        await running


@asynchronous
async def test_far_not_getting_ready_resets_both() -> None:
    async def fails() -> None:
        await asyncio.get_running_loop().sock_recv(g.far, 1)
        raise ValueError("no")

    with ground() as g:
        running = g.start(fails())
        g.server.send(b"no")
        with pytest.raises(ValueError, match="no"):
            await running
        assert await is_reset(g.client)
        assert await is_reset(g.server)


@pytest.mark.parametrize("who", [0, 1])
@asynchronous
async def test_a_reset_before_far_is_ready_ends_the_waiting(who: int) -> None:
    with ground() as g:
        running = g.start(nothing_comes(g))
        await asyncio.sleep(0)
        tcp.reset(g.sides[who])
        with pytest.raises(OSError, match=r"reset|not connected"):
            await running
        assert await is_reset(g.sides[1 - who])


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """Let this process open nothing more for a while."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("buffer", [None, 1 << 14])
@asynchronous
async def test_without_descriptors_data_go_through_memory(buffer: int | None) -> None:
    sent = random.Random(1).randbytes(1 << 20)  # noqa: S311  (only to be compared)
    with ground(buffer=buffer) as g:
        running = g.start()
        loop = asyncio.get_running_loop()
        with no_descriptors_left():
            sending = loop.create_task(loop.sock_sendall(g.client, sent))
            received = b""
            while len(received) < len(sent):
                received += await loop.sock_recv(g.server, 1 << 16)
            await sending
        assert received == sent
        g.client.close()
        g.server.close()
        await running


@asynchronous
async def test_without_descriptors_a_receiver_that_does_not_read_stops_the_sender() -> None:
    with ground(buffer=1 << 14) as g:
        running = g.start()
        with no_descriptors_left():
            filled = await fill(g.client)
        assert g.sent < filled
        g.client.shutdown(socket.SHUT_WR)
        assert (await receive(g.server))[0] == filled
        g.server.close()
        await running


@asynchronous
async def test_a_connection_that_nobody_ended_in_order_is_reset_when_closed() -> None:
    client, near = tcp_pair()
    with client:
        tcp.prepare(near)
        near.close()
        assert await is_reset(client)


@asynchronous
async def test_a_connection_told_to_end_in_order_gets_everything_out() -> None:
    client, near = tcp_pair()
    with client:
        tcp.prepare(near)
        filled = await fill(near)
        tcp.end_in_order(near)
        near.close()
        assert (await receive(client))[0] == filled
