"""Turns to be connected: few addresses at a time, in rotation among clients."""

from __future__ import annotations

import asyncio
import errno
from contextlib import suppress
from ipaddress import ip_address

import pytest

from fedsdn.proxy.admission import turns as module
from fedsdn.proxy.admission.turns import PLACES, Turns
from tests.unit.loopback import asynchronous, until

WORKERS = 4
EACH = PLACES // WORKERS
SHARE = EACH // 8


@pytest.fixture(autouse=True)
def no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless a test says so: a busy machine may take seconds for a turn of the loop."""
    monkeypatch.setattr(module, "FINDING_SECONDS", 1000.0)
    monkeypatch.setattr(module, "WAIT_SECONDS", 1000.0)


def address(number: int) -> str:
    return f"fd00:2::{number:x}"


class Crowd:
    """Clients that ask for addresses, and stay until they are told to go."""

    def __init__(self) -> None:
        self.turns = Turns(WORKERS)
        self.asking: dict[tuple[str, str], asyncio.Event] = {}
        self.unreachable: list[str] = []
        self.tasks: set[asyncio.Task[None]] = set()

    def come(self, client: str, *destinations: str) -> None:
        for destination in destinations:
            self.tasks.add(asyncio.create_task(self._ask(client, destination)))

    async def _ask(self, client: str, destination: str) -> None:
        end = asyncio.Event()
        try:
            async with self.turns.turn(client, ip_address(destination)):
                self.asking[client, destination] = end
                try:
                    await end.wait()
                finally:
                    del self.asking[client, destination]
        except OSError as error:
            self.unreachable.append(client if error.errno == errno.ETIMEDOUT else str(error))

    def of(self, client: str) -> int:
        return sum(one == client for one, _ in self.asking)

    def end_one(self, client: str) -> None:
        next(end for (one, _), end in self.asking.items() if one == client).set()

    async def leave(self) -> None:
        for task in self.tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*self.tasks, return_exceptions=True)


@asynchronous
async def test_one_that_asks_for_many_addresses_waits_and_others_do_not() -> None:
    crowd = Crowd()
    crowd.come("scanner", *map(address, range(500)))
    await until(lambda: crowd.of("scanner") == SHARE)
    crowd.come("vm", address(1000))
    await until(lambda: crowd.of("vm") == 1)
    assert crowd.of("scanner") == SHARE
    await crowd.leave()


@asynchronous
async def test_any_number_may_ask_for_the_same_address() -> None:
    crowd = Crowd()
    for number in range(200):
        crowd.come(f"vm{number % 3}", address(1))
    await asyncio.sleep(0)
    crowd.come("vm0", *[address(1)] * 50)
    await until(lambda: len(crowd.asking) == 3)  # by client and address
    assert not crowd.unreachable
    await crowd.leave()


@asynchronous
async def test_with_many_scanners_no_more_are_asked_for_than_there_are_places() -> None:
    crowd = Crowd()
    for scanner in range(20):
        crowd.come(f"scanner{scanner}", *map(address, range(100 * scanner, 100 * scanner + 100)))
    await until(lambda: len(crowd.asking) == EACH)
    crowd.come("vm", address(5000))
    await asyncio.sleep(0)
    assert (crowd.of("vm"), len(crowd.asking)) == (0, EACH)
    # It comes after one turn of each that was there before it, at most.
    for _ in range(20):
        if crowd.of("vm"):
            break
        first = next(iter(crowd.asking))[0]
        crowd.end_one(first)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await until(lambda: len(crowd.asking) == EACH)
    assert crowd.of("vm") == 1
    await crowd.leave()


@asynchronous
async def test_who_asks_long_enough_gives_its_place_to_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "FINDING_SECONDS", 0.05)
    crowd = Crowd()
    crowd.come("scanner", *map(address, range(3 * SHARE)))
    await until(lambda: crowd.of("scanner") == 3 * SHARE)
    await crowd.leave()


@asynchronous
async def test_who_waits_too_long_or_with_too_many_is_unreachable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "WAITING", 20)
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.1)
    crowd = Crowd()
    crowd.come("scanner", *map(address, range(SHARE + 30)))
    await until(lambda: len(crowd.unreachable) >= 10)  # at once
    await until(lambda: len(crowd.unreachable) == 30)
    assert crowd.of("scanner") == SHARE
    crowd.end_one("scanner")
    crowd.come("scanner", address(9999))
    await until(lambda: ("scanner", address(9999)) in crowd.asking)
    await crowd.leave()


@asynchronous
async def test_who_gives_up_leaves_its_turn_to_others() -> None:
    crowd = Crowd()
    crowd.come("scanner", *map(address, range(2 * SHARE)))
    await until(lambda: crowd.of("scanner") == SHARE)
    await crowd.leave()
    crowd.tasks.clear()
    assert not crowd.asking
    crowd.come("scanner", *map(address, range(SHARE)))
    await until(lambda: crowd.of("scanner") == SHARE)
    await crowd.leave()
