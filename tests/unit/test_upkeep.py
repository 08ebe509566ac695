"""The task that keeps the namespace: how often it looks, and what it says."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from fedsdn.config.model import Federation
from fedsdn.controller import upkeep
from fedsdn.controller.upkeep import Upkeep
from fedsdn.errors import FedsdnError
from fedsdn.site.setup import Part
from tests.unit.federations import two_sites

BUSY_SECONDS = 0.05
LOOKS = 3

CHILD = f"import time\nwhile time.process_time() < {BUSY_SECONDS}: pass"


def busy() -> None:
    until = time.thread_time() + BUSY_SECONDS
    while time.thread_time() < until:
        pass


def busy_thread() -> None:
    """As whatever is done inside the namespace."""
    with ThreadPoolExecutor(1) as inside:
        inside.submit(busy).result()


def busy_child() -> None:
    """As nft is."""
    subprocess.run([sys.executable, "-S", "-c", CHILD], check=True)


class BusyKeeper:
    """Somebody changes something all the time, and each look takes the processor for a while."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._told, far = socket.socketpair()
        far.send(b"news")
        self._far = far
        self.looks: list[float] = []
        self.looked_at: frozenset[Part] = frozenset()
        self.followed = False

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        return (self._told,)

    def look(self, _federation: Federation) -> tuple[Part, ...]:
        self.looks.append(time.monotonic())
        self._work()
        if len(self.looks) == LOOKS:
            raise FedsdnError("the kernel refuses")
        return (Part.RULES,)


@pytest.mark.parametrize("work", [busy, busy_thread, busy_child])
def test_a_loop_of_changes_costs_a_tenth_of_a_core_and_a_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, work: Callable[[], None]
) -> None:
    keeper = BusyKeeper(work)
    monkeypatch.setattr(upkeep, "Keeper", lambda *_words: keeper)
    caplog.set_level(logging.WARNING)

    async def scenario() -> None:
        with ThreadPoolExecutor(1) as executor:
            task = asyncio.create_task(Upkeep("fedsdn", "a", two_sites, executor).run())
            while not any("refuses" in line for line in caplog.messages):
                assert not task.done()
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
