"""The relay between real TCP connections over loopback: data and ends of stream."""

from __future__ import annotations

import asyncio
import socket

import pytest

from fedsdn.proxy.relay.buffers import BUFFER_BYTES
from fedsdn.proxy.sockets import tcp
from tests.unit.loopback import asynchronous, receive, send, tcp_pair, until
from tests.unit.relays import (
    both_kinds,
    fill,
    ground,
    has_something,
)


@both_kinds
@pytest.mark.parametrize(
    ("outward", "inward"), [(0, 0), (1, 0), (0, 1), (70_001, 3), (5_000_003, 4_000_037)]
)
@asynchronous
async def test_data_are_intact_both_ways_at_once(outward: int, inward: int, records: bool) -> None:
    with ground(records=records) as g:
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


@both_kinds
@pytest.mark.parametrize("first", [0, 1])
@asynchronous
async def test_half_closed_it_goes_on_carrying_the_other_way(first: int, records: bool) -> None:
    with ground(records=records) as g:
        opener, answerer = g.sides[first], g.sides[1 - first]
        running = g.start()
        question = await send(opener, 100_000, 1)
        assert await receive(answerer) == (100_000, question)
        assert not running.done()
        answer, received = await asyncio.gather(send(answerer, 3_000_000, 2), receive(opener))
        assert received == (3_000_000, answer)
        await running


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
        assert g.sent < filled < buffers + BUFFER_BYTES
        g.client.shutdown(socket.SHUT_WR)
        assert (await receive(g.server))[0] == filled
        g.server.close()
        await running


@both_kinds
@pytest.mark.parametrize("who", [0, 1])
@asynchronous
async def test_what_follows_an_urgent_byte_arrives(who: int, records: bool) -> None:
    with ground(records=records) as g:
        for half in g.halves:
            half.near.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            half.far.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        one, other = g.sides[who], g.sides[1 - who]
        other.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        running = g.start()
        one.send(b"abc")
        one.send(b"!", socket.MSG_OOB)
        one.send(b"def")
        seen = b""
        while len(seen) < len(b"abc!def"):
            seen += await asyncio.get_running_loop().sock_recv(other, 100)
        assert seen == b"abc!def"
        one.close()
        assert await receive(other) == await receive_nothing()
        other.close()
        await running


@pytest.mark.parametrize("before", [3, 100_000], ids=["at once", "kept"])
@pytest.mark.parametrize("who", [0, 1])
@asynchronous
async def test_an_urgent_byte_arrives_as_urgent(who: int, before: int) -> None:
    """Also behind data that its reader does not take at first."""
    loop = asyncio.get_running_loop()
    with ground(records=True, buffer=1 << 14) as g:
        one, other = g.sides[who], g.sides[1 - who]
        for sock in (other, *(half.near for half in g.halves), *(half.far for half in g.halves)):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        running = g.start()
        await loop.sock_sendall(one, bytes(before))
        await until(lambda: tcp.unacknowledged(one) == 0)
        one.send(b"!", socket.MSG_OOB)
        one.send(b"def")
        await until(lambda: tcp.unacknowledged(one) == 0)
        seen, marked = b"", []
        while not seen.endswith(b"def"):
            await until(lambda: has_something(other))
            if tcp.at_urgent_octet(other):
                marked.append(len(seen))
                seen += other.recv(1)
            else:
                seen += other.recv(100_000)
        assert seen == bytes(before) + b"!def"
        assert marked == [before]
        one.close()
        other.close()
        await running


async def receive_nothing() -> tuple[int, str]:
    ended, other = tcp_pair()
    with ended, other:
        ended.shutdown(socket.SHUT_WR)
        return await receive(other)
