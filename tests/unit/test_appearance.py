"""Files that appear are noticed: before anybody waits, while somebody waits, and on request."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from fedsdn.appearance import Appearance

LONG, SHORT = 20.0, 0.01


def test_what_happens_between_looking_and_waiting_is_not_missed(tmp_path: Path) -> None:
    with Appearance(tmp_path / "socket") as appeared:
        (tmp_path / "socket").touch()
        assert appeared.wait(LONG)
        assert not appeared.wait(SHORT), "told once"


def test_a_file_that_takes_anothers_place_appears(tmp_path: Path) -> None:
    for name in ("socket", "new"):
        (tmp_path / name).touch()
    with Appearance(tmp_path / "socket") as appeared:
        (tmp_path / "new").replace(tmp_path / "socket")
        assert appeared.wait(LONG)


@pytest.mark.parametrize("what", ["touch", "wake"])
def test_whoever_waits_is_woken(tmp_path: Path, what: str) -> None:
    with Appearance(tmp_path / "socket") as appeared:
        wake = appeared.wake if what == "wake" else (tmp_path / "socket").touch
        other = threading.Timer(SHORT, wake)
        other.start()
        assert appeared.wait(LONG)
        other.join()


def test_a_directory_that_does_not_exist_yet_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "run" / "openvswitch" / "socket"
    with Appearance(file) as appeared:
        (tmp_path / "run").mkdir()
        assert appeared.wait(LONG)
    with Appearance(file) as appeared:
        file.parent.mkdir()
        assert appeared.wait(LONG)


def test_an_event_loop_goes_on_while_it_waits(tmp_path: Path) -> None:
    async def main() -> None:
        with Appearance(tmp_path / "socket") as appeared:
            assert not await appeared.happened(SHORT)
            asyncio.get_running_loop().call_later(SHORT, (tmp_path / "socket").touch)
            assert await appeared.happened(LONG)

    asyncio.run(main())


def test_waiting_ends_when_the_kernel_gives_no_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedsdn.appearance._LIBC.inotify_init1", lambda _flags: -1)
    with Appearance(tmp_path / "socket") as appeared:
        (tmp_path / "socket").touch()
        assert not appeared.wait(SHORT)
        appeared.wake()
        assert appeared.wait(LONG)
