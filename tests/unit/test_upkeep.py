"""The task that keeps the namespace: how often it looks, and what it says."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from fedsdn.config.model import Federation
from fedsdn.controller import upkeep
from fedsdn.controller.upkeep import Upkeep
from fedsdn.errors import FedsdnError
from fedsdn.site.setup import Part
from tests.unit.federations import two_sites

BUSY_SECONDS = 0.02
LOOKS = 4


class BusyKeeper:
    """Somebody changes something all the time, and each look takes the processor for a while."""

    def __init__(self, *_words: str) -> None:
        self._told, far = socket.socketpair()
        far.send(b"news")
        self._far = far
        self.looks: list[float] = []

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        return (self._told,)

    def look(self, _federation: Federation) -> tuple[Part, ...]:
        self.looks.append(time.monotonic())
        until = time.thread_time() + BUSY_SECONDS
        while time.thread_time() < until:
            pass
        if len(self.looks) == LOOKS:
            raise FedsdnError("the kernel refuses")
        return (Part.RULES,)


def test_a_loop_of_changes_costs_a_tenth_of_a_core_and_a_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = BusyKeeper()
    monkeypatch.setattr(upkeep, "Keeper", lambda *_words: keeper)
    caplog.set_level(logging.WARNING)

    async def scenario() -> None:
        with ThreadPoolExecutor(1) as executor:
            task = asyncio.create_task(Upkeep("fedsdn", "a", two_sites, executor).run())
            while not any("refuses" in line for line in caplog.messages):
                await asyncio.sleep(0.01)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    asyncio.run(scenario())
    pauses = [after - before for before, after in zip(keeper.looks, keeper.looks[1:], strict=False)]
    assert min(pauses) >= 10 * BUSY_SECONDS
    assert caplog.messages == [
        "put back rules of network namespace fedsdn: changed by somebody else",
        "the kernel refuses; trying again",
    ]
