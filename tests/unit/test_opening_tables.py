"""What workers know of destinations, and of the SYNs that they hold."""

from __future__ import annotations

import os
from ipaddress import ip_address

import pytest

from fedsdn.proxy.opening.tables import KNOWN_SECONDS, HeldTuples, KnownDestinations
from fedsdn.socket_address import SocketAddress

WEB = SocketAddress(ip_address("10.2.0.11"), 80)
SHELL = SocketAddress(ip_address("10.2.0.11"), 22)
WEB6 = SocketAddress(ip_address("fd00:2::11"), 80)
CLIENT = SocketAddress(ip_address("10.1.0.11"), 40000)


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def known(clock: Clock) -> KnownDestinations:
    return KnownDestinations(clock=clock)


def test_nothing_is_known_at_first(known: KnownDestinations) -> None:
    assert not known.listens(WEB)


def test_an_answer_makes_that_destination_known(known: KnownDestinations) -> None:
    known.learn(WEB, known.now())
    assert known.listens(WEB)
    assert not known.listens(SHELL)
    assert not known.listens(WEB6)


def test_it_is_known_for_some_minutes(known: KnownDestinations, clock: Clock) -> None:
    known.learn(WEB, known.now())
    clock.seconds += KNOWN_SECONDS - 1
    assert known.listens(WEB)
    clock.seconds += 2
    assert not known.listens(WEB)


def test_a_refusal_makes_it_unknown(known: KnownDestinations, clock: Clock) -> None:
    known.learn(WEB, known.now())
    clock.seconds += 1
    known.forget(WEB)
    assert not known.listens(WEB)


def test_an_answer_older_than_the_refusal_does_not_count(
    known: KnownDestinations, clock: Clock
) -> None:
    asked = known.now()
    clock.seconds += 1
    known.forget(WEB)
    clock.seconds += 1
    known.learn(WEB, asked)
    assert not known.listens(WEB)
    known.learn(WEB, known.now())
    assert known.listens(WEB)


def test_workers_share_what_they_know(known: KnownDestinations) -> None:
    known.learn(SHELL, known.now())
    worker = os.fork()
    if not worker:
        known.learn(WEB, known.now())
        known.forget(SHELL)
        os._exit(0)
    os.waitpid(worker, 0)
    assert known.listens(WEB)
    assert not known.listens(SHELL)


def test_a_held_syn_is_seen_by_all_until_it_is_released() -> None:
    held = HeldTuples(workers=3)
    worker = os.fork()
    if not worker:
        held.hold(2, CLIENT, WEB)
        os._exit(0)
    os.waitpid(worker, 0)
    assert held.is_held(CLIENT, WEB)
    assert not held.is_held(WEB, CLIENT)
    assert not held.is_held(CLIENT, WEB6)
    held.release(0, CLIENT, WEB)
    assert held.is_held(CLIENT, WEB), "another worker's"
    held.release(2, CLIENT, WEB)
    assert not held.is_held(CLIENT, WEB)


def test_what_a_worker_held_ends_with_it() -> None:
    held = HeldTuples(workers=2)
    held.hold(0, CLIENT, WEB)
    held.hold(1, CLIENT, SHELL)
    held.release_all(0)
    assert not held.is_held(CLIENT, WEB)
    assert held.is_held(CLIENT, SHELL)


def test_a_full_table_holds_what_it_has_room_for() -> None:
    held = HeldTuples(workers=1)
    clients = [SocketAddress(CLIENT.address, port) for port in range(1, 60_000)]
    for client in clients:
        held.hold(0, client, WEB)
    assert 12_000 < sum(held.is_held(client, WEB) for client in clients) <= 1 << 14
    for client in clients:
        held.release(0, client, WEB)
    assert not any(held.is_held(client, WEB) for client in clients)
