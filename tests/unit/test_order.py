"""The order of requests: which one comes after which, and when the server begins it."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

import pytest

from fedsdn.proxy.socks import sequence as module
from fedsdn.proxy.socks.order import Order
from fedsdn.proxy.socks.sequence import Begun, Sequence
from fedsdn.socket_address import SocketAddress
from tests.unit.loopback import asynchronous, until

SERVER = SocketAddress(ip_address("10.2.0.11"), 80)
OTHER_PORT = SocketAddress(ip_address("10.2.0.11"), 81)


def client(port: int, address: str = "10.1.0.11") -> SocketAddress:
    return SocketAddress(ip_address(address), port)


def test_a_request_comes_after_the_unanswered_one_before_it() -> None:
    order = Order(0)
    with (
        order.asking(client(1), SERVER) as (first, after_none),
        order.asking(client(2), SERVER) as (second, after_first),
        order.asking(client(3), SERVER) as (_, after_second),
    ):
        assert (after_none, after_first, after_second) == (0, first, second)


def test_an_answered_request_keeps_nobody_waiting() -> None:
    order = Order(0)
    with order.asking(client(1), SERVER):
        pass
    with order.asking(client(2), SERVER) as (_, after):
        assert after == 0
    assert order._last == {}


@pytest.mark.parametrize(
    ("who", "whom"), [(client(2), OTHER_PORT), (client(2, "10.1.0.12"), SERVER)]
)
def test_other_clients_and_ports_do_not_wait(who: SocketAddress, whom: SocketAddress) -> None:
    order = Order(0)
    with order.asking(client(1), SERVER), order.asking(who, whom) as (_, after):
        assert after == 0


def test_numbers_are_never_the_same_and_never_none() -> None:
    workers = [Order(0), Order(1)]
    workers[0]._place = (1 << 26) - 3  # it begins again soon
    seen = set()
    for _ in range(10):
        for worker in workers:
            with worker.asking(client(1), SERVER) as (number, _):
                assert 0 < number < 1 << 32
                seen.add(number)
    assert len(seen) == 20


@pytest.mark.parametrize("same", [True, False], ids=["the same worker", "another worker"])
@asynchronous
async def test_requests_begin_one_after_the_other(
    same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FOLLOW_SECONDS", 1000.0)
    shared = Begun()
    workers = [Sequence(shared)] * 2 if same else [Sequence(shared), Sequence(shared)]
    done: list[int] = []

    async def begin(number: int) -> None:
        sequence = workers[number % 2]
        with sequence.beginning("a", number) as begun:
            await sequence.turn("a", number - 1)
            done.append(number)
            begun()
            await asyncio.sleep(0)

    waiting = [asyncio.create_task(begin(number)) for number in range(20, 1, -1)]
    await asyncio.sleep(0.01)
    assert not done
    await begin(1)
    await asyncio.gather(*waiting)
    assert done == list(range(1, 21))
    assert not any(sequence._waiting for sequence in workers)


@asynchronous
async def test_a_request_that_failed_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "FOLLOW_SECONDS", 1000.0)
    sequence = Sequence(Begun())
    with sequence.beginning("a", 1):
        pass
    await sequence.turn("a", 1)
    await sequence.turn("a", 0)


@asynchronous
async def test_one_that_never_arrives_is_not_waited_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "FOLLOW_SECONDS", 0.01)
    sequence = Sequence(Begun())
    with sequence.beginning("b", 1):
        await sequence.turn("a", 1)
    await until(lambda: not sequence._waiting)
