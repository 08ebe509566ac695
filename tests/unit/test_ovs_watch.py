"""News from Open vSwitch's database: however they are cut, and for as long as it lives."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from fedsdn.ovs.watch import port_changes
from tests.unit.fake_database import UPDATE, FakeDatabase

ECHO = b'{"id":"echo","method":"echo","params":["\xc3\xa9"]}'

Scenario = Callable[[FakeDatabase, asyncio.Queue[str]], Coroutine[Any, Any, None]]


def run(path: Path, scenario: Scenario) -> None:
    """Watch a database while a scenario runs; its queue gets "news" and, at last, "end"."""

    async def main() -> None:
        database, seen = FakeDatabase(), asyncio.Queue[str]()

        async def watch() -> None:
            async for _ in port_changes(path):
                seen.put_nowait("news")
            seen.put_nowait("end")

        async with asyncio.timeout(60), await asyncio.start_unix_server(database.serve, path):
            watching = asyncio.create_task(watch())
            assert await seen.get() == "news", "before any: what was there is to be read now"
            await scenario(database, seen)
            database.end()
            await watching
            assert [seen.get_nowait() for _ in range(seen.qsize())] == ["end"]

    asyncio.run(main())


def test_news_are_told_however_they_are_cut(tmp_path: Path) -> None:
    async def scenario(database: FakeDatabase, seen: asyncio.Queue[str]) -> None:
        for byte in UPDATE + ECHO + UPDATE:
            database.write(bytes([byte]))
            await asyncio.sleep(0)
        assert [await seen.get(), await seen.get()] == ["news", "news"]
        database.write(UPDATE + b"\n" + UPDATE)
        assert [await seen.get(), await seen.get()] == ["news", "news"]

    run(tmp_path / "db.sock", scenario)


def test_a_database_that_asks_whether_we_live_gets_an_answer(tmp_path: Path) -> None:
    async def scenario(database: FakeDatabase, seen: asyncio.Queue[str]) -> None:
        database.write(ECHO)
        assert json.loads(await database.heard.get()) == {
            "id": "echo",
            "result": ["\u00e9"],
            "error": None,
        }
        assert seen.empty()

    run(tmp_path / "db.sock", scenario)


def test_without_a_database_it_says_so(tmp_path: Path) -> None:
    async def watch() -> None:
        async for _ in port_changes(tmp_path / "none"):
            pass

    with pytest.raises(OSError, match="No such file"):
        asyncio.run(watch())
