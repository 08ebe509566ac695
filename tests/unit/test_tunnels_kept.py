"""When the application looks at the tunnels' interfaces, and when it does not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest

from fedsdn.controller import tunnels
from fedsdn.controller.tunnels import Tunnels
from fedsdn.tunnels.configuration import Identities
from fedsdn.tunnels.configure import Memory
from tests.unit.federations import two_sites
from tests.unit.loopback import asynchronous


class Looks:
    """Takes the place of what asks the interfaces; each look costs so much of a processor."""

    def __init__(self, spent: float) -> None:
        self.number, self.spent = 0, spent

    def configure(self, *arguments: object) -> tuple[str, ...]:
        memory = arguments[-1]
        assert isinstance(memory, Memory)
        time.sleep(0.01)  # as it waits for who hangs
        self.number += 1
        memory.spent = self.spent
        return ()

    async def reach(self, number: int) -> None:
        while self.number < number:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def keeping(looks: Looks, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Tunnels]:
    monkeypatch.setattr(tunnels, "configure", looks.configure)
    with ThreadPoolExecutor(1) as executor:
        kept = Tunnels("none", "a", two_sites, executor, frozenset, lambda _: None)
        task = asyncio.create_task(kept.run())
        try:
            yield kept
        finally:
            task.cancel()
            await asyncio.wait([task])


@asynchronous
async def test_looks_that_cost_much_have_pauses_whoever_asks_for_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = Looks(spent=1000.0)
    async with keeping(looks, monkeypatch) as kept:
        await looks.reach(1)
        for _ in range(20):
            kept.look()
            await asyncio.sleep(0.01)
        assert looks.number == 1
        kept.look_at_once()
        await looks.reach(2)
        kept.identify(Identities())
        await looks.reach(3)


@asynchronous
async def test_no_pause_is_longer_than_tunnels_can_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnels, "_MOST_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(tunnels, "_CHECK_SECONDS", 0.1)
    looks = Looks(spent=1000.0)
    async with keeping(looks, monkeypatch):
        await looks.reach(3)


@asynchronous
async def test_waiting_for_one_that_hangs_makes_no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnels, "_SHARE", 1e6)
    monkeypatch.setattr(tunnels, "_CHECK_SECONDS", 0.1)
    looks = Looks(spent=0.0)
    async with keeping(looks, monkeypatch):
        await looks.reach(3)


@asynchronous
async def test_what_is_asked_for_during_a_rest_is_looked_at_behind_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tunnels, "_CHECK_SECONDS", 1000.0)
    looks = Looks(spent=0.0)
    async with keeping(looks, monkeypatch) as kept:
        await looks.reach(1)
        kept.look()
        await looks.reach(2)
