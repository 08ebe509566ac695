"""Following the files of a host's own keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from fedsdn import appearance
from fedsdn.identity import own_files
from fedsdn.identity.own_files import Version
from tests.unit.loopback import asynchronous


@pytest.fixture(autouse=True)
def told_by_the_kernel_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_files, "_LOOK_SECONDS", 1000.0)
    monkeypatch.setattr(own_files, "_SETTLE_SECONDS", 0.01)


@asynccontextmanager
async def followed(directory: Path, before: Version | None = None) -> AsyncIterator[asyncio.Event]:
    seen = asyncio.Event()
    following = asyncio.create_task(own_files.follow(directory, seen.set, before))
    try:
        yield seen
    finally:
        following.cancel()
        await asyncio.wait([following])


@asynchronous
async def test_what_changes_before_it_begins_is_seen(tmp_path: Path) -> None:
    before = own_files.version(tmp_path)
    (tmp_path / "a.pem").touch()
    async with followed(tmp_path, before) as seen:
        await seen.wait()


def replaced(file: Path) -> None:
    file.with_suffix(".new").touch()
    file.with_suffix(".new").replace(file)


def restored(file: Path) -> None:
    """As an operator would put all back from a backup."""
    file.parent.rename(file.parent.with_suffix(".bad"))
    file.parent.mkdir()
    file.touch()


CHANGES: dict[str, Callable[[Path], object]] = {
    "taken away": lambda file: file.unlink(),
    "written": lambda file: file.write_text("another"),
    "replaced": replaced,
    "modes": lambda file: file.chmod(0o600),
    "restored": restored,
}


@pytest.mark.parametrize("change", CHANGES)
@asynchronous
async def test_every_change_is_seen(tmp_path: Path, change: str) -> None:
    file = tmp_path / "identity" / "a.pem"
    file.parent.mkdir()
    file.touch(0o644)
    async with followed(file.parent) as seen:
        await asyncio.sleep(0)  # it watches from now on
        CHANGES[change](file)
        await seen.wait()


@asynchronous
async def test_a_directory_that_comes_later_is_seen(tmp_path: Path) -> None:
    directory = tmp_path / "etc" / "identity"
    async with followed(directory) as seen:
        await asyncio.sleep(0)
        directory.mkdir(parents=True)
        (directory / "a.pem").touch()
        await seen.wait()


@asynchronous
async def test_files_are_looked_at_now_and_then_where_the_kernel_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appearance._LIBC, "inotify_init1", lambda _flags: -1)
    monkeypatch.setattr(own_files, "_LOOK_SECONDS", 0.01)
    async with followed(tmp_path) as seen:
        await asyncio.sleep(0)
        (tmp_path / "a.pem").touch()
        await seen.wait()


@asynchronous
async def test_files_are_looked_at_where_no_descriptor_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_files, "Appearance", MagicMock(side_effect=OSError))
    monkeypatch.setattr(own_files, "_LOOK_SECONDS", 0.01)
    async with followed(tmp_path) as seen:
        await asyncio.sleep(0)
        (tmp_path / "a.pem").touch()
        await seen.wait()


@asynchronous
async def test_a_directory_that_becomes_another_behind_a_link_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_files, "_LOOK_SECONDS", 0.01)
    directories = tmp_path / "one" / "identity", tmp_path / "other" / "identity"
    for directory in directories:
        directory.mkdir(parents=True)
        (directory / "a.pem").touch()
    link = tmp_path / "link"
    link.symlink_to(directories[0].parent)
    async with followed(link / "identity") as seen:
        await asyncio.sleep(0)
        link.unlink()
        link.symlink_to(directories[1].parent)
        await seen.wait()
