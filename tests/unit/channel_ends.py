"""Workers and the application on a real channel. The bridge is a function of the tests' own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from fedsdn.channel.client import ChannelClient
from fedsdn.channel.messages import PathsMessage
from fedsdn.channel.report import Report
from fedsdn.channel.server import Channel
from fedsdn.pipeline.restore import Restoration
from fedsdn.socket_address import SocketAddress

LIMIT = 30.0


def at(port: int) -> SocketAddress:
    return SocketAddress(ip_address("10.1.0.11"), port)


class Bridge:
    """Notes what it is asked to restore; refuses what comes from port 1."""

    def __init__(self) -> None:
        self.batches: list[list[Restoration]] = []

    async def restore(self, wanted: Iterable[Restoration]) -> list[str | None]:
        batch = list(wanted)
        self.batches.append(batch)
        return ["no" if one.own.port == 1 else None for one in batch]


class Worker:
    """A worker's side, with what it was told."""

    def __init__(self, path: Path) -> None:
        self.report = Report()
        self.told: list[PathsMessage] = []
        self.reloads = 0
        self.reloaded = 0
        self.may_reload = asyncio.Event()
        self.may_reload.set()
        self.needed: set[str] = set()
        self.client = ChannelClient(
            path, 0, self.report, self.told.append, self._reload, lambda: self.needed
        )

    async def _reload(self) -> int:
        self.reloads += 1
        await self.may_reload.wait()
        self.reloaded += 1
        return 3


@asynccontextmanager
async def worker(path: Path) -> AsyncIterator[Worker]:
    one = Worker(path)
    running = asyncio.create_task(one.client.run())
    try:
        yield one
    finally:
        running.cancel()


RUNNING: set[asyncio.Task[None]] = set()


def application(path: Path) -> tuple[Channel, Bridge]:
    bridge = Bridge()
    channel = Channel(path, "a", bridge.restore)
    RUNNING.add(asyncio.create_task(channel.run()))
    return channel, bridge


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(LIMIT):
        while not condition():
            await asyncio.sleep(0.01)


def run(scenario: Callable[[Path], Any], path: Path) -> None:
    asyncio.run(asyncio.wait_for(scenario(path), 3 * LIMIT))
