"""The application's channel ends while somebody comes."""

from __future__ import annotations

import asyncio
import gc
import socket
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pytest

from fedsdn.channel.server import Channel
from fedsdn.pipeline.restore import Restoration

LIMIT_S = 30.0


async def restore(wanted: Iterable[Restoration]) -> list[str | None]:
    return [None for _ in wanted]


async def come_as_it_ends(path: Path, turns: int) -> list[object]:
    """Connect, and end the channel so many turns of the loop later; return what was logged."""
    logged: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: logged.append(context))
    channel = Channel(path, "a", restore)
    running = asyncio.create_task(channel.run())
    with socket.socket(socket.AF_UNIX) as late:
        late.connect(str(path))
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    return logged


@pytest.mark.parametrize("turns", range(12))
def test_who_comes_as_it_ends_is_no_fault(tmp_path: Path, turns: int) -> None:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        path = tmp_path / "channel.sock"
        logged = asyncio.run(asyncio.wait_for(come_as_it_ends(path, turns), LIMIT_S))
        gc.collect()
    assert [str(one.message) for one in warned if "never awaited" in str(one.message)] == []
    assert logged == []
