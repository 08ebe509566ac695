"""Long work in an event loop that others wait for, too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import count
from typing import TypeVar

AT_ONCE = 200
"""So many flows are written or compared in less than 5 ms."""

Item = TypeVar("Item")


async def in_turns(
    items: Iterable[Item], numbers: Iterator[int] | None = None
) -> AsyncIterator[Item]:
    """Iterate, and let the loop's other tasks run every now and then: probes must not wait.

    Many short iterations are as long as a long one: ``numbers``, which they share, counts the items
    of all of them.
    """
    for item, number in zip(items, numbers or count(1), strict=False):
        yield item
        if number % AT_ONCE == 0:
            await asyncio.sleep(0)
