"""Interfaces that lose their carrier are seen, whatever the kernel tells of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest

from fedsdn import namespace
from fedsdn.uplinks.links import Links
from tests.real.cables import Joined, joined
from tests.unit.loopback import asynchronous

pytestmark = pytest.mark.real

WIRES = ("wire0", "wire1")
NONE: Set[str] = frozenset()


@pytest.fixture(scope="module")
def ends() -> Iterator[tuple[Joined, Joined]]:
    with joined([[], []]) as ends:
        yield ends


@asynccontextmanager
async def looking(near: Joined, *names: str) -> AsyncIterator[asyncio.Queue[Set[str]]]:
    """Look at interfaces meanwhile; yield what is told."""
    told: asyncio.Queue[Set[str]] = asyncio.Queue()
    with ThreadPoolExecutor(1, initializer=namespace.enter, initargs=(near.name,)) as executor:
        task = asyncio.create_task(Links(lambda: names, told.put_nowait, executor).run())
        try:
            yield told
        finally:
            task.cancel()
            await asyncio.wait([task])


@asynchronous
async def test_two_that_are_lost_together_are_both_seen_and_so_is_their_return(
    ends: tuple[Joined, Joined],
) -> None:
    near, far = ends
    async with looking(near, *WIRES, "none", "longer-than-an-interface's") as told:
        for _ in range(3):
            seen = NONE
            for wire in WIRES:
                far.run("ip", "link", "set", wire, "down")
            while seen != frozenset(WIRES):
                seen = await told.get()
            for wire in WIRES:
                far.run("ip", "link", "set", wire, "up")
            while seen != NONE:
                seen = await told.get()


@asynchronous
async def test_one_that_is_set_down_has_lost_nothing(ends: tuple[Joined, Joined]) -> None:
    near, far = ends
    near.run("ip", "link", "set", WIRES[0], "down")
    try:
        async with looking(near, *WIRES) as told:
            far.run("ip", "link", "set", WIRES[1], "down")
            assert await told.get() == {WIRES[1]}
            far.run("ip", "link", "set", WIRES[1], "up")
            assert await told.get() == NONE
    finally:
        near.run("ip", "link", "set", WIRES[0], "up")
