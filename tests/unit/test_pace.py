"""How often peers are probed: all that connections depend on, others as far as there is time."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsdn.uplinks import pace
from fedsdn.uplinks.liveness import PATIENCE
from fedsdn.uplinks.pace import KEEP_SECONDS, WISH_SECONDS, Kind, Pace, Shares
from fedsdn.uplinks.path import Path
from tests.unit.federations import three_sites
from tests.unit.path_model import DOWN, PROBES, STEP, UNKNOWN, UP, Model

RARE = 4.0
"""Seconds between two rounds to a peer that nothing depends on, where there are as many paths as
share the probes among them."""
SOON = 0.1
PATHS = 2 * 2


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Model:
    """Three sites with so little time for idle peers as if there were a thousand of these."""
    share = (PATHS / RARE, RARE)
    monkeypatch.setattr(
        pace, "SHARES", {**pace.SHARES, Kind.IDLE: share, Kind.ABSENT: (PATHS / RARE, 2 * RARE)}
    )
    model = Model(three_sites())
    model.run(3 * RARE)
    model.changes.clear()
    return model


def to(model: Model, site: str, peer: str) -> dict[str, Path]:
    return {path.name.uplink: path for path in model.sites[site] if path.name.peer == peer}


def all_up(model: Model) -> bool:
    return all(path.state is UP for site in "abc" for path in model.sites[site])


def rate(model: Model, site: str, peer: str, seconds: float) -> float:
    """Rounds a second."""
    before = model.sent[site, peer]
    model.run(seconds)
    return (model.sent[site, peer] - before) / seconds / 2


def need(model: Model, site: str, *peers: str) -> None:
    model.sites[site].need(frozenset(peers), model.now)
    model.turn(site)


def test_idle_peers_are_probed_rarely_in_turn_and_stay_up(model: Model) -> None:
    assert all_up(model)
    assert rate(model, "a", "b", 2 * RARE) == pytest.approx(1 / RARE, rel=0.5)
    assert all_up(model)
    assert not model.changes
    times = []
    for _ in range(round(2 * RARE / STEP)):
        before = model.sent.total()
        model.run(STEP)
        if model.sent.total() > before:
            times.append(model.now)
    assert max(later - earlier for earlier, later in pairwise(times)) < RARE, "all at once"


def test_a_needed_peer_is_probed_at_the_full_rate_at_both_ends_and_nobody_else(
    model: Model,
) -> None:
    need(model, "a", "b")
    model.run(2 * model.delay + 2 * STEP)
    assert all(
        path.current for site, peer in ("ab", "ba") for path in to(model, site, peer).values()
    )
    for site, peer in ("ab", "ba"):
        assert rate(model, site, peer, 1.0) >= 0.9 / PROBES.interval
    assert rate(model, "a", "c", 2 * RARE) <= 2.5 / RARE, "it has the idle peers' time for itself"
    assert all_up(model)
    assert not model.changes


@pytest.mark.parametrize("seconds", [0.0, RARE / 3, 0.9 * RARE])
def test_a_path_that_died_long_ago_is_known_soon_after_its_peer_is_needed(
    model: Model, seconds: float
) -> None:
    """However long ago the last probe was; the paths that live are known after a round trip."""
    model.run(seconds)
    model.cut = {(x, y, "up1") for x in "ab" for y in "ab"}
    need(model, "a", "b")
    model.run(2 * model.delay + 2 * STEP)
    paths = to(model, "a", "b")
    assert (paths["up1"].current, paths["up2"].current) == (False, True)
    model.run(PROBES.detection + PROBES.interval + 2 * STEP)
    for site, peer in ("ab", "ba"):
        found = to(model, site, peer)
        assert {name: path.state for name, path in found.items()} == {"up1": DOWN, "up2": UP}
    assert {change[2:] for change in model.changes} == {("up1", DOWN)}


def test_detection_is_as_fast_as_the_file_says_for_who_is_needed(model: Model) -> None:
    need(model, "a", "b")
    model.run(1)
    model.cut_wire("up1")
    start = model.now
    while to(model, "a", "b")["up1"].state is UP:
        model.run(STEP)
    assert model.now - start <= PROBES.detection + PROBES.interval + model.delay


def test_an_idle_peers_dead_path_is_found_too(model: Model) -> None:
    model.cut = {(x, y, "up1") for x in "ab" for y in "ab"}
    model.run((PROBES.multiplier + 1.5) * RARE)
    for site, peer in ("ab", "ba"):
        assert to(model, site, peer)["up1"].state is DOWN
        assert to(model, site, peer)["up2"].state is UP
    assert to(model, "a", "c")["up1"].state is UP


def test_a_rate_that_changes_a_little_hides_no_dead_path(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.cut = {(x, y, "up1") for x in "ab" for y in "ab"}
    for turn in range(6):
        share = (PATHS / RARE, RARE * 0.97**turn)
        monkeypatch.setattr(pace, "SHARES", {**pace.SHARES, Kind.IDLE: share})
        model.run(RARE)
    assert to(model, "a", "b")["up1"].state is DOWN


def test_a_peer_that_is_needed_no_more_becomes_idle_without_an_alarm(model: Model) -> None:
    need(model, "a", "b")
    model.run(1)
    need(model, "a")
    assert rate(model, "a", "b", 1.0) > 0.9 / PROBES.interval, "it may be needed again"
    model.run(KEEP_SECONDS)
    assert rate(model, "a", "b", 2 * RARE) == pytest.approx(1 / RARE, rel=0.5)
    assert rate(model, "b", "a", 2 * RARE) == pytest.approx(1 / RARE, rel=0.5)
    assert all_up(model)
    assert not model.changes


def test_a_needed_peer_that_is_silent_is_said_to_be_so_soon(model: Model) -> None:
    model.stop("b", leaving=False)
    need(model, "a", "b")
    model.run(1.0 + 2 * STEP)
    assert {path.state for path in to(model, "a", "b").values()} == {UNKNOWN}


@pytest.fixture
def rarer(monkeypatch: pytest.MonkeyPatch) -> Model:
    """Three sites that probe idle peers each second, and absent ones a tenth as often."""
    monkeypatch.setattr(
        pace, "SHARES", {**pace.SHARES, Kind.IDLE: (PATHS, 1.0), Kind.ABSENT: (0.1, 10.0)}
    )
    model = Model(three_sites())
    model.run(3)
    return model


def test_a_peer_that_fell_silent_is_not_up_again_without_a_probe(rarer: Model) -> None:
    """However often it is probed meanwhile, and when it is needed."""
    rarer.stop("b", leaving=False)
    rarer.run((PROBES.multiplier + 1) * 1.0)
    assert {path.state for path in to(rarer, "a", "b").values()} == {UNKNOWN}
    rarer.changes.clear()
    rarer.run(PATIENCE * PROBES.multiplier * 1.0 + 20)
    assert rate(rarer, "a", "b", 20) <= 2 / 10, "it is probed as an absent one, and stays so"
    need(rarer, "a", "b")
    rarer.run(3)
    assert not rarer.changes
    assert {path.state for path in to(rarer, "a", "b").values()} == {UNKNOWN}


def test_a_peer_that_is_needed_while_it_is_silent_is_not_up(rarer: Model) -> None:
    rarer.stop("b", leaving=False)
    rarer.run(1.5 * PROBES.multiplier)
    rarer.changes.clear()
    need(rarer, "a", "b")
    rarer.run(1)
    assert UP not in {change[3] for change in rarer.changes}


def test_a_peer_that_starts_again_is_up_after_a_round_trip_or_two(model: Model) -> None:
    """However rarely it is probed: it says that it is there, and is answered."""
    model.stop("b", leaving=True)
    model.run(1)
    assert {path.state for path in to(model, "a", "b").values()} == {UNKNOWN}
    model.start("b", model.now)
    model.run(RARE + 4 * model.delay)
    assert {path.state for path in to(model, "a", "b").values()} == {UP}
    assert {path.state for path in to(model, "b", "a").values()} == {UP}


def test_what_a_silent_peer_wished_is_granted_for_a_while(model: Model) -> None:
    need(model, "b", "a")
    model.run(1)
    model.stop("b", leaving=False)
    model.run(WISH_SECONDS + 1)
    assert rate(model, "a", "b", 4 * RARE) <= 2.5 / RARE, "it has the absent ones' time for itself"


def test_absent_peers_cost_the_others_nothing() -> None:
    shares = Shares(0.1)
    shares.move(40, None, Kind.IDLE)
    shares.move(4000, None, Kind.ABSENT)
    assert shares.interval(Kind.IDLE) == 0.1
    assert shares.interval(Kind.BUSY) == 0.1
    assert shares.interval(Kind.ABSENT) == 30


def test_too_many_busy_peers_are_all_probed_less_often() -> None:
    shares = Shares(0.1)
    shares.move(4000, None, Kind.BUSY)
    assert shares.interval(Kind.BUSY) == pytest.approx(1.0)
    shares.move(4000, Kind.BUSY, Kind.IDLE)
    assert shares.interval(Kind.BUSY) == 0.1


@settings(deadline=None)
@given(
    st.floats(0, 1, exclude_max=True),
    st.lists(st.tuples(st.floats(0.1, 30), st.floats(0, 3), st.booleans()), max_size=50),
)
def test_rounds_come_when_they_are_due(
    phase: float, steps: list[tuple[float, float, bool]]
) -> None:
    """No later than what the last one said, plus a quarter of that, however they are hurried."""
    now = 1000.0
    one = Pace(phase, 0.1)
    one.begin(0.1, now)
    said = 0.1
    for wanted, late, hurried in steps:
        assert one.due <= now + 1.25 * said + 1e-6
        now = max(one.due, now)
        if hurried:
            now += min(late, 0.05)
            one.hurry(now)
        said = wanted
        one.sent(wanted, now)
        assert one.due > now
