"""Two paths of which one takes much longer: neither is blamed for what the peer, or we, did not do.

A slower path still brings what was sent before a pause, when a faster one has brought it long ago.
"""

from __future__ import annotations

import pytest

from fedsdn.uplinks.routes.carriers import STEADY_SECONDS, Carriers, Seen
from tests.unit.federations import two_sites
from tests.unit.path_model import DOWN, PROBES, STEP, UP, Model

SETTLED = 3.0


def slow_model(delay: float) -> Model:
    """``up2`` takes ``delay`` seconds one way, ``up1`` 15 ms."""
    model = Model(two_sites(), slower={"up2": delay})
    model.run(SETTLED)
    model.changes.clear()
    return model


@pytest.mark.parametrize("site", ["a", "b"])
@pytest.mark.parametrize("pause", [0.31, 0.4, 0.6, 1.2])
@pytest.mark.parametrize("delay", [0.1, 0.3])
def test_a_site_that_pauses_loses_no_path(delay: float, pause: float, site: str) -> None:
    model = slow_model(delay)
    model.stalled.add(site)
    model.run(pause)
    model.stalled.clear()
    model.run(SETTLED)
    assert not [change for change in model.changes if DOWN in change]
    for each in "ab":
        assert model.states(each) == {"up1": UP, "up2": UP}


@pytest.mark.parametrize(("delay", "later"), [(0.1, 0.0), (0.3, 0.1)])
@pytest.mark.parametrize("ends", [(), ("a",), ("b",)])
def test_a_lost_path_is_found_by_what_the_slower_one_brings(
    delay: float, later: float, ends: tuple[str, ...]
) -> None:
    model = slow_model(delay)
    model.cut_wire("up1", *ends)
    limit = PROBES.detection + 2 * model.delay + later + 3 * STEP
    for site in "ab":
        model.seconds_until(site, "up1", DOWN, limit)
    assert [model.states(site)["up2"] for site in "ab"] == [UP, UP]


@pytest.mark.parametrize("period", [0.5, 0.77])
@pytest.mark.parametrize("delay", [0.1, 0.3])
def test_a_lost_slower_path_is_found_beside_a_peer_that_keeps_pausing(
    delay: float, period: float
) -> None:
    """It had been excused for ever by probes of the other path that began to come again."""
    model = slow_model(delay)
    model.cut_wire("up2")
    end = model.now + 5
    while model.now < end and model.states("a")["up2"] is not DOWN:
        model.stalled.add("b")
        model.run(0.32)
        model.stalled.clear()
        model.run(period - 0.32)
    assert model.states("a") == {"up1": UP, "up2": DOWN}


@pytest.mark.parametrize("seconds", [0.2, 0.31, 0.6, 2.0])
def test_flows_that_prefer_latency_return_to_the_faster_path_on_a_busy_machine(
    seconds: float,
) -> None:
    """Each pause of a site had taken them off it again."""
    model = slow_model(0.3)
    carriers = {site: Carriers() for site in "ab"}

    def run(seconds: float) -> None:
        model.run(seconds)
        for site in "ab":
            seen = [Seen(path.key, path.state, path.rtt) for path in model.sites[site]]
            carriers[site] = carriers[site].after(seen, "latency", model.now)

    run(STEP)
    model.cut_wire("up1")
    run(seconds)
    model.mend()
    end = model.now + SETTLED + STEADY_SECONDS
    while model.now < end:
        run(0.5)
        model.stalled.add("b")
        run(0.32)
        model.stalled.clear()
    for site in "ab":
        assert {uplink for uplink, *_ in carriers[site].paths} == {"up1"}
