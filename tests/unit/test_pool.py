"""Ready connections: made, taken, lost, given back and given up."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import pytest

from fedsdn.channel.connection import Direction
from fedsdn.proxy.admission.carried import Carried, PeerConnection
from fedsdn.proxy.socks import demand
from fedsdn.proxy.socks import pool as module
from fedsdn.proxy.socks.connection import Connection
from fedsdn.proxy.socks.demand import MOST_READY
from fedsdn.proxy.socks.pool import Pool
from fedsdn.proxy.socks.protocol import Reply, encode_reply
from fedsdn.proxy.stats import Counter, Statistics
from tests.unit.loopback import asynchronous, polling, until
from tests.unit.peer_connections import PEER, connected


@pytest.fixture(autouse=True)
def one_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked for in a test, unless that says otherwise: a busy machine may pause."""
    monkeypatch.setattr(demand, "_BURST_SECONDS", 1000.0)


class ReadyConnection(Connection):
    """One over loopback, which has no subflows."""

    def has_subflow(self) -> bool:
        return True


class Net:
    """A pool, and the peer's end of each connection that was made for it."""

    def __init__(self, stack: ExitStack, most: int) -> None:
        self._stack = stack
        self.statistics = Statistics(1).row(0)
        self.carried = Carried(self.statistics.ended)
        self.ends: list[socket.socket] = []
        self.fails = False
        poller = stack.enter_context(polling())
        self.made: list[Connection] = []
        self.forged: set[Connection] = set()
        self.pool = Pool(most, self.make, self.counts, poller, self.carried, self.statistics)

    async def make(self, peer: str) -> Connection:
        await asyncio.sleep(0)
        if peer != PEER.name:
            raise OSError("no such peer")
        if self.fails:
            raise OSError("no path")
        connection, end = connected(ReadyConnection, self.carried.end)
        self.ends.append(self._stack.enter_context(end))
        self.made.append(connection)
        return connection

    def counts(self, connection: Connection) -> bool:
        return connection not in self.forged

    def ask(self, times: int = 1) -> None:
        for _ in range(times):
            assert self.pool.take(PEER.name) is None

    async def taken(self) -> Connection:
        """Take one when it is ready."""
        await until(lambda: self.ready > 0)
        connection = self.pool.take(PEER.name)
        assert connection is not None
        return connection

    @property
    def ready(self) -> int:
        return self.statistics.value(Counter.POOL_OPEN)


@asynccontextmanager
async def pooling(most: int = 100) -> AsyncIterator[Net]:
    with ExitStack() as stack:
        net = Net(stack, most)
        running = asyncio.create_task(net.pool.run())
        await asyncio.sleep(0)
        try:
            yield net
        finally:
            running.cancel()
            await asyncio.wait([running])
            assert net.ready == 0


async def is_over(end: socket.socket) -> bool:
    try:
        return not await asyncio.get_running_loop().sock_recv(end, 1)
    except ConnectionResetError:
        return True


@asynchronous
async def test_a_request_has_connections_made_for_the_next_ones() -> None:
    async with pooling() as net:
        net.ask(3)
        await until(lambda: net.ready == 3)
        taken = await net.taken()
        with taken.far:
            assert net.pool.take("another peer") is None
            await until(lambda: net.ready == 4 and len(net.ends) == 5)
            await asyncio.get_running_loop().sock_sendall(taken.far, b"?")


@asynchronous
async def test_no_more_than_the_most_are_made() -> None:
    async with pooling() as net:
        net.ask(MOST_READY * 2)
        await until(lambda: net.ready == MOST_READY)
        assert len(net.ends) == MOST_READY
    async with pooling(most=2) as net:
        net.ask(5)
        await until(lambda: net.ready == 2)
        assert len(net.ends) == 2


@asynchronous
async def test_one_request_now_and_then_finds_a_ready_connection_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(demand, "_BURST_SECONDS", 0.0)
    async with pooling() as net:
        net.ask()
        for made in range(1, 4):
            (await net.taken()).close()
            await until(lambda made=made: len(net.ends) == made + 1)  # type: ignore[misc]


@asynchronous
async def test_one_that_breaks_is_dropped_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.01)
    async with pooling() as net:
        net.ask(2)
        await until(lambda: net.ready == 2)
        net.ends[0].close()
        await until(lambda: len(net.ends) == 3)
        await until(lambda: net.ready == 2)


@asynchronous
async def test_what_cannot_be_made_is_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.01)
    async with pooling() as net:
        net.fails = True
        net.ask()
        await asyncio.sleep(0.05)
        net.fails = False
        await until(lambda: net.ready == 1)


@asynchronous
async def test_idle_ones_are_given_up_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEEP_SECONDS", 0.01)
    async with pooling() as net:
        net.ask(2)
        await until(lambda: len(net.ends) == 2)
        monkeypatch.setattr(demand, "KEEP_SECONDS", 0.0)
        for end in net.ends:
            assert await asyncio.get_running_loop().sock_recv(end, 1) == b""  # and no reset
        await until(lambda: net.ready == 0)


@asynchronous
async def test_one_that_is_given_back_is_ready_again_if_it_is_wanted() -> None:
    async with pooling() as net:
        net.ask(2)
        await until(lambda: net.ready == 2)
        net.fails = True
        taken = await net.taken()
        await until(lambda: net.ready == 1)
        net.pool.give_back(taken)
        await until(lambda: net.ready == 2)
        assert len(net.ends) == 2
        net.fails = False
        more = [await net.make(PEER.name) for _ in range(3)]
        for one in more:
            net.pool.give_back(one)
        assert await is_over(net.ends[4])


@asynchronous
async def test_ones_that_are_not_good_any_more_are_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.01)
    async with pooling() as net:
        net.ask(2)
        await until(lambda: net.ready == 2)
        bad = net.ends[0].getsockname()
        net.pool.renew(lambda one: one.far.getpeername() != bad)
        assert await is_over(net.ends[0])
        await until(lambda: net.ready == 2)
        assert len(net.ends) == 3


@asynchronous
async def test_a_changed_federation_file_ends_ready_ones() -> None:
    async with pooling() as net:
        net.ask(2)
        await until(lambda: net.ready == 2)
        seen: list[PeerConnection] = []

        def why(connection: PeerConnection) -> str:
            seen.append(connection)
            return "the peer has gone"

        assert await net.carried.reset(why) == 2
        assert seen == [PeerConnection(Direction.OUTBOUND, PEER.name)] * 2
        assert net.ready == 0
        for end in net.ends:
            assert await is_over(end)


@asynchronous
async def test_one_that_is_taken_is_not_ended_with_those_that_are_ready() -> None:
    async with pooling() as net:
        net.ask(1)
        taken = await net.taken()
        await net.carried.reset(lambda _: "all")
        await asyncio.get_running_loop().sock_sendall(taken.far, b"?")
        assert await asyncio.get_running_loop().sock_recv(net.ends[0], 1) == b"?"
        taken.close()


@asynchronous
async def test_one_whose_server_says_that_it_leaves_is_ended_and_another_is_made() -> None:
    async with pooling() as net:
        net.ask()
        await until(lambda: net.ready == 1)
        net.ends[0].send(encode_reply(Reply.LEAVING))
        await until(lambda: net.ready == 0)
        with pytest.raises(ConnectionResetError):
            net.ends[0].recv(1)


@asynchronous
async def test_what_counts_no_more_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The federation file changed while it was being made, or asked on."""
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.01)
    async with pooling() as net:
        net.ask()
        taken = await net.taken()
        await until(lambda: len(net.made) == net.ready + 1 > 1)
        net.forged = set(net.made)
        net.pool.give_back(taken)
        assert net.pool.take(PEER.name) is None
        for end in net.ends[: len(net.forged)]:
            assert await is_over(end)
        good = await net.taken()
        with good.far:
            assert good not in net.forged


@asynchronous
async def test_a_peer_that_answers_on_newer_ones_has_lost_the_older(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SURE_SECONDS", 1000.0)
    async with pooling(most=2) as net:
        net.ask(2)
        await until(lambda: net.ready == 2)
        now = asyncio.get_running_loop().time()
        assert not net.pool.is_answered(PEER.name, now)
        await until(lambda: net.ready == 3)  # one more is made, and one only
        assert not net.pool.is_answered(PEER.name, now)
        monkeypatch.setattr(module, "SURE_SECONDS", 0.0)
        assert net.pool.is_answered(PEER.name, now)
        assert len(net.ends) == 3
        for end in net.ends[:2]:
            assert await is_over(end)
        with pytest.raises(BlockingIOError):
            net.ends[2].recv(1)


@asynchronous
async def test_a_peer_that_answers_nowhere_is_asked_for_another_connection_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(module, "SURE_SECONDS", 1000.0)
    async with pooling() as net:
        net.ask()
        await until(lambda: net.ready == 1)
        net.fails = True
        now = asyncio.get_running_loop().time()
        for _ in range(5):
            assert not net.pool.is_answered(PEER.name, now)
            await asyncio.sleep(0.01)
        assert net.ready == 1
        net.fails = False
        monkeypatch.setattr(module, "SURE_SECONDS", 0.0)
        await until(lambda: net.pool.is_answered(PEER.name, now))


@asynchronous
async def test_behind_its_end_it_still_finds_out_whether_a_peer_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SURE_SECONDS", 0.0)
    async with pooling() as net:
        net.ask()
        await until(lambda: net.ready == 1)
    now = asyncio.get_running_loop().time()
    await until(lambda: net.pool.is_answered(PEER.name, now))
    assert len(net.made) == 2
    await until(lambda: net.made[1].far.fileno() == -1)
    net.ask()
    assert net.ready == 0
