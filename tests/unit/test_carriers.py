"""Which paths to a peer carry what is not TCP."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from fedsdn.uplinks.path import PathKey
from fedsdn.uplinks.routes.carriers import MOST_STEADY_SECONDS, STEADY_SECONDS, Carriers, Seen
from fedsdn.uplinks.status import PathState

UP, DOWN, UNKNOWN = PathState.UP, PathState.DOWN, PathState.UNKNOWN
X, Y, Z = keys = [(uplink, "b", "up1") for uplink in ("x", "y", "z")]
NOTHING = Carriers()

states = st.sampled_from(PathState)
times = st.one_of(st.none(), st.floats(0.0001, 2))
seen_paths = st.fixed_dictionaries({key: st.tuples(states, times) for key in keys}).map(
    lambda found: [Seen(key, state, rtt) for key, (state, rtt) in found.items()]
)
carriers = st.frozensets(st.sampled_from(keys)).map(lambda live: Carriers(live, live))


def seen(**paths: tuple[PathState, float | None]) -> list[Seen]:
    return [Seen((uplink, "b", "up1"), *what) for uplink, what in paths.items()]


def of_state(paths: Iterable[Seen], *states: PathState) -> set[PathKey]:
    return {one.key for one in paths if one.state in states}


@given(before=carriers, paths=seen_paths)
def test_spread_uses_all_that_are_up_and_none_that_is_down(
    before: Carriers, paths: list[Seen]
) -> None:
    after = before.after(paths, "spread", 0.0)
    assert of_state(paths, UP) <= after.paths <= of_state(paths, UP, UNKNOWN)
    assert after.paths or not of_state(paths, UP, UNKNOWN), "nothing is lost by a try"


@given(before=carriers, paths=seen_paths)
def test_latency_uses_one_of_what_spread_uses(before: Carriers, paths: list[Seen]) -> None:
    spread, latency = (before.after(paths, prefer, 0.0) for prefer in ("spread", "latency"))
    assert len(latency.paths) == min(1, len(spread.paths))
    assert latency.paths <= spread.paths


def test_a_path_that_nothing_is_known_of_carries_on() -> None:
    """The peer's application, or ours, is started anew: nobody blames a path."""
    before = Carriers(frozenset({X}), frozenset({X}))
    assert before.after(seen(x=(UNKNOWN, None), y=(UNKNOWN, None)), "spread", 0).paths == {X}
    assert before.after(seen(x=(UNKNOWN, None), y=(UP, 0.1)), "spread", 0).paths == {X, Y}


def test_a_path_that_never_was_up_is_no_path_beside_one_that_is() -> None:
    assert NOTHING.after(seen(x=(UNKNOWN, None), y=(UP, 0.1)), "spread", 0).paths == {Y}


def test_a_path_whose_tunnel_does_not_work_is_none_beside_one_that_does() -> None:
    works, does_not = Seen(X, UP, 0.03), Seen(Y, UP, 0.01, ready=False)
    for prefer in ("spread", "latency"):
        assert NOTHING.after([works, does_not], prefer, 0).paths == {X}
        assert Carriers(frozenset({Y}), frozenset({Y})).after([does_not], prefer, 0).paths == {Y}
    returned = Carriers(frozenset({X}), frozenset({X})).after(
        [works, Seen(Y, UP, 0.03)], "spread", 0
    )
    assert returned.paths == {X, Y}


def test_all_are_tried_as_long_as_nothing_is_known() -> None:
    assert NOTHING.after(seen(x=(UNKNOWN, None), y=(DOWN, None)), "spread", 0).paths == {X}


def followed(steps: Sequence[tuple[float, list[Seen]]], begin: Carriers = NOTHING) -> list[str]:
    """The uplink that carries after each step, with 'latency'."""
    found, now = [], begin
    for moment, paths in steps:
        now = now.after(paths, "latency", moment)
        found.append("".join(uplink for uplink, *_ in now.paths))
    return found


def test_the_fastest_carries() -> None:
    assert followed([(0, seen(x=(UP, 0.03), y=(UP, 0.01), z=(UP, None)))]) == ["y"]


def test_the_fastest_left_carries_at_once() -> None:
    assert followed(
        [
            (0, seen(x=(UP, 0.03), y=(UP, 0.01), z=(UP, 0.02))),
            (1, seen(x=(UP, 0.03), y=(DOWN, 0.01), z=(UP, 0.02))),
        ]
    ) == ["y", "z"]


def test_a_faster_one_carries_when_it_has_been_so_for_a_while() -> None:
    slower, faster = seen(x=(UP, 0.01), y=(UP, 0.03)), seen(x=(UP, 0.04), y=(UP, 0.03))
    late = STEADY_SECONDS
    assert followed([(0, slower), (1, faster), (0.9 + late, faster), (1 + late, faster)]) == [
        "x", "x", "x", "y"]  # fmt: skip
    assert followed([(0, slower), (1, faster), (3, slower), (1 + late, faster)]) == list("xxxx")


def test_one_that_is_hardly_faster_does_not() -> None:
    steps = [(0.0, seen(x=(UP, 0.030), y=(UP, 0.031)))]
    steps += [(moment, seen(x=(UP, 0.030), y=(UP, 0.024))) for moment in (1.0, 99.0)]
    steps += [(moment, seen(x=(UP, 0.002), y=(UP, 0.001))) for moment in (100.0, 199.0)]
    assert set(followed(steps)) == {"x"}


@given(rtts=st.lists(st.tuples(st.floats(0.001, 0.2), st.floats(0.001, 0.2)), max_size=60))
def test_however_times_change_it_moves_rarely(rtts: list[tuple[float, float]]) -> None:
    steps = [(n * 1.0, seen(x=(UP, x), y=(UP, y))) for n, (x, y) in enumerate(rtts)]
    found = followed(steps)
    moves = [at for at in range(1, len(found)) if found[at] != found[at - 1]]
    assert all(later - earlier >= STEADY_SECONDS for earlier, later in pairwise(moves))


def test_a_returned_one_carries_again_when_it_has_been_the_faster_for_a_while() -> None:
    both = seen(x=(UP, 0.01), y=(UP, 0.03))
    steps = [
        (0, both),
        (1, seen(x=(DOWN, 0.01), y=(UP, 0.03))),
        (2, both),
        (2 + STEADY_SECONDS, both),
    ]
    assert followed(steps) == ["x", "y", "y", "x"]


def test_what_the_kernel_had_carries_on_after_a_restart() -> None:
    kernel_had = Carriers(frozenset({Y}), frozenset({Y}))
    nothing_known = seen(x=(UNKNOWN, None), y=(UNKNOWN, None))
    assert followed([(0, nothing_known), (1, seen(x=(UP, 0.03), y=(UP, 0.03)))], kernel_had) == [
        "y", "y"]  # fmt: skip


def test_flows_that_make_a_path_slow_go_to_and_fro_ever_more_rarely() -> None:
    now, moves = NOTHING.after(seen(x=(UP, 0.01), y=(UP, 0.03)), "latency", 0), list[int]()
    for moment in range(1, 2000):
        loaded = now.paths
        times = {one: (UP, 0.05 if (one, "b", "up1") in loaded else 0.01) for one in "xy"}
        now = now.after(seen(**times), "latency", moment)
        if now.paths != loaded:
            moves.append(moment)
    pauses = [later - earlier for earlier, later in pairwise(moves)]
    assert pauses[:4] == [11, 21, 41, 81]
    assert max(pauses) == MOST_STEADY_SECONDS + 1


def test_after_a_long_time_without_a_move_one_is_as_quick_as_the_first() -> None:
    slower, faster = seen(x=(UP, 0.01), y=(UP, 0.03)), seen(x=(UP, 0.04), y=(UP, 0.03))
    later = STEADY_SECONDS + 1 + MOST_STEADY_SECONDS
    steps = [(0, slower), (1, faster), (1 + STEADY_SECONDS, faster)]
    steps += [(later, slower), (later + STEADY_SECONDS, slower)]
    assert followed(steps) == list("xxyyx")
