"""New connections try live paths first, as long as somebody says which these are."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from fedsdn.proxy.live_paths import LivePaths
from fedsdn.proxy.policy import Policy
from fedsdn.uplinks.status import (
    STALE_SECONDS,
    PathState,
    PathStatus,
    PortState,
    SiteStatus,
    UplinkStatus,
    read_status,
    write_status,
)
from tests.unit.federations import two_sites

POLICY = Policy.at(two_sites(), "a")
PEER = two_sites().site("b")


def status(up1: PathState, up2: PathState, age: float = 0.0) -> SiteStatus:
    now = time.time() - age
    return SiteStatus(
        site="a",
        written=now,
        uplinks=(
            UplinkStatus("up1", PortState.UP, now, 1),
            UplinkStatus("up2", PortState.DOWN, now, None),
        ),
        paths=tuple(
            PathStatus(name, "b", name, state, now, "why", 30.5, 0.0)
            for name, state in (("up1", up1), ("up2", up2))
        ),
    )


def first(paths: LivePaths, turn: int) -> str:
    (own, _), *_ = paths.live_first(POLICY.paths(PEER, turn), PEER)
    return own.name


def test_a_status_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "not there yet" / "uplinks.json"
    assert read_status(file) is None
    written = status(PathState.UP, PathState.DOWN)
    write_status(written, file)
    assert read_status(file) == written
    file.write_text('{"site": "a", "wri')
    assert read_status(file) is None


@pytest.mark.parametrize("dead", ["up1", "up2"])
def test_a_dead_path_is_tried_last(tmp_path: Path, dead: str) -> None:
    file = tmp_path / "uplinks.json"
    paths = LivePaths(file)
    assert {first(paths, turn) for turn in range(2)} == {"up1", "up2"}, "no file"
    states = {name: PathState.DOWN if name == dead else PathState.UP for name in ("up1", "up2")}
    write_status(status(states["up1"], states["up2"]), file)
    (live,) = states.keys() - {dead}
    assert {first(paths, turn) for turn in range(4)} == {live}
    assert len(paths.live_first(POLICY.paths(PEER, 0), PEER)) == 2, "it is tried, though"
    write_status(status(PathState.UP, PathState.UNKNOWN), file)
    assert first(paths, 1) == "up1", "a path of which nothing is known comes after a live one"


def test_a_much_longer_path_is_tried_after_the_near_ones(tmp_path: Path) -> None:
    file = tmp_path / "uplinks.json"
    even = status(PathState.UP, PathState.UP)
    up1, up2 = even.paths
    write_status(replace(even, paths=(up1, replace(up2, rtt_ms=55.0))), file)
    assert {first(LivePaths(file), turn) for turn in range(2)} == {"up1", "up2"}
    write_status(replace(even, paths=(up1, replace(up2, rtt_ms=65.0))), file)
    assert {first(LivePaths(file), turn) for turn in range(2)} == {"up1"}


def test_what_an_application_left_is_not_believed_for_long(tmp_path: Path) -> None:
    file = tmp_path / "uplinks.json"
    paths = LivePaths(file)
    fresh = status(PathState.DOWN, PathState.UP)
    write_status(replace(fresh, written=fresh.written - STALE_SECONDS + 1), file)
    assert first(paths, 0) == "up2"
    write_status(replace(fresh, written=fresh.written - STALE_SECONDS), file)
    assert {first(paths, turn) for turn in range(2)} == {"up1", "up2"}
