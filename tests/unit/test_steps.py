"""Costly steps: one in a round of the event loop, in rotation among addresses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fedsdn.proxy.admission.steps import Steps
from tests.unit.loopback import asynchronous


class Rounds:
    """Counts the rounds of the event loop."""

    def __init__(self) -> None:
        self.count = 0
        self.look: Callable[[], object] = lambda: None
        """Called first in each round."""
        self._again()

    def _again(self) -> None:
        self.count += 1
        self.look()
        self._handle = asyncio.get_running_loop().call_soon(self._again)

    def stop(self) -> None:
        self._handle.cancel()


class Callers:
    def __init__(self) -> None:
        self.steps = Steps()
        self.done: list[str] = []
        self.rounds = Rounds()
        self.at: list[int] = []

    async def step(self, address: str) -> None:
        async with self.steps.step(address):
            self.done.append(address)
            self.at.append(self.rounds.count)

    def call(self, addresses: str) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self.step(one)) for one in addresses]


@asynchronous
async def test_addresses_take_turns_and_there_is_one_step_in_a_round() -> None:
    callers = Callers()
    await asyncio.gather(*callers.call("aaaaaabc"))
    callers.rounds.stop()
    assert "".join(callers.done) == "aabcaaaa"
    assert len(set(callers.at)) == len(callers.at)


@asynchronous
async def test_of_one_address_the_last_comes_first() -> None:
    callers = Callers()
    order: list[int] = []

    async def step(number: int) -> None:
        async with callers.steps.step("a"):
            order.append(number)

    await asyncio.gather(*(asyncio.create_task(step(number)) for number in range(4)))
    callers.rounds.stop()
    assert order == [0, 3, 2, 1]


@asynchronous
async def test_who_is_shed_while_it_waits_or_when_its_turn_has_come_holds_up_nobody() -> None:
    callers = Callers()
    tasks = callers.call("abcd")
    await asyncio.sleep(0)
    tasks[1].cancel()
    (turn,) = callers.steps._waiting["c"]
    callers.rounds.look = lambda: turn.done() and tasks[2].cancel()
    await asyncio.wait(tasks)
    callers.rounds.stop()
    assert callers.done == ["a", "d"]
    await asyncio.gather(*callers.call("e"))
    assert callers.done == ["a", "d", "e"]


@asynchronous
async def test_nothing_is_kept_of_those_that_are_shed_while_more_come() -> None:
    callers = Callers()
    live: list[asyncio.Task[None]] = []
    most = 0
    for _ in range(200):
        live += callers.call("aab")
        while len(live) > 6:
            live.pop(0).cancel()
        await asyncio.sleep(0)
        most = max(most, sum(map(len, callers.steps._waiting.values())))
    await asyncio.wait(live)
    callers.rounds.stop()
    assert most <= 9
    assert not callers.steps._waiting


@asynchronous
async def test_a_step_that_fails_is_followed_by_the_next() -> None:
    callers = Callers()

    async def fail() -> None:
        async with callers.steps.step("x"):
            raise ConnectionResetError

    failing = asyncio.create_task(fail())
    tasks = callers.call("ab")
    await asyncio.wait([failing, *tasks])
    callers.rounds.stop()
    assert isinstance(failing.exception(), ConnectionResetError)
    assert sorted(callers.done) == ["a", "b"]
