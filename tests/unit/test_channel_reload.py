"""The federation file is read again by all workers, on a word that comes by the channel."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from fedsdn.channel import ask, server
from fedsdn.pipeline.restore import Restoration
from tests.unit.channel_ends import application, at, run, until, worker

FOR_EVER = 1000.0


def test_a_worker_that_finds_the_application_reads_the_file(tmp_path: Path) -> None:
    """It may have changed while nobody could tell of that."""

    async def scenario(path: Path) -> None:
        application(path)
        async with worker(path) as one:
            await until(lambda: one.reloads == 1)

    run(scenario, tmp_path / "channel")


def test_a_reload_returns_when_all_workers_have_reset_what_they_must(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "RELOAD_SECONDS", FOR_EVER)

    async def scenario(path: Path) -> None:
        channel, _ = application(path)
        async with worker(path) as one, worker(path) as other:
            await until(lambda: one.reloads and other.reloads)
            one.may_reload.clear()
            reloading = asyncio.create_task(channel.reload())
            await until(lambda: (one.reloads, other.reloads) == (2, 2))
            assert not reloading.done()
            one.may_reload.set()
            assert await reloading == 6

    run(scenario, tmp_path / "channel")


def test_a_reload_does_not_wait_for_a_worker_that_hangs_or_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "RELOAD_SECONDS", FOR_EVER)

    async def scenario(path: Path) -> None:
        channel, _ = application(path)
        async with worker(path) as one:
            async with worker(path) as ending:
                await until(lambda: one.reloads and ending.reloads)
                ending.may_reload.clear()
                reloading = asyncio.create_task(channel.reload())
                await until(lambda: ending.reloads == 2)
            assert await reloading == 3
            one.may_reload.clear()
            monkeypatch.setattr(server, "RELOAD_SECONDS", 0.01)
            assert await channel.reload() == 0

    run(scenario, tmp_path / "channel")


def test_an_answer_that_comes_late_leaves_the_channel_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "RELOAD_SECONDS", 0.01)

    async def scenario(path: Path) -> None:
        channel, _ = application(path)
        async with worker(path) as one:
            await until(lambda: one.reloaded == 1)
            one.may_reload.clear()
            assert await channel.reload() == 0
            await until(lambda: one.reloads == 2)
            one.may_reload.set()
            await until(lambda: one.reloaded == 2)
            await one.client.restore(Restoration(at(5), at(5), at(80)))
            assert one.reloads == 2, "a worker with a new channel reads the file again"

    run(scenario, tmp_path / "channel")


def test_a_command_has_the_workers_reload_and_needs_no_application(tmp_path: Path) -> None:
    async def scenario(path: Path) -> None:
        await asyncio.to_thread(ask.reload, path)
        application(path)
        async with worker(path) as one:
            await until(lambda: one.reloads == 1)
            await asyncio.to_thread(ask.reload, path)
            assert one.reloads == 2

    run(scenario, tmp_path / "channel")
