"""Following the files of a host's own keys."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from fedsdn.identity import own_files
from tests.unit.loopback import asynchronous


@asynchronous
async def test_what_changes_before_it_begins_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_files, "LOOK_SECONDS", 0.01)
    before = own_files.version(tmp_path)
    (tmp_path / "a.pem").touch()
    seen = asyncio.Event()
    following = asyncio.create_task(own_files.follow(tmp_path, seen.set, before))
    async with asyncio.timeout(30):
        await seen.wait()
        seen.clear()
        (tmp_path / "a.pem").unlink()
        await seen.wait()
    following.cancel()
    await asyncio.wait([following])
