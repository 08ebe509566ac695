"""The relay between real TCP connections over loopback: bytes as they are, and in records."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager, suppress

import pytest

from fedsdn.proxy.relay import peer_direction
from fedsdn.proxy.relay import relay as relay_module
from fedsdn.proxy.relay.buffers import BUFFER_BYTES, BufferPool
from fedsdn.proxy.relay.direction import Direction, Owner
from fedsdn.proxy.relay.peer_direction import FromPeer, ToPeer
from fedsdn.proxy.relay.poller import Poller
from fedsdn.proxy.relay.records import ELSEWHERE, Kind, record
from fedsdn.proxy.relay.relay import Relay
from fedsdn.proxy.relay.window import FIRST_BYTES, Budget, Window
from fedsdn.proxy.sockets import tcp
from tests.unit.loopback import asynchronous, descriptors, receive, send, tcp_pair, until


class Half:
    """A relay between ``near`` and ``far``, and what it has passed on."""

    def __init__(
        self,
        near: socket.socket,
        far: socket.socket,
        poller: Poller,
        buffers: BufferPool,
        *,
        records: bool,
    ) -> None:
        for sock in (near, far):
            tcp.prepare(sock)
        self.near, self.far = near, far
        self.sent = 0
        self.received = 0
        self.trusted = True
        self.window = Window(Budget(), "vm")
        self.records = records
        self.relay = Relay(near, far, poller, buffers, self._directions)

    def _directions(self, relay: Owner) -> tuple[Direction, Direction]:
        near, far = self.near, self.far
        if not self.records:
            out = Direction(relay, near, far, self.count_sent)
            return out, Direction(relay, far, near, self.count_received, self.may_be_used)
        to_peer = ToPeer(relay, near, far, self.count_sent, self.window)
        return to_peer, FromPeer(relay, far, near, self.count_received, to_peer, self.may_be_used)

    def may_be_used(self) -> bool:
        return self.trusted

    def count_sent(self, moved: int) -> None:
        self.sent += moved

    def count_received(self, moved: int) -> None:
        self.received += moved

    async def run(self, far_ready: Awaitable[None] | None = None) -> None:
        """Do as the proxy does: close the sockets when the relay is over."""
        with self.near, self.far:
            await self.relay.run(far_ready)


class Ground:
    """client <-> near, far <-> server, and a relay between near and far.

    With records there are two relays, and records between them.
    """

    def __init__(
        self, poller: Poller, buffers: BufferPool, *, records: bool, buffer: int | None = None
    ) -> None:
        self.client, near = tcp_pair(buffer)
        far, self.server = tcp_pair(buffer)
        self.halves = []
        if records:
            middle, other = tcp_pair(buffer)
            self.halves.append(Half(far, other, poller, buffers, records=True))
            far = middle
        self.halves.insert(0, Half(near, far, poller, buffers, records=records))

    @property
    def near(self) -> socket.socket:
        return self.halves[0].near

    @property
    def far(self) -> socket.socket:
        return self.halves[0].far

    @property
    def sent(self) -> int:
        return self.halves[-1].received if len(self.halves) > 1 else self.halves[0].sent

    @property
    def received(self) -> int:
        return self.halves[0].received

    @property
    def sides(self) -> tuple[socket.socket, socket.socket]:
        return self.client, self.server

    def start(self, far_ready: Awaitable[None] | None = None) -> asyncio.Task[None]:
        return asyncio.create_task(self.run(far_ready))

    async def run(self, far_ready: Awaitable[None] | None = None) -> None:
        others = [asyncio.create_task(half.run()) for half in self.halves[1:]]
        try:
            await self.halves[0].run(far_ready)
        finally:
            if others:
                await asyncio.wait(others)

    def close(self) -> None:
        for sock in self.sides:
            sock.close()
        for half in self.halves:
            half.near.close()
            half.far.close()


@contextmanager
def ground(buffer: int | None = None, *, records: bool = False) -> Iterator[Ground]:
    poller = Poller()
    made = Ground(poller, BufferPool(), records=records, buffer=buffer)
    try:
        yield made
    finally:
        made.close()
        poller.close()


def wait_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have resets wait for data that nobody takes for a moment only."""
    monkeypatch.setattr(relay_module, "PEER_SECONDS", 0.1)
    for module in (relay_module, peer_direction):
        monkeypatch.setattr(module, "VM_SECONDS", 0.1)


both_kinds = pytest.mark.parametrize("records", [False, True], ids=["bytes", "records"])


async def is_reset(sock: socket.socket) -> bool:
    """Read until the end; whether it is a reset."""
    try:
        await receive(sock)
    except ConnectionResetError:
        return True
    return False


def has_something(sock: socket.socket) -> bool:
    """Whether there is something to read."""
    return bool(select.select([sock], [], [], 0)[0])


async def receive_until_reset(sock: socket.socket) -> tuple[int, bool]:
    """Read to the end; how much came, and whether the end was a reset."""
    got = 0
    try:
        while data := await asyncio.get_running_loop().sock_recv(sock, 1 << 16):
            got += len(data)
    except ConnectionResetError:
        return got, True
    return got, False


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


@both_kinds
@pytest.mark.parametrize("who", [0, 1])
@asynchronous
async def test_a_reset_is_passed_on(who: int, records: bool) -> None:
    with ground(records=records) as g:
        running = g.start()
        tcp.reset(g.sides[who])
        assert await is_reset(g.sides[1 - who])
        await running


@both_kinds
@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize("writer", [0, 1])
@asynchronous
async def test_a_reset_is_passed_on_while_a_direction_is_held_up(
    who: int, writer: int, records: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_nobody(monkeypatch)
    with ground(1 << 14, records=records) as g:
        running = g.start()
        await fill(g.sides[writer])
        tcp.reset(g.sides[who])
        await running
        assert await is_reset(g.sides[1 - who])


@both_kinds
@pytest.mark.parametrize("who", [0, 1])
@asynchronous
async def test_a_reset_after_the_half_close_is_passed_on(who: int, records: bool) -> None:
    with ground(records=records) as g:
        running = g.start()
        g.client.shutdown(socket.SHUT_WR)
        assert (await receive(g.server))[0] == 0
        tcp.reset(g.sides[who])
        await running


@both_kinds
@asynchronous
async def test_cancelled_it_resets_both_sides(records: bool) -> None:
    with ground(records=records) as g:
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
        assert g.sent < filled < buffers + BUFFER_BYTES
        g.client.shutdown(socket.SHUT_WR)
        assert (await receive(g.server))[0] == filled
        g.server.close()
        await running


@pytest.mark.parametrize(
    ("end", "records"),
    [
        *((end, records) for end in ("order", "reset", "cancel") for records in (False, True)),
        ("not ready", False),
    ],
)
@asynchronous
async def test_nothing_is_left_open(
    end: str, records: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_nobody(monkeypatch)
    before = len(descriptors())
    with ground(records=records) as g:
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
async def test_nothing_is_moved_before_far_is_ready() -> None:
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
        g.server.send(answer[:2])
        await until(lambda: has_something(g.near))
        assert not has_something(g.server)
        g.server.send(answer[2:] + b"first")
        assert await loop.sock_recv(g.server, 100) == b"early"
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


@both_kinds
@pytest.mark.parametrize("size", [1, 60_000])
@pytest.mark.parametrize("who", [0, 1])
@asynchronous
async def test_what_was_sent_before_a_reset_arrives(who: int, size: int, records: bool) -> None:
    with ground(records=records) as g:
        one, other = g.sides[who], g.sides[1 - who]
        running = g.start()
        other.send(b"not read")
        await until(lambda: has_something(one))
        await asyncio.get_running_loop().sock_sendall(one, bytes(size))
        await until(lambda: tcp.unacknowledged(one) == 0)
        one.close()  # with unread data: a reset
        got, reset = await receive_until_reset(other)
        assert (got, reset) == (size, True)
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


@both_kinds
@asynchronous
async def test_nothing_of_what_may_not_be_used_is_passed_on(records: bool) -> None:
    with ground(records=records) as g:
        running = g.start()
        g.halves[0].trusted = False
        g.server.send(b"of a connection that fell back")
        assert await is_reset(g.client)
        assert g.received == 0
        await running


# With records


@asynchronous
async def test_no_more_is_sent_than_the_peers_vm_has_shown_that_it_takes() -> None:
    async def data_until_silence() -> int:
        got = 0
        with suppress(TimeoutError):
            while True:
                async with asyncio.timeout(0.2):
                    header = await loop.sock_recv(peer, 4)
                left = int.from_bytes(header, "big")
                while left:
                    left -= (moved := len(await loop.sock_recv(peer, left)))
                    got += moved
        return got

    loop = asyncio.get_running_loop()
    with half_ground() as (client, peer, running):
        sending = asyncio.create_task(loop.sock_sendall(client, bytes(1 << 21)))
        assert await data_until_silence() == FIRST_BYTES
        peer.send(record(Kind.CONSUMED, 1000))
        assert await data_until_silence() == 2 * 1000, "it may have so much more under way"
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
        b"\x06\0\0\0",
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


@contextmanager
def half_ground(
    buffer: int | None = None,
) -> Iterator[tuple[socket.socket, socket.socket, asyncio.Task[None]]]:
    """A VM's socket and a peer's, and the relay that runs between them."""
    poller = Poller()
    client, near = tcp_pair(buffer)
    far, peer = tcp_pair(buffer)
    half = Half(near, far, poller, BufferPool(), records=True)
    try:
        yield client, peer, asyncio.create_task(half.run())
    finally:
        for sock in (client, near, far, peer):
            sock.close()
        poller.close()


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
async def test_an_end_that_comes_by_another_connection_is_none_here() -> None:
    with half_ground() as (client, peer, running):
        peer.send(record(Kind.END, ELSEWHERE))
        assert await asyncio.get_running_loop().sock_recv(peer, 4) == record(Kind.SEEN)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 1), 0.2)
        running.cancel()
        await asyncio.wait([running])


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
