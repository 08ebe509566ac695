"""The order of requests: which one comes after which, among all workers of both sites."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

import pytest

from fedsdn.proxy.socks import sequence as module
from fedsdn.proxy.socks.order import Order, Unanswered
from fedsdn.proxy.socks.sequence import Sequence
from fedsdn.socket_address import SocketAddress
from tests.unit.loopback import asynchronous

SERVER = SocketAddress(ip_address("10.2.0.11"), 80)
OTHER_PORT = SocketAddress(ip_address("10.2.0.11"), 81)


def client(port: int, address: str = "10.1.0.11") -> SocketAddress:
    return SocketAddress(ip_address(address), port)


def test_a_request_comes_after_the_unanswered_one_of_any_worker() -> None:
    order = Order(2)
    one, other = order.of(0), order.of(1)
    with (
        one.asking(client(1), SERVER) as (first, after_none),
        other.asking(client(2), SERVER) as (second, after_first),
        one.asking(client(3), SERVER) as (_, after_second),
    ):
        assert (after_none, after_first, after_second) == (0, first, second)
        assert order.unanswered(first) == Unanswered(None)
        one.sent(first, 5)
        assert order.unanswered(first) == Unanswered(5)
    assert order.unanswered(first) is None


def test_an_answered_request_keeps_nobody_waiting() -> None:
    worker = Order(1).of(0)
    with worker.asking(client(1), SERVER):
        pass
    with worker.asking(client(2), SERVER) as (_, after):
        assert after == 0


@pytest.mark.parametrize(
    ("who", "whom"), [(client(2), OTHER_PORT), (client(2, "10.1.0.12"), SERVER)]
)
def test_other_clients_and_ports_do_not_wait(who: SocketAddress, whom: SocketAddress) -> None:
    worker = Order(1).of(0)
    with worker.asking(client(1), SERVER), worker.asking(who, whom) as (_, after):
        assert after == 0


def test_the_requests_of_a_worker_that_was_killed_keep_nobody_waiting() -> None:
    order = Order(2)
    killed = order.of(0).asking(client(1), SERVER)
    number, _ = killed.__enter__()
    anew = order.of(0)
    assert order.unanswered(number) is None
    with anew.asking(client(2), SERVER) as (_, after):
        assert after == 0


def test_numbers_are_never_the_same_and_never_none() -> None:
    order = Order(2)
    workers = [order.of(0), order.of(1)]
    workers[0]._place = (1 << 26) - 3  # it begins again soon
    seen = set()
    for _ in range(10):
        for worker in workers:
            with worker.asking(client(1), SERVER) as (number, _):
                assert 0 < number < 1 << 32
                seen.add(number)
    assert len(seen) == 20


@asynchronous
async def test_the_server_begins_a_request_after_the_one_before() -> None:
    sequence, done = Sequence(), []

    async def second() -> None:
        with sequence.beginning("a", 2):
            await sequence.turn("a", 1)
            done.append(2)

    waiting = asyncio.create_task(second())
    await asyncio.sleep(0)
    with sequence.beginning("a", 1) as begun:
        await asyncio.sleep(0)
        assert not done
        done.append(1)
        begun()
        await waiting
    assert done == [1, 2]


@asynchronous
async def test_a_request_that_failed_keeps_nobody_waiting() -> None:
    sequence = Sequence()
    with sequence.beginning("a", 1):
        pass
    await asyncio.wait_for(sequence.turn("a", 1), 0.1)
    await asyncio.wait_for(sequence.turn("a", 0), 0.1)


@asynchronous
async def test_one_that_never_arrives_is_not_waited_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "FOLLOW_SECONDS", 0.01)
    sequence = Sequence(most=10)
    with sequence.beginning("b", 1):
        await sequence.turn("a", 1)


@asynchronous
async def test_the_server_remembers_only_so_many() -> None:
    sequence = Sequence(most=10)
    for number in range(1, 100):
        with sequence.beginning("a", number):
            pass
    assert len(sequence._begun) == 10
