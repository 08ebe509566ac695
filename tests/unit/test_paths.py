"""Liveness, agreement and teardown together: the paths between two sites."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from itertools import pairwise

import pytest
from msgspec.structs import replace as altered

from fedsdn.uplinks.path import PathName
from fedsdn.uplinks.paths import Paths
from fedsdn.uplinks.probe import Refusal
from fedsdn.uplinks.status import PortState
from fedsdn.uplinks.teardown import DRAIN_RTTS
from tests.unit.federations import three_sites, two_sites, with_foreign_proxy
from tests.unit.path_model import DOWN, PROBES, SETTLED, STEP, UNKNOWN, UP, Model, arrive


@pytest.fixture
def model() -> Model:
    return Model(two_sites())


def test_paths_come_up_and_are_measured(model: Model) -> None:
    for site in "ab":
        assert model.states(site) == {"up1": UP, "up2": UP}
        for path in model.sites[site]:
            assert path.rtt == pytest.approx(2 * model.delay, abs=3 * STEP)
            assert path.loss == 0
            assert path.why == "probes come and are answered"


def test_nothing_is_up_before_a_probe_was_answered() -> None:
    paths = Paths(two_sites(), "a", epoch=1, now=100.0)
    paths.set_ports(dict.fromkeys(paths.ports, PortState.UP), 100.0)
    for after in (0.0, STEP, PROBES.interval, 2 * PROBES.detection):
        assert not paths.judge(100.0 + after)
        assert {path.state for path in paths} == {UNKNOWN}
    assert paths.orders().usable == {"up1", "up2"}, "new connections may try them"
    assert not paths.orders().live_pairs


def test_start_alarms_nobody(model: Model) -> None:
    assert not [change for change in model.changes if change[3] is DOWN]


@pytest.mark.parametrize("ends", [(), ("a",), ("b",)], ids=["both ways", "from a", "from b"])
def test_a_silent_wire_is_down_at_both_ends(model: Model, ends: tuple[str, ...]) -> None:
    """Also if only one direction is lost: the other end reports the path."""
    model.cut_wire("up1", *ends)
    assert 0.2 < model.seconds_until("a", "up1", DOWN) <= 0.3 + 0.1 + model.delay
    model.seconds_until("b", "up1", DOWN, limit=0.1 + model.delay)
    assert model.states("a") == model.states("b") == {"up1": DOWN, "up2": UP}


def test_a_lost_port_is_down_at_once_here_and_one_way_later_there(model: Model) -> None:
    model.set_port("a", "up1", PortState.DOWN)
    assert model.seconds_until("a", "up1", DOWN) <= 2 * STEP
    assert model.seconds_until("b", "up1", DOWN) <= model.delay + 2 * STEP
    (path,) = [path for path in model.sites["b"] if path.name.uplink == "up1"]
    assert path.why == "a says that its port is down"


def test_a_path_that_comes_back_is_held_first(model: Model) -> None:
    model.set_port("a", "up1", PortState.ABSENT)
    model.run(3)
    model.set_port("a", "up1", PortState.UP)
    start = model.now
    for site in "ab":
        model.seconds_until(site, "up1", UP)
        assert PROBES.hold < model.now - start < PROBES.hold + 0.3


def test_flapping_is_damped_and_never_stuck(model: Model) -> None:
    waits = []
    for _ in range(4):
        model.set_port("a", "up1", PortState.DOWN)
        model.run(0.05)
        model.set_port("a", "up1", PortState.UP)
        waits.append(model.seconds_until("a", "up1", UP))
    assert all(later > earlier + PROBES.hold / 2 for earlier, later in pairwise(waits))
    model.run(15)
    model.set_port("a", "up1", PortState.DOWN)
    model.run(0.05)
    model.set_port("a", "up1", PortState.UP)
    assert model.seconds_until("a", "up1", UP) < PROBES.hold + 0.3, "old losses are forgotten"


@pytest.mark.parametrize("leaving", [True, False], ids=["stopped", "killed"])
def test_a_peer_without_its_application_is_no_dead_path(model: Model, *, leaving: bool) -> None:
    model.stop("b", leaving=leaving)
    model.run(5)
    assert model.states("a") == {"up1": UNKNOWN, "up2": UNKNOWN}
    assert model.sites["a"].orders().usable == {"up1", "up2"}
    model.start("b", model.now)
    model.seconds_until("a", "up1", UP, limit=0.5)
    assert DOWN not in [state for *_, state in model.changes]


def test_an_application_that_starts_while_an_uplink_is_dead_finds_out(model: Model) -> None:
    model.cut_wire("up1")
    model.run(1)
    model.start("a", model.now)
    assert model.seconds_until("a", "up1", DOWN) < 0.5
    assert not model.sites["a"].orders().dead, "what the other path carries is not known yet"
    model.run(SETTLED)
    assert model.sites["a"].orders().dead == {"up1"}


def test_the_dead_uplinks_endpoint_and_subflows_go(model: Model) -> None:
    model.cut_wire("up1")
    model.run(1)
    for site in "ab":
        orders = model.sites[site].orders()
        (dead,) = [path for path in model.sites[site] if path.name.uplink == "up1"]
        assert orders.usable == {"up2"}
        assert orders.dead == {"up1"}
        assert orders.dead_pairs == {(dead.local, dead.remote)}


def test_what_was_delivered_can_be_acknowledged_before_subflows_end(model: Model) -> None:
    """Where the loss is known at once; a reported loss is old enough."""
    (path, _) = model.sites["a"]
    for site in "ab":
        model.set_port(site, "up1", PortState.DOWN)
    model.run(2 * STEP)
    assert path.state is DOWN
    assert path.rtt is not None
    orders = model.sites["a"].orders()
    assert not orders.dead_pairs
    assert orders.down_pairs == {(path.local, path.remote)}
    deadline = path.since + DRAIN_RTTS * path.rtt
    assert model.sites["a"].next_turn() <= deadline
    model.run(deadline - model.now + STEP)
    orders = model.sites["a"].orders()
    assert orders.dead_pairs == {(path.local, path.remote)}
    assert not orders.down_pairs
    model.seconds_until("b", "up1", DOWN)
    assert model.sites["b"].orders().dead_pairs


def test_a_lost_ports_subflows_end_when_the_peer_knows(model: Model) -> None:
    """It may have lost another port in the same moment, and end the subflows counted on here."""
    (path, _) = model.sites["a"]
    model.set_port("a", "up1", PortState.DOWN)
    while not model.sites["a"].orders().dead_pairs:
        model.run(STEP)
        assert model.now - path.since < 2 * model.delay + 4 * STEP
    assert model.states("b")["up1"] is DOWN
    assert model.now - path.since > 2 * model.delay - STEP


def test_a_lost_ports_subflows_stay_if_the_peer_says_nothing(model: Model) -> None:
    """But the uplink's endpoint is removed: new connections do not need it."""
    model.stop("b", leaving=False)
    model.set_port("a", "up1", PortState.DOWN)
    model.run(0.2)
    orders = model.sites["a"].orders()
    assert not orders.dead_pairs
    assert orders.dead == {"up1"}


def test_where_nothing_is_probed_subflows_are_left_alone() -> None:
    """Without probes it is unknown whether other paths work."""
    model = Model(with_foreign_proxy(two_sites(), "b"))
    model.set_port("a", "up1", PortState.DOWN)
    model.run(1)
    orders = model.sites["a"].orders()
    assert not orders.dead_pairs
    assert not orders.live_pairs


def test_only_paths_that_carry_packets_both_ways_may_take_over(model: Model) -> None:
    up1, up2 = (path.pair for path in model.sites["a"])
    assert model.sites["a"].orders().live_pairs.keys() == {up1, up2}
    model.set_port("b", "up1", PortState.DOWN)
    model.run(0.1)
    assert model.sites["a"].orders().live_pairs.keys() == {up2}
    model.set_port("b", "up1", PortState.UP)
    model.seconds_until("a", "up1", UP)
    back = model.now
    assert model.sites["a"].orders().live_pairs.keys() == {up2}, "it has no subflows yet"
    model.run(SETTLED)
    assert model.sites["a"].orders().live_pairs[up1] == pytest.approx(back, abs=2 * STEP)
    model.stop("b", leaving=True)
    model.run(0.1)
    assert not model.sites["a"].orders().live_pairs


def test_where_nothing_lives_nothing_is_ended(model: Model) -> None:
    """Subflows wait on the uplink that died last, until that is back."""
    up1, up2 = ((path.local, path.remote) for path in model.sites["a"])
    model.set_port("a", "up1", PortState.DOWN)
    model.run(0.1)
    model.set_port("a", "up2", PortState.DOWN)
    model.run(2)
    orders = model.sites["a"].orders()
    assert orders.usable == set()
    assert orders.dead == {"up1"}
    assert orders.dead_pairs == {up1}
    model.set_port("a", "up1", PortState.UP)
    model.run(1)
    orders = model.sites["a"].orders()
    assert orders.usable == {"up1"}
    assert orders.dead == set()
    assert orders.dead_pairs == set()
    model.set_port("a", "up2", PortState.UP)
    model.run(3)
    model.set_port("a", "up2", PortState.DOWN)
    model.run(0.1)
    assert model.sites["a"].orders().dead_pairs == {up2}


def test_nothing_is_ended_before_the_other_path_has_subflows_again(model: Model) -> None:
    model.set_port("a", "up1", PortState.DOWN)
    model.run(1)
    model.set_port("a", "up1", PortState.UP)
    model.seconds_until("a", "up1", UP)
    model.run(0.5)
    model.set_port("a", "up2", PortState.DOWN)
    model.run(0.1)
    for site in "ab":
        assert model.states(site) == {"up1": UP, "up2": DOWN}
        assert not model.sites[site].orders().dead
        assert not model.sites[site].orders().dead_pairs
    model.run(2)
    for site in "ab":
        assert model.sites[site].orders().dead == {"up2"}


def test_a_moment_of_silence_keeps_no_subflows_on_a_dead_path(model: Model) -> None:
    """A path that is unknown for a moment keeps its subflows, unlike one that was down."""
    model.set_port("a", "up1", PortState.DOWN)
    model.run(1)
    model.set_port("a", "up1", PortState.UP)
    model.run(4)
    model.cut_wire("up1")
    model.cut_wire("up2")
    model.seconds_until("a", "up1", UNKNOWN)
    model.mend()
    model.seconds_until("a", "up1", UP)
    model.set_port("a", "up2", PortState.DOWN)
    model.run(0.1)
    for site in "ab":
        assert model.sites[site].orders().dead == {"up2"}


def test_a_process_that_is_not_run_for_a_while_blames_no_path(model: Model) -> None:
    """Neither at its own site nor at the peer's, which received nothing meanwhile."""
    model.running.remove("a")
    model.run(0.7)
    model.running.add("a")
    model.run(1)
    assert DOWN not in [state for *_, state in model.changes]
    assert model.states("a") == model.states("b") == {"up1": UP, "up2": UP}


def test_a_path_to_one_peer_ends_its_subflows_but_not_the_uplinks_endpoint() -> None:
    model = Model(three_sites())
    model.cut = {("a", "b", "up1"), ("b", "a", "up1")}
    model.run(1)
    orders = model.sites["a"].orders()
    assert orders.usable == {"up1", "up2"}
    (dead,) = [path for path in model.sites["a"] if path.state is DOWN]
    assert dead.name == PathName("up1", "b", "up1")
    assert orders.dead_pairs == {(dead.local, dead.remote)}


def test_loss_is_measured(model: Model) -> None:
    for number in range(64):
        if number % 4 == 0:
            model.cut_wire("up1", "b")
        model.run(PROBES.interval)
        model.mend()
    (path,) = [path for path in model.sites["a"] if path.name.uplink == "up1"]
    assert path.loss == pytest.approx(0.25, abs=0.05)
    assert path.state is UP


def test_copies_and_strangers_change_nothing(model: Model) -> None:
    a, b = model.sites["a"], model.sites["b"]
    first, *_ = [probe for _, probe in b.last_probes(model.now)]
    first = altered(first, leaving=False)
    stale = altered(first, heard_epoch=first.heard_epoch - 1, down=("up1", "up2"))
    assert arrive(a, stale, model.now).refusal is None
    assert arrive(a, first, model.now).refusal is Refusal.OLD
    (path,) = [path for path in a if path.name.uplink == first.to_uplink]
    heard = path.heard
    for copy, why in (
        (first, Refusal.OLD),
        (altered(first, number=first.number - 1, down=("up1", "up2")), Refusal.OLD),
        (altered(first, epoch=first.epoch - 1, number=10**9, leaving=True), Refusal.UNPROVEN),
        (altered(first, epoch=first.epoch + 1, number=10**9, leaving=True), Refusal.UNPROVEN),
        (altered(first, number=10**9, site="x"), Refusal.UNKNOWN),
        (altered(first, number=10**9, uplink="x"), Refusal.PATH),
        (altered(first, number=10**9, uplink="up2"), Refusal.PATH),
    ):
        assert arrive(a, copy, model.now + 5).refusal is why
        assert path.heard == heard
    assert not a.judge(model.now)


def test_a_probe_counts_only_where_it_says_that_it_came_from(model: Model) -> None:
    a = model.sites["a"]
    first, second = [probe for _, probe in model.sites["b"].last_probes(model.now)]
    ways = {path.name.uplink: path.way for path in a}
    for probe, way in ((first, "up2"), (second, "up1")):
        assert a.take(probe, ways[way], model.now).refusal is Refusal.PATH
    assert a.take(first, ("up1", ip_address("192.0.2.3")), model.now).refusal is Refusal.PATH
    assert a.take(first, ways["up1"], model.now).refusal is None


def test_anothers_proxy_is_not_probed_and_its_ports_are_not_known() -> None:
    model = Model(with_foreign_proxy(two_sites(), "b"))
    assert model.states("a") == {"up1": UNKNOWN, "up2": UNKNOWN}
    assert not [probe for _, _, probe in model.under_way if probe.site == "a"]
    model.set_port("a", "up1", PortState.DOWN)
    model.run(0.1)
    assert model.states("a") == {"up1": DOWN, "up2": UNKNOWN}
    assert model.sites["a"].orders().dead == {"up1"}
    model.set_port("a", "up1", PortState.UP)
    assert model.seconds_until("a", "up1", UNKNOWN) == pytest.approx(PROBES.hold, abs=2 * STEP)


def test_a_changed_federation_keeps_what_is_known(model: Model) -> None:
    model.cut_wire("up1")
    model.run(1)
    bigger = Paths(three_sites(), "a", epoch=1, now=model.now, old=model.sites["a"])
    bigger.judge(model.now)
    known = {path.name: path.state for path in bigger}
    assert known[PathName("up1", "b", "up1")] is DOWN
    assert known[PathName("up2", "b", "up2")] is UP
    assert known[PathName("up1", "c", "up1")] is UNKNOWN


def test_subflows_on_a_path_that_the_file_has_no_more_end_when_peers_found_it_silent() -> None:
    model = Model(three_sites())
    old = {path.pair for path in model.sites["a"] if path.name.peer == "c"}
    smaller = Paths(two_sites(), "a", epoch=1, now=model.now, old=model.sites["a"])
    for after, found in ((0.0, set()), (2 * PROBES.detection, set()), (3.1, old)):
        smaller.judge(model.now + after)
        assert smaller.orders().dead_pairs == found


def test_subflows_on_an_uplink_that_is_gone_end_also_where_nothing_is_probed() -> None:
    """Nothing else happens there: the end is due by itself."""
    both = with_foreign_proxy(two_sites(), "b")
    a, b = both.sites
    old = Model(both)
    gone = {path.pair for path in old.sites["a"] if path.name.uplink == "up2"}
    smaller = replace(both, sites=(replace(a, uplinks=a.uplinks[:1]), b))
    paths = Paths(smaller, "a", epoch=1, now=old.now, old=old.sites["a"])
    now = old.now
    while (due := paths.next_turn()) < float("inf"):
        now = max(now, due)
        paths.judge(now)
    assert now < old.now + 10
    assert paths.orders().dead_pairs == gone


def test_the_next_deadline_is_when_something_would_change(model: Model) -> None:
    model.cut_wire("up1")
    for _ in range(10):
        deadline = model.sites["a"].next_turn()
        assert model.now < deadline <= model.now + 1
        if any(path.state is DOWN for path in model.sites["a"]):
            break
        model.run(deadline - model.now)
    assert model.states("a")["up1"] is DOWN
