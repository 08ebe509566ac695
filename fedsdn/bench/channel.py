"""What the channel costs the application beside many connections that move bytes.

The channel is the real one: its server in a process of its own, whose processor time counts, and a
worker's client that reports as the proxy does. Connections, bridge and uplinks are made up.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from ipaddress import ip_address
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from tempfile import TemporaryDirectory

from fedsdn.channel.ask import open_connections
from fedsdn.channel.client import TRAFFIC_SECONDS, ChannelClient
from fedsdn.channel.connection import Connection, Direction
from fedsdn.channel.report import Report
from fedsdn.channel.server import Channel
from fedsdn.socket_address import SocketAddress

_SETTLE_SECONDS = 2.0
_LIMIT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class ChannelCost:
    """Processor time of the application, in seconds per second.

    ``moving`` is spent on what the proxy tells, ``listing`` in addition on a command that asks for
    all connections once a second.
    """

    connections: int
    moving: float
    listing: float


def measure(connections: int, seconds: float) -> ChannelCost:
    """Report ``connections`` that move all the time, and measure twice for so many seconds."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with TemporaryDirectory(prefix="fedsdn-bench-") as directory:
        path = Path(directory) / "channel.sock"
        server = context.Process(target=_serve, args=(path, theirs), daemon=True)
        server.start()
        try:
            if not ours.poll(_LIMIT_SECONDS):
                raise TimeoutError("the server's process does not start")
            ours.recv()
            return asyncio.run(_load(path, ours, connections, seconds))
        finally:
            server.terminate()
            server.join()


def _serve(path: Path, pipe: Pipe) -> None:
    """Be the application's side; answer every question with the processor time used so far."""

    async def restore(_wanted: object) -> list[str | None]:
        return []

    async def main() -> None:
        channel = Channel(path, "a", restore)
        loop = asyncio.get_running_loop()
        loop.add_reader(pipe.fileno(), lambda: pipe.send((pipe.recv(), time.process_time())))
        pipe.send("listening")
        await channel.run()

    asyncio.run(main())


async def _load(path: Path, pipe: Pipe, connections: int, seconds: float) -> ChannelCost:
    report = Report()
    client = ChannelClient(path, 0, report, lambda _status: None, _reload)
    with ExitStack() as stack:
        every = [
            stack.enter_context(_carried(report, _address(number), number))
            for number in range(1, connections + 1)
        ]
        tasks = [asyncio.create_task(client.run()), asyncio.create_task(_move(every))]
        async with asyncio.timeout(_LIMIT_SECONDS):
            while len(await asyncio.to_thread(open_connections, path)) < connections:
                await asyncio.sleep(0.1)
        await asyncio.sleep(_SETTLE_SECONDS)
        moving = await _spent(pipe, seconds)
        tasks.append(asyncio.create_task(_list(path)))
        both = await _spent(pipe, seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return ChannelCost(connections, moving, both - moving)


async def _spent(pipe: Pipe, seconds: float) -> float:
    before = await asyncio.to_thread(_asked, pipe)
    began = time.monotonic()
    await asyncio.sleep(seconds)
    spent = await asyncio.to_thread(_asked, pipe) - before
    return spent / (time.monotonic() - began)


def _asked(pipe: Pipe) -> float:
    pipe.send("how much")
    _, spent = pipe.recv()
    return float(spent)


async def _move(every: list[Connection]) -> None:
    while True:
        for one in every:
            one.sent += 1000
            one.received += 1000
        await asyncio.sleep(TRAFFIC_SECONDS / 2)


async def _list(path: Path) -> None:
    while True:
        await asyncio.to_thread(open_connections, path)
        await asyncio.sleep(1)


async def _reload() -> int:
    return 0


def _carried(report: Report, own: SocketAddress, token: int) -> AbstractContextManager[Connection]:
    return report.carried(Direction.OUTBOUND, "b", own, own, own, token)


def _address(number: int) -> SocketAddress:
    return SocketAddress(ip_address(f"10.1.{number >> 8 & 255}.{number & 255}"), 40000)
