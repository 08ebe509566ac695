"""New connections try live paths first, as long as somebody says which these are."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from fedsdn.proxy.admission.policy import Policy
from fedsdn.proxy.sockets.live_paths import LivePaths
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


def status(up1: PathState, up2: PathState) -> SiteStatus:
    now = time.time()
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
def test_a_dead_path_is_tried_last(dead: str) -> None:
    paths = LivePaths()
    assert {first(paths, turn) for turn in range(2)} == {"up1", "up2"}, "nothing is known"
    states = {name: PathState.DOWN if name == dead else PathState.UP for name in ("up1", "up2")}
    paths.take(status(states["up1"], states["up2"]))
    (live,) = states.keys() - {dead}
    assert {first(paths, turn) for turn in range(4)} == {live}
    assert len(paths.live_first(POLICY.paths(PEER, 0), PEER)) == 2, "it is tried, though"
    paths.take(status(PathState.UP, PathState.UNKNOWN))
    assert first(paths, 1) == "up1", "a path of which nothing is known comes after a live one"


def test_a_much_longer_path_is_tried_after_the_near_ones() -> None:
    paths = LivePaths()
    even = status(PathState.UP, PathState.UP)
    up1, up2 = even.paths
    paths.take(replace(even, paths=(up1, replace(up2, rtt_ms=55.0))))
    assert {first(paths, turn) for turn in range(2)} == {"up1", "up2"}
    paths.take(replace(even, paths=(up1, replace(up2, rtt_ms=65.0))))
    assert {first(paths, turn) for turn in range(2)} == {"up1"}


def test_what_an_application_said_is_not_believed_for_long() -> None:
    now = 100.0
    paths = LivePaths(clock=lambda: now)
    paths.take(status(PathState.DOWN, PathState.UP))
    now += STALE_SECONDS - 1
    assert {first(paths, turn) for turn in range(2)} == {"up2"}
    now += 1
    assert {first(paths, turn) for turn in range(2)} == {"up1", "up2"}


def test_usable_is_what_lives_and_has_an_endpoint() -> None:
    """up2 of ``status`` has no endpoint."""
    live = LivePaths()
    every = POLICY.paths(PEER, 0)
    names = {own.name for own, _ in live.usable(every, PEER)}
    assert names == {"up1", "up2"}
    live.take(status(PathState.UP, PathState.UP))
    assert {own.name for own, _ in live.usable(every, PEER)} == {"up1"}
    live.take(status(PathState.UNKNOWN, PathState.UP))
    assert {own.name for own, _ in live.usable(every, PEER)} == {"up1"}
    live.take(status(PathState.DOWN, PathState.UP))
    assert live.usable(every, PEER) == []


def test_news_are_paths_that_were_not_usable_before() -> None:
    live = LivePaths()
    assert live.take(status(PathState.UP, PathState.UP))
    assert not live.take(status(PathState.UP, PathState.UP))
    assert not live.take(status(PathState.DOWN, PathState.UP))
    assert live.take(status(PathState.UP, PathState.UP))


def test_paths_are_usable_when_the_application_tells_nothing() -> None:
    now = 0.0
    live = LivePaths(lambda: now)
    live.take(status(PathState.DOWN, PathState.DOWN))
    now = STALE_SECONDS + 1
    assert len(live.usable(POLICY.paths(PEER, 0), PEER)) == 2
