"""Requests to a peer on a ready connection: what is repeated, what is not, and what goes early."""

from __future__ import annotations

import asyncio
import errno
import socket
from functools import partial

import pytest

from fedsdn.proxy.relay import records
from fedsdn.proxy.relay.records import Kind
from fedsdn.proxy.sockets import tcp
from fedsdn.proxy.sockets.transport import FIRST_SEGMENT_BYTES
from fedsdn.proxy.socks import peers
from fedsdn.proxy.socks.protocol import (
    GREETING,
    SELECTION,
    Reply,
    SocksError,
    encode_reply,
)
from tests.unit.asked_peers import CLIENT, SERVER, SUCCEEDED, asking
from tests.unit.loopback import asynchronous, tcp_pair, until
from tests.unit.peer_connections import PEER


@pytest.fixture(autouse=True)
def every_connection_is_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those here are plain TCP."""
    monkeypatch.setattr(peers, "is_usable", lambda _far, _peer: True)


@asynchronous
async def test_a_ready_connection_needs_no_greeting() -> None:
    async with asking() as (net, request), net.peers.asked(PEER, request) as asked:
        assert await net.read(0, len(request.encode())) == request.encode()
        await net.say(0, SUCCEEDED)
        assert await asked.answer() is Reply.SUCCEEDED


@asynchronous
async def test_a_new_connection_takes_all_in_one_flight() -> None:
    async with asking(ready=False) as (net, request):
        async with net.peers.asked(PEER, request, lambda most: b"?"[:most]) as asked:
            assert asked.early == 1
            sent = GREETING + request.encode() + records.record(Kind.DATA, 1) + b"?"
            assert await net.read(0, len(sent)) == sent
            await net.say(0, SELECTION + SUCCEEDED)
            assert await asked.answer() is Reply.SUCCEEDED
        assert net.pool.given_back == []


@asynchronous
async def test_a_refusal_gives_the_connection_back_unless_data_were_sent() -> None:
    for early, given_back in ((b"", 1), (b"?", 0)):
        async with asking() as (net, request):
            async with net.peers.asked(PEER, request, lambda _, early=early: early) as asked:  # type: ignore[misc]
                await net.say(0, encode_reply(Reply.REFUSED))
                assert await asked.answer() is Reply.REFUSED
            assert len(net.pool.given_back) == given_back


@asynchronous
async def test_a_request_whose_connection_breaks_is_made_again() -> None:
    async with asking() as (net, request), net.peers.asked(PEER, request) as asked:
        answer = asyncio.create_task(asked.answer())
        await net.read(0, len(request.encode()))
        net.ends[0].close()
        sent = GREETING + request.encode()
        while len(net.ends) < 2:
            await asyncio.sleep(0)
        assert await net.read(1, len(sent)) == sent
        await net.say(1, SELECTION + SUCCEEDED)
        assert await answer is Reply.SUCCEEDED
        assert asked.far.getpeername() == net.ends[1].getsockname()


@asynchronous
async def test_a_request_with_data_is_never_made_twice() -> None:
    async with asking() as (net, request):
        async with net.peers.asked(PEER, request, lambda _: b"?") as asked:
            await net.read(0, len(request.encode()) + records.HEADER.size + 1)
            net.ends[0].close()
            with pytest.raises((OSError, SocksError)):
                await asked.answer()
        assert len(net.ends) == 1


@asynchronous
async def test_what_the_vm_says_before_the_answer_is_sent_on() -> None:
    async with asking() as (net, request):
        vm, near = tcp_pair()

        def read_early(most: int) -> bytes:
            try:
                return near.recv(most)
            except BlockingIOError:
                return b""

        with vm, near:
            async with net.peers.asked(PEER, request, read_early) as asked:
                answer = asyncio.create_task(asked.answer())
                await net.read(0, len(request.encode()))
                with asked.forwarding(near):
                    for said in (b"one", b"another"):
                        vm.send(said)
                        record = records.record(Kind.DATA, len(said)) + said
                        assert await net.read(0, len(record)) == record
                    await net.say(0, SUCCEEDED)
                    assert await answer is Reply.SUCCEEDED
                assert asked.early == len(b"oneanother")


@asynchronous
async def test_more_than_the_connection_takes_is_sent_behind_the_answer() -> None:
    async with asking() as (net, request):
        vm, near = tcp_pair()
        size = 1 << 16
        with vm, near:
            reading = partial(near.recv)
            async with net.peers.asked(PEER, request) as asked:
                asked._read_early = reading
                asked.far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                with asked.forwarding(near):
                    answer = asyncio.create_task(asked.answer())
                    await asyncio.get_running_loop().sock_sendall(vm, bytes(size))
                    while asked.early < size:
                        await asyncio.sleep(0)
                    vm.send(b"for the relay")
                    await net.read(0, len(request.encode()))
                    await net.say(0, SUCCEEDED)
                    got = 0
                    while got < size:
                        header = await net.read(0, records.HEADER.size)
                        length = int.from_bytes(header[1:], "big")
                        assert await net.read(0, length) == bytes(length)
                        got += length
                    assert await answer is Reply.SUCCEEDED
                assert got == size
                assert not asked._first_data
                assert not asked._unsent
                assert near.recv(100) == b"for the relay"


@asynchronous
async def test_a_request_says_which_one_it_comes_after_and_does_not_wait() -> None:
    async with asking() as (net, first), net.peers.asked(PEER, first):
        with net.peers.opening(CLIENT, SERVER) as second:
            async with net.peers.asked(PEER, second):
                sent = GREETING + second.encode()
                assert await net.read(1, len(sent)) == sent
                assert second.after == first.number


@asynchronous
async def test_a_peer_that_is_late_is_not_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "REPLY_SECONDS", 0.05)
    async with asking() as (net, request), net.peers.asked(PEER, request) as asked:
        with pytest.raises(TimeoutError):
            await asked.answer()
        assert len(net.ends) == 1


@pytest.fixture
def nothing_is_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    """For longer than a peer needs, as far as is seen."""
    monkeypatch.setattr(peers, "VANISHED_SECONDS", 0.01)
    monkeypatch.setattr(peers, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(tcp, "unacknowledged", lambda _far: 1)
    monkeypatch.setattr(tcp, "longest_rto_seconds", lambda: 1.0)


@pytest.mark.usefixtures("nothing_is_acknowledged")
@asynchronous
async def test_a_request_that_is_late_stays_where_it_is_while_the_peer_is_not_heard_otherwise() -> (
    None
):
    async with asking() as (net, request), net.peers.asked(PEER, request) as asked:
        answer = asyncio.create_task(asked.answer())
        for _ in range(3):
            net.pool.looked.clear()
            await net.pool.looked.wait()
        await net.say(0, SUCCEEDED)
        assert await answer is Reply.SUCCEEDED
        assert len(net.ends) == 1


@pytest.mark.usefixtures("nothing_is_acknowledged")
@asynchronous
async def test_a_request_whose_peer_has_vanished_is_made_on_a_new_connection() -> None:
    async with asking() as (net, request), net.peers.asked(PEER, request) as asked:
        answer = asyncio.create_task(asked.answer())
        await net.pool.looked.wait()
        net.pool.answered = True
        sent = GREETING + request.encode()
        while len(net.ends) < 2:
            await asyncio.sleep(0.001)
        assert await net.read(1, len(sent)) == sent
        with pytest.raises(ConnectionResetError):
            await net.read(0, len(request.encode()) + 1)
        await net.say(1, SELECTION + SUCCEEDED)
        assert await answer is Reply.SUCCEEDED
        assert len(net.ends) == 2


@pytest.mark.usefixtures("nothing_is_acknowledged")
@asynchronous
async def test_where_tcp_waits_longer_before_it_repeats_a_request_so_do_we(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tcp, "longest_rto_seconds", lambda: 120.0)
    loop = asyncio.get_running_loop()
    async with asking() as (net, request), net.peers.asked(PEER, request) as asked:
        answer = asyncio.create_task(asked.answer())
        await net.pool.looked.wait()
        asked_at = loop.time()  # or later than it was asked: a busy machine may pause in between
        for _ in range(3):
            net.pool.looked.clear()
            await net.pool.looked.wait()
        net.pool.answered = True
        answered_at = loop.time()
        await until(lambda: len(net.ends) == 2)
        assert loop.time() - answered_at > 0.9 * (answered_at - asked_at)
        await net.read(1, len(GREETING + request.encode()))
        await net.say(1, SELECTION + SUCCEEDED)
        assert await answer is Reply.SUCCEEDED


@pytest.mark.usefixtures("nothing_is_acknowledged")
@asynchronous
async def test_a_server_that_leaves_and_then_vanishes_is_found_out() -> None:
    async with asking() as (net, request), net.peers.asked(PEER, request) as asked:
        await net.say(0, encode_reply(Reply.LEAVING))
        answer = asyncio.create_task(asked.answer())
        await net.pool.looked.wait()
        net.pool.answered = True
        await until(lambda: len(net.ends) == 2)
        await net.read(1, len(GREETING + request.encode()))
        await net.say(1, SELECTION + SUCCEEDED)
        assert await answer is Reply.SUCCEEDED


@pytest.mark.usefixtures("nothing_is_acknowledged")
@asynchronous
async def test_a_request_behind_which_data_came_waits_for_its_answer() -> None:
    """They are acknowledged later than the request, and may not be sent twice."""
    async with asking() as (net, request):
        vm, near = tcp_pair()
        with vm, near:
            async with net.peers.asked(PEER, request) as asked:
                asked._read_early = near.recv
                with asked.forwarding(near):
                    answer = asyncio.create_task(asked.answer())
                    await net.read(0, len(request.encode()))
                    vm.send(b"?")
                    assert await net.read(0, records.HEADER.size + 1) == b"\0\0\0\1?"
                    net.pool.answered = True
                    await asyncio.wait([answer], timeout=20 * peers.VANISHED_SECONDS)
                    await net.say(0, SUCCEEDED)
                    assert await answer is Reply.SUCCEEDED
        assert len(net.ends) == 1


@asynchronous
async def test_a_repeated_request_takes_no_more_than_a_new_connections_first_segment() -> None:
    """Multipath TCP may fall back there, and then the peer asks once more."""
    data = bytes(10_000)
    record = records.record(Kind.DATA, len(data)) + data
    async with (
        asking() as (net, request),
        net.peers.asked(PEER, request, lambda most: data[:most]) as asked,
    ):
        answer = asyncio.create_task(asked.answer())
        await net.read(0, len(request.encode() + record))
        await net.say(0, encode_reply(Reply.ASK_AGAIN))
        while len(net.ends) < 2:
            await asyncio.sleep(0)
        first = await net.read(1, FIRST_SEGMENT_BYTES)
        assert first == (GREETING + request.encode() + record)[:FIRST_SEGMENT_BYTES]
        with pytest.raises(BlockingIOError):
            net.ends[1].recv(1)
        await net.say(1, SELECTION + SUCCEEDED)
        assert await answer is Reply.SUCCEEDED
        rest = len(GREETING + request.encode() + record) - FIRST_SEGMENT_BYTES
        assert await net.read(1, rest) == bytes(rest)


@asynchronous
async def test_what_was_sent_on_before_the_answer_is_sent_again_too() -> None:
    async with asking() as (net, request):
        vm, near = tcp_pair()
        with vm, near:
            async with net.peers.asked(PEER, request) as asked:
                asked._read_early = near.recv
                answer = asyncio.create_task(asked.answer())
                await net.read(0, len(request.encode()))
                sent = b""
                with asked.forwarding(near):
                    for said in (b"one", b"another"):
                        vm.send(said)
                        record = records.record(Kind.DATA, len(said)) + said
                        assert await net.read(0, len(record)) == record
                        sent += record
                    await net.say(0, encode_reply(Reply.ASK_AGAIN))
                    await until(lambda: len(net.ends) == 2)
                    again = GREETING + request.encode() + sent
                    assert await net.read(1, len(again)) == again
                    vm.send(b"for the relay")
                    await net.say(1, SELECTION + SUCCEEDED)
                    assert await answer is Reply.SUCCEEDED
            assert near.recv(100) == b"for the relay"


@pytest.mark.parametrize(
    ("usable", "number"), [(False, errno.EPROTONOSUPPORT), (True, errno.ECONNABORTED)]
)
@asynchronous
async def test_a_peer_that_asks_again_and_again_is_left(
    monkeypatch: pytest.MonkeyPatch, usable: bool, number: int
) -> None:
    """Only what has fallen back is said to have."""
    monkeypatch.setattr(peers, "is_usable", lambda _far, _peer: usable)
    async with asking() as (net, request), net.peers.asked(PEER, request) as asked:
        answer = asyncio.create_task(asked.answer())
        await net.say(0, encode_reply(Reply.ASK_AGAIN))
        for end in (1, 2):
            await until(lambda end=end: len(net.ends) > end)  # type: ignore[misc]
            await net.say(end, SELECTION + encode_reply(Reply.ASK_AGAIN))
        with pytest.raises(OSError, match=r"again and again|fallen back") as left:
            await answer
        assert left.value.errno == number
        assert len(net.ends) == 3


@asynchronous
async def test_a_request_under_way_to_a_server_that_leaves_is_answered_behind_its_word() -> None:
    data = b"first"
    async with (
        asking() as (net, request),
        net.peers.asked(PEER, request, lambda most: data[:most]) as asked,
    ):
        await net.say(0, encode_reply(Reply.LEAVING) + SUCCEEDED)
        assert await asked.answer() is Reply.SUCCEEDED
        assert len(net.ends) == 1
