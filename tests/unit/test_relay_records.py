"""The relay with one of our own proxies: bytes in records."""

from __future__ import annotations

import asyncio
import socket

import pytest

from fedsdn.proxy.relay.records import Kind, record
from fedsdn.proxy.relay.window import FIRST_BYTES
from fedsdn.proxy.sockets import tcp
from tests.unit.loopback import asynchronous, receive, send
from tests.unit.relays import (
    ground,
    half_ground,
    is_reset,
    wait_for_nobody,
)


@asynchronous
async def test_no_more_is_sent_than_the_peers_vm_has_shown_that_it_takes() -> None:
    async def comes_and_no_more(expected: int) -> None:
        got = 0
        while got < expected:
            left = int.from_bytes(await loop.sock_recv(peer, 4), "big")
            while left:
                left -= (moved := len(await loop.sock_recv(peer, left)))
                got += moved
        assert got == expected
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await loop.sock_recv(peer, 4)

    loop = asyncio.get_running_loop()
    with half_ground() as (client, peer, running):
        sending = asyncio.create_task(loop.sock_sendall(client, bytes(1 << 21)))
        await comes_and_no_more(FIRST_BYTES)
        peer.send(record(Kind.CONSUMED, 1000))
        await comes_and_no_more(2 * 1000)  # it may have so much more under way
        sending.cancel()
        running.cancel()
        await asyncio.wait([running])


@asynchronous
async def test_the_end_of_the_connection_between_two_proxies_is_no_end_of_stream() -> None:
    with half_ground() as (client, peer, running):
        peer.send(record(Kind.DATA, 5) + b"hello")
        peer.shutdown(socket.SHUT_WR)
        assert await asyncio.get_running_loop().sock_recv(client, 100) == b"hello"
        assert await is_reset(client)
        await running


@pytest.mark.parametrize(
    "said",
    [
        b"\x07\0\0\0",
        record(Kind.CONSUMED, 1),
        record(Kind.END) + record(Kind.DATA, 1) + b"x",
        record(Kind.END) + record(Kind.END),
        record(Kind.SEEN),
    ],
    ids=[
        "unknown kind",
        "more consumed than sent",
        "data after the end",
        "two ends",
        "an end seen that was none",
    ],
)
@asynchronous
async def test_what_is_no_record_resets_both_sides(said: bytes) -> None:
    with half_ground() as (client, peer, running):
        peer.send(said)
        await running
        assert await is_reset(peer)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            client.send(b"?")


@asynchronous
async def test_records_may_be_cut_up_anywhere() -> None:
    said = b"".join(
        record(Kind.DATA, size) + bytes([size]) * size for size in (1, 2, 3, 5, 8)
    ) + record(Kind.END)
    with half_ground() as (client, peer, running):
        loop = asyncio.get_running_loop()
        for octet in said:
            peer.send(bytes([octet]))
            await asyncio.sleep(0)
        expected = b"".join(bytes([size]) * size for size in (1, 2, 3, 5, 8))
        seen = b""
        while data := await loop.sock_recv(client, 100):
            seen += data
        assert seen == expected
        assert await loop.sock_recv(peer, 4) == record(Kind.SEEN)
        client.close()
        assert await loop.sock_recv(peer, 4) == record(Kind.END)
        assert not running.done(), "it waits until the peer has everything"
        peer.send(record(Kind.SEEN))
        await running


@asynchronous
async def test_a_peers_reset_waits_for_the_vm_only_for_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wait_for_nobody(monkeypatch)
    with half_ground(buffer=1 << 14) as (client, peer, running):
        data = record(Kind.DATA, 1 << 20) + bytes(1 << 20)
        await asyncio.get_running_loop().sock_sendall(peer, data)
        tcp.reset(peer)
        await running
        assert await is_reset(client)


@asynchronous
async def test_both_may_write_before_they_read() -> None:
    """What waits for a VM that does not read holds nothing up that goes the other way."""
    size = 1 << 20
    with ground(records=True) as g:
        running = g.start()
        loop = asyncio.get_running_loop()
        answering = asyncio.create_task(loop.sock_sendall(g.server, bytes(size)))
        reading = asyncio.create_task(receive(g.server))
        await send(g.client, 16 * size, 1)
        assert (await reading)[0] == 16 * size
        await answering
        g.server.shutdown(socket.SHUT_WR)
        assert (await receive(g.client))[0] == size
        await running


@asynchronous
async def test_what_is_kept_for_the_vm_arrives_after_the_peer_has_gone() -> None:
    size = 1 << 20
    with half_ground(buffer=1 << 14) as (client, peer, running):
        loop = asyncio.get_running_loop()
        client.shutdown(socket.SHUT_WR)
        assert await loop.sock_recv(peer, 4) == record(Kind.END)
        said = record(Kind.SEEN) + record(Kind.DATA, size) + bytes(size) + record(Kind.END)
        await loop.sock_sendall(peer, said)
        while (await loop.sock_recv(peer, 4)) != record(Kind.SEEN):
            pass
        peer.close()
        await asyncio.sleep(0)
        assert (await receive(client))[0] == size
        await running
