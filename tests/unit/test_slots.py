"""Slots for connections: nobody takes all of them, and who waits gets its turn or is refused."""

from __future__ import annotations

import asyncio

import pytest

from fedsdn.proxy.admission import slots as module
from fedsdn.proxy.admission.slots import Slots
from tests.unit.loopback import asynchronous, until

SHARE = 3 / 4


class Crowd:
    """Connections that run until they are told to end. A test leaves none that waits."""

    def __init__(self, most: int, waiting: int) -> None:
        self.slots = Slots(most, waiting)
        self.running: list[tuple[str, asyncio.Event]] = []
        self.refused: list[str] = []

    def come(self, owner: str, count: int = 1, share: float = SHARE) -> None:
        """Let some connections of an owner come."""
        for _ in range(count):
            self.slots.take(owner, share, lambda: self._run(owner), lambda: self._refuse(owner))

    async def _run(self, owner: str) -> None:
        end = asyncio.Event()
        self.running.append((owner, end))
        await end.wait()

    def _refuse(self, owner: str) -> None:
        self.refused.append(owner)

    def end(self, owner: str, count: int) -> None:
        ending = [one for one in self.running if one[0] == owner][:count]
        for one in ending:
            self.running.remove(one)
            one[1].set()

    async def settle(self) -> dict[str, int]:
        for _ in range(4):  # to end, to be noticed, to be followed, to begin
            await asyncio.sleep(0)
        owners = [owner for owner, _ in self.running]
        return {owner: owners.count(owner) for owner in sorted(set(owners))}


@asynchronous
async def test_one_that_takes_all_it_can_leaves_slots_to_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    crowd = Crowd(most=80, waiting=30)
    crowd.come("hog", 80)
    assert await crowd.settle() == {"hog": 60}
    crowd.come("vm", 10)
    assert await crowd.settle() == {"hog": 60, "vm": 10}
    assert [record.getMessage() for record in caplog.records] == [
        "hog has 60 of the 60 connections that this worker carries, of at most 80: its new ones "
        "wait until some end, 10 s at most, or are reset"
    ]
    crowd.slots.run_all()


@asynchronous
async def test_many_owners_may_have_all_slots() -> None:
    crowd = Crowd(most=80, waiting=30)
    for number in range(80):
        crowd.come(f"vm{number}")
    assert sum((await crowd.settle()).values()) == 80
    assert crowd.slots.full()
    crowd.slots.run_all()


@asynchronous
async def test_who_waits_runs_when_others_have_ended_in_the_order_they_came() -> None:
    crowd = Crowd(most=8, waiting=4)
    crowd.come("hog", 12)
    assert crowd.refused == ["hog"] * 2
    assert await crowd.settle() == {"hog": 6}
    crowd.end("hog", 1)
    assert await crowd.settle() == {"hog": 6}
    crowd.end("hog", 6)
    assert await crowd.settle() == {"hog": 3}
    assert crowd.refused == ["hog"] * 2
    crowd.slots.run_all()


@asynchronous
async def test_who_waits_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.05)
    crowd = Crowd(most=8, waiting=4)
    crowd.come("hog", 10)
    await until(lambda: crowd.refused == ["hog"] * 4)
    crowd.end("hog", 6)
    assert await crowd.settle() == {}
    crowd.slots.run_all()


@asynchronous
async def test_those_who_wait_have_their_turns_in_rotation() -> None:
    crowd = Crowd(most=8, waiting=20)
    crowd.come("x", 6)
    for owner in ("x", "y", "z"):
        crowd.come(owner, 5)
    assert (await crowd.settle())["x"] == 6
    crowd.end("x", 6)
    after = await crowd.settle()
    assert set(after) == {"x", "y", "z"}
    assert set(after.values()) <= {2, 3}
    crowd.slots.run_all()


@asynchronous
async def test_all_that_wait_can_be_let_in() -> None:
    crowd = Crowd(most=8, waiting=4)
    crowd.come("hog", 10)
    crowd.slots.run_all()
    assert await crowd.settle() == {"hog": 10}


@asynchronous
async def test_a_peer_may_have_more_than_a_vm() -> None:
    """What one VM may open at a site does not take all that the other site gives to its peer."""
    crowd = Crowd(most=80, waiting=30)
    crowd.come("hog", 60, share=5 / 8)
    crowd.come("peer", 40, share=7 / 8)
    assert await crowd.settle() == {"hog": 50, "peer": 27}
    crowd.slots.run_all()
