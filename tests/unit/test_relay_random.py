"""Random transfers through two relays with records: everything arrives, whoever reads how fast."""

from __future__ import annotations

import asyncio
import random
import socket

import pytest

from tests.unit.loopback import asynchronous
from tests.unit.relays import ground

_SIZES = (0, 1, 131_068, 131_073, 400_000, 2_000_000)


async def send(sock: socket.socket, data: bytes, chance: random.Random) -> None:
    at = 0
    while at < len(data):
        size = chance.choice((1, 100, 5000, 70_000, 300_000))
        await asyncio.get_running_loop().sock_sendall(sock, data[at : at + size])
        at += size
        if chance.random() < 0.2:
            await asyncio.sleep(chance.random() * 0.02)
    sock.shutdown(socket.SHUT_WR)


async def receive(sock: socket.socket, chance: random.Random) -> bytes:
    received = bytearray()
    while data := await asyncio.get_running_loop().sock_recv(sock, chance.choice((1000, 1 << 18))):
        received += data
        if chance.random() < 0.2:
            await asyncio.sleep(chance.random() * 0.02)
    return bytes(received)


@pytest.mark.parametrize("seed", range(12))
@asynchronous
async def test_everything_arrives(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 -- no secrets
    with ground(chance.choice((None, 1 << 12, 1 << 14)), records=True) as g:
        for half in g.halves:
            half.window.paths_hold = chance.choice((0, 1, 1 << 16))
        up, down = (chance.randbytes(chance.choice(_SIZES)) for _ in range(2))
        running = g.start()
        _, _, at_server, at_client = await asyncio.gather(
            send(g.client, up, chance),
            send(g.server, down, chance),
            receive(g.server, chance),
            receive(g.client, chance),
        )
        assert (at_server, at_client) == (up, down)
        await running
