"""How many connections are kept ready, for requests that come in any way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fedsdn.proxy.socks.demand import _BURST_SECONDS, KEEP_SECONDS, MOST_READY, Demand


def test_without_requests_none_is_wanted() -> None:
    assert Demand().wanted(0.0) == 0


def test_as_many_are_wanted_as_came_at_a_time() -> None:
    demand = Demand()
    for _ in range(3):
        demand.asked(1.0)
    for second in range(2, 10):
        demand.asked(float(second))
    assert demand.wanted(10.0) == 3
    assert demand.wanted(1.0 + KEEP_SECONDS) == 1


def test_what_is_not_asked_for_again_is_given_up() -> None:
    demand = Demand()
    demand.asked(0.0)
    assert demand.wanted(KEEP_SECONDS - 0.1) == 1
    assert demand.wanted(KEEP_SECONDS) == 0


def test_never_more_than_the_most() -> None:
    demand = Demand()
    for _ in range(1000):
        demand.asked(0.0)
    assert demand.wanted(0.0) == MOST_READY


@given(st.lists(st.floats(0, 20), min_size=1, max_size=50))
def test_it_remembers_the_largest_burst_and_little_more(pauses: list[float]) -> None:
    demand, now, times = Demand(), 0.0, []
    for pause in pauses:
        now += pause
        demand.asked(now)
        times.append(now)
    recent = [time for time in times if now < time + KEEP_SECONDS - _BURST_SECONDS]
    wanted = demand.wanted(now)
    assert bool(wanted) >= bool(recent)
    assert wanted <= max(
        sum(time <= other < time + _BURST_SECONDS for other in times) for time in times
    )
    assert len(demand._bursts) <= KEEP_SECONDS / _BURST_SECONDS + 2
