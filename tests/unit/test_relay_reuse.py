"""One connection between two proxies for the connections of several VMs, one after another."""

from __future__ import annotations

import asyncio
import random
import socket

import pytest

from fedsdn.proxy.ended.record import Reason, Who
from fedsdn.proxy.relay.buffers import BufferPool
from fedsdn.proxy.relay.poller import Poller
from fedsdn.proxy.relay.records import Kind, record
from tests.unit.loopback import asynchronous, polling, tcp_pair
from tests.unit.relays import Half, half_of_a_relay, has_something

END, SEEN = record(Kind.END), record(Kind.SEEN)
LAST_END, LAST_SEEN = record(Kind.END, 1), record(Kind.SEEN, 1)
REQUEST = b"the next request"


async def said(peer: socket.socket, wanted: bytes) -> None:
    """Read what the relay says to the peer, and no more."""
    got = b""
    while len(got) < len(wanted):
        got += await asyncio.get_running_loop().sock_recv(peer, len(wanted) - len(got))
    assert got == wanted


@pytest.mark.parametrize("free", [True, False])
@asynchronous
async def test_the_peer_is_free_if_its_last_record_says_so(free: bool) -> None:
    loop = asyncio.get_running_loop()
    with half_of_a_relay() as (client, half, peer):
        running = asyncio.create_task(half.relay.run())
        client.shutdown(socket.SHUT_WR)
        await said(peer, END)
        peer.send(SEEN + record(Kind.DATA, 5) + b"hello")
        assert await loop.sock_recv(client, 100) == b"hello"
        peer.send(record(Kind.END, int(free)))
        await running
        await said(peer, LAST_SEEN)
        assert half.relay.ended_in_order
        assert half.relay.peer_is_free is free


@asynchronous
async def test_the_other_way_round_its_last_record_is_seen() -> None:
    with half_of_a_relay() as (client, half, peer):
        running = asyncio.create_task(half.relay.run())
        peer.send(END)
        await said(peer, SEEN)
        client.shutdown(socket.SHUT_WR)
        await said(peer, LAST_END)
        peer.send(LAST_SEEN)
        await running
        assert half.relay.peer_is_free


@asynchronous
async def test_the_next_request_is_left_for_whoever_comes_next() -> None:
    """It comes with the last record, as soon as the peer has ours."""
    with half_of_a_relay() as (client, half, peer):
        running = asyncio.create_task(half.relay.run())
        peer.send(END)
        await said(peer, SEEN)
        client.shutdown(socket.SHUT_WR)
        await said(peer, LAST_END)
        peer.send(LAST_SEEN + REQUEST)
        await running
        assert half.far.recv(100) == REQUEST


@asynchronous
async def test_while_the_vm_has_not_taken_everything_the_peer_is_not_let_go_on() -> None:
    """What follows the last record, word that the peer leaves, stays unread all the same."""
    size = 100_000
    with half_of_a_relay(buffer=1 << 12) as (client, half, peer):
        running = asyncio.create_task(half.relay.run())
        client.shutdown(socket.SHUT_WR)
        await said(peer, END)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(peer, record(Kind.DATA, size) + bytes(size) + END)
        await said(peer, SEEN)
        peer.send(LAST_SEEN + REQUEST)
        await asyncio.sleep(0)
        assert not running.done()
        received = 0
        while got := len(await loop.sock_recv(client, 1 << 16)):
            received += got
        assert received == size
        await running
        assert half.relay.peer_is_free, "our VM has everything now"
        assert half.far.recv(100) == REQUEST


@asynchronous
async def test_what_the_vm_does_behind_the_last_record_is_told_to_nobody() -> None:
    """A reset there would hit the next VM's connection."""
    with half_of_a_relay() as (client, half, peer):
        running = asyncio.create_task(half.relay.run())
        peer.send(END)
        await said(peer, SEEN)
        client.send(b"bye")
        await said(peer, record(Kind.DATA, 3) + b"bye")
        client.shutdown(socket.SHUT_WR)
        await said(peer, LAST_END)
        half.relay.broke(half.near, None)
        half.watch.tell(True)
        await asyncio.sleep(0)
        assert not has_something(peer)
        peer.send(SEEN + REQUEST)
        await running
        assert half.ended == []
        assert half.relay.ended_in_order
        assert half.far.recv(100) == REQUEST


@asynchronous
async def test_behind_a_reset_nobody_goes_on() -> None:
    with half_of_a_relay() as (client, half, peer):
        running = asyncio.create_task(half.relay.run())
        client.shutdown(socket.SHUT_WR)
        await said(peer, END)
        peer.send(SEEN + record(Kind.RESET))
        await running
        assert not half.relay.ended_in_order
        assert not half.relay.peer_is_free


@asynchronous
async def test_octets_along_with_the_last_record_reset_both_sides() -> None:
    """No honest peer sends them before it has read our END."""
    with half_of_a_relay() as (client, half, peer):
        client.shutdown(socket.SHUT_WR)
        peer.send(SEEN + LAST_END + REQUEST)
        await half.relay.run()
        assert half.ended == [(Reason.PROTOCOL, Who.PEER)]
        assert not half.relay.ended_in_order


class Sites:
    """Two proxies and a connection between them, another one where that cannot be used again."""

    def __init__(self, poller: Poller, chance: random.Random) -> None:
        self._poller, self._buffers = poller, BufferPool()
        self._chance = chance
        self._ends: tuple[socket.socket, ...] = ()
        self.reused = 0

    async def carry(self) -> None:
        """Carry one connection of VMs."""
        self.reused += bool(self._ends)
        self._ends = self._ends or tcp_pair(self._chance.choice((None, 1 << 12)))
        buffer = self._chance.choice((None, 1 << 12))
        vms, nears = zip(tcp_pair(buffer), tcp_pair(buffer), strict=True)
        halves = [
            Half(near, far, self._poller, self._buffers, records=True)
            for near, far in zip(nears, self._ends, strict=True)
        ]
        data = [self._chance.randbytes(self._chance.choice((0, 1, 100, 90_000))) for _ in vms]
        waiting = self._chance.choice((None, 0, 1))
        _, _, *arrived = await asyncio.gather(
            *(half.relay.run() for half in halves),
            *(self._talk(vms[n], data[n], waits=waiting == n) for n in (0, 1)),
        )
        assert arrived == data[::-1]
        assert all(half.relay.ended_in_order for half in halves)
        for sock in (*vms, *nears):
            sock.close()
        if not halves[0].relay.peer_is_free:
            self.close()

    async def _talk(self, vm: socket.socket, data: bytes, *, waits: bool) -> bytes:
        loop, received = asyncio.get_running_loop(), bytearray()
        if not waits:
            await loop.sock_sendall(vm, data)
            vm.shutdown(socket.SHUT_WR)
        while got := await loop.sock_recv(vm, self._chance.choice((1000, 1 << 18))):
            received += got
        if waits:
            await loop.sock_sendall(vm, data)
            vm.shutdown(socket.SHUT_WR)
        return bytes(received)

    def close(self) -> None:
        for end in self._ends:
            end.close()
        self._ends = ()


@pytest.mark.parametrize("seed", range(8))
@asynchronous
async def test_each_vm_gets_what_is_its_own(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 -- no secrets
    with polling() as poller:
        sites = Sites(poller, chance)
        try:
            for _ in range(20):
                await sites.carry()
        finally:
            sites.close()
    assert sites.reused
