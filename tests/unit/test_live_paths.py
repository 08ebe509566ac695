"""New connections try live paths first, as long as somebody says which these are."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from msgspec.structs import replace as altered

from fedsdn.channel.messages import PathsMessage
from fedsdn.proxy.admission.policy import Policy
from fedsdn.proxy.sockets.live_paths import LivePaths
from fedsdn.uplinks.news import ToldPath
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


def told(up1: PathState, up2: PathState, *, current: bool = True) -> PathsMessage:
    """What a worker is told; up2 has no endpoint."""
    return PathsMessage(
        anew=False,
        more=False,
        endpoints=["up1"],
        paths=[
            ToldPath(name, "b", name, state, 30.5, current=current and state is PathState.UP)
            for name, state in (("up1", up1), ("up2", up2))
        ],
        gone=[],
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
    paths.take(told(states["up1"], states["up2"]))
    (live,) = states.keys() - {dead}
    assert {first(paths, turn) for turn in range(4)} == {live}
    assert len(paths.live_first(POLICY.paths(PEER, 0), PEER)) == 2, "it is tried, though"
    paths.take(told(PathState.UP, PathState.UNKNOWN))
    assert first(paths, 1) == "up1", "a path of which nothing is known comes after a live one"


def test_a_much_longer_path_is_tried_after_the_near_ones() -> None:
    paths = LivePaths()
    even = told(PathState.UP, PathState.UP)
    up1, up2 = even.paths
    paths.take(altered(even, paths=[up1, altered(up2, rtt_ms=55.0)]))
    assert {first(paths, turn) for turn in range(2)} == {"up1", "up2"}
    paths.take(altered(even, paths=[up1, altered(up2, rtt_ms=65.0)]))
    assert {first(paths, turn) for turn in range(2)} == {"up1"}


def test_what_an_application_said_is_not_believed_for_long() -> None:
    now = 100.0
    paths = LivePaths(clock=lambda: now)
    paths.take(told(PathState.DOWN, PathState.UP))
    now += STALE_SECONDS - 1
    assert {first(paths, turn) for turn in range(2)} == {"up2"}
    now += 1
    assert {first(paths, turn) for turn in range(2)} == {"up1", "up2"}


def test_usable_is_what_lives_and_has_an_endpoint() -> None:
    """up2 of ``told`` has no endpoint."""
    live = LivePaths()
    every = POLICY.paths(PEER, 0)
    names = {own.name for own, _ in live.usable(every, PEER)}
    assert names == {"up1", "up2"}
    live.take(told(PathState.UP, PathState.UP))
    assert {own.name for own, _ in live.usable(every, PEER)} == {"up1"}
    live.take(told(PathState.UNKNOWN, PathState.UP))
    assert {own.name for own, _ in live.usable(every, PEER)} == {"up1"}
    live.take(told(PathState.DOWN, PathState.UP))
    assert live.usable(every, PEER) == []


def test_news_are_paths_that_were_not_usable_before() -> None:
    live = LivePaths()
    assert live.take(told(PathState.UP, PathState.UP))
    assert not live.take(told(PathState.UP, PathState.UP))
    assert not live.take(told(PathState.DOWN, PathState.UP))
    assert live.take(told(PathState.UP, PathState.UP))


def test_paths_are_usable_when_the_application_tells_nothing() -> None:
    now = 0.0
    live = LivePaths(lambda: now)
    live.take(told(PathState.DOWN, PathState.DOWN))
    now = STALE_SECONDS + 1
    assert len(live.usable(POLICY.paths(PEER, 0), PEER)) == 2


def test_a_rarely_probed_peer_is_tried_on_several_paths_at_once() -> None:
    """Until its answers to probes say which of them live now."""
    live = LivePaths()
    assert live.at_once(POLICY.paths(PEER, 0), PEER) == 1, "nothing is known"
    live.take(told(PathState.UP, PathState.UP, current=False))
    assert live.at_once(POLICY.paths(PEER, 0), PEER) == 2
    one = told(PathState.UP, PathState.UP)
    live.take(altered(one, paths=one.paths[1:]))
    assert live.at_once(POLICY.paths(PEER, 0), PEER) == 1
    assert {first(live, turn) for turn in range(2)} == {"up2"}
    live.take(told(PathState.UP, PathState.DOWN, current=False))
    assert live.at_once(POLICY.paths(PEER, 0), PEER) == 1


def test_what_is_told_in_parts_counts_as_a_whole() -> None:
    live = LivePaths()
    everything = told(PathState.UP, PathState.UP)
    live.take(everything)
    up1, up2 = everything.paths
    assert not live.take(altered(everything, anew=True, more=True, paths=[up1]))
    assert {first(live, turn) for turn in range(2)} == {"up1", "up2"}
    live.take(altered(everything, paths=[altered(up2, state=PathState.DOWN, current=False)]))
    assert {first(live, turn) for turn in range(2)} == {"up1"}


def test_parts_whose_rest_was_lost_with_the_channel_do_not_count() -> None:
    """The next application tells everything, and may have other paths."""
    live = LivePaths()
    up1, up2 = told(PathState.UP, PathState.UP).paths
    first_part = altered(told(PathState.UP, PathState.UP), anew=True, more=True, paths=[up1])
    live.take(first_part)
    live.take(altered(first_part, more=False, paths=[altered(up2, uplink="up1", peer="c")]))
    assert live.usable(POLICY.paths(PEER, 0), PEER) == []


def test_a_path_that_is_gone_is_not_usable() -> None:
    live = LivePaths()
    live.take(told(PathState.UP, PathState.UP))
    live.take(altered(told(PathState.UP, PathState.UP), paths=[], gone=[("up1", "b", "up1")]))
    assert live.usable(POLICY.paths(PEER, 0), PEER) == []
