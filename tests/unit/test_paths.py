"""What two sites find out about the paths between them, over wires and a clock that are modelled.

Each step is a millisecond; a probe travels for the wire's delay, or is lost.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise, product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedsdn.config.model import Federation, Probes
from fedsdn.uplinks.path import PathName
from fedsdn.uplinks.paths import ACKNOWLEDGED, Paths
from fedsdn.uplinks.probe import Probe
from fedsdn.uplinks.status import PathState, PortState
from tests.unit.federations import three_sites, two_sites, with_foreign_proxy

UP, DOWN, UNKNOWN = PathState.UP, PathState.DOWN, PathState.UNKNOWN
STEP = 0.001
SETTLED = 2.1
"""What a path takes until connections have subflows on it, and a bit."""
PROBES = Probes(key="k" * 32)
Way = tuple[str, str, str]
"""A sending site, a receiving one, and the uplink that both use (each uplink has a wire)."""
Trouble = tuple[str, str]
"""What happens, and at which site."""
TROUBLES = list(
    product(
        (
            "stalls",
            "starts again",
            "loses its port",
            "loses what it sends on up1",
            "loses what it sends on up2",
        ),
        "ab",
    )
)
A_STALLS, _, A_STARTS_AGAIN, _, A_LOSES_PORT, _, *LOSSES = TROUBLES
A_LOSES_UP1, B_LOSES_UP1, A_LOSES_UP2, B_LOSES_UP2 = LOSSES


@dataclass
class Model:
    """The sites of a federation, each with its paths; uplinks of one name share a wire."""

    federation: Federation
    delay: float = 0.015
    now: float = 1000.0
    sites: dict[str, Paths] = field(default_factory=dict)
    cut: set[Way] = field(default_factory=set)
    stalled: set[str] = field(default_factory=set)
    """Sites whose processes are not run; what comes to them waits."""
    under_way: list[tuple[float, str, Probe]] = field(default_factory=list)
    next_round: dict[str, float] = field(default_factory=dict)
    changes: list[tuple[float, str, str, PathState]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for number, site in enumerate(self.federation.sites):
            self.start(site.name, self.now + number * 0.037)
        self.run(SETTLED)

    def start(self, site: str, when: float) -> None:
        """Start a site's application, for the first time or again."""
        self.sites[site] = Paths(self.federation, site, epoch=int(when * 1e9), now=when)
        self.sites[site].set_ports(
            {up.name: PortState.UP for up in self.federation.site(site).uplinks}, when
        )
        self.next_round[site] = when

    def stop(self, site: str, *, leaving: bool) -> None:
        if leaving:
            self.send(site, leaving=True)
        del self.next_round[site]

    def send(self, site: str, *, leaving: bool = False) -> None:
        for path, probe in self.sites[site].next_round(self.now, leaving=leaving):
            if (site, path.name.peer, path.name.uplink) not in self.cut:
                self.under_way.append((self.now + self.delay, path.name.peer, probe))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += STEP
            running = [site for site in self.next_round if site not in self.stalled]
            for arrival, site, probe in [one for one in self.under_way if one[0] <= self.now]:
                if site not in self.stalled:
                    self.under_way.remove((arrival, site, probe))
                if site in running:
                    self.sites[site].take(probe, self.now)
            for site in running:
                for path in self.sites[site].judge(self.now):
                    self.changes.append((self.now, site, path.name.uplink, path.state))
                if self.now >= self.next_round[site]:
                    self.send(site)
                    self.next_round[site] += PROBES.interval
                elif self.sites[site].urgent:
                    self.send(site)

    def set_port(self, site: str, uplink: str, state: PortState) -> None:
        ports = {**self.sites[site].ports, uplink: state}
        assert self.sites[site].set_ports(ports, self.now)

    def cut_wire(self, uplink: str, *ends: str) -> None:
        """Lose what the ``ends`` send over a wire; by default both."""
        names = [site.name for site in self.federation.sites]
        self.cut |= {(source, target, uplink) for source in ends or names for target in names}

    def mend(self) -> None:
        self.cut.clear()

    def states(self, site: str) -> dict[str, PathState]:
        """By uplink; of two sites, so there is one path for each."""
        return {path.name.uplink: path.state for path in self.sites[site]}

    def seconds_until(self, site: str, uplink: str, state: PathState, limit: float = 10.0) -> float:
        start = self.now
        while self.states(site)[uplink] is not state:
            assert self.now < start + limit, f"{uplink} of {site} is not {state}"
            self.run(STEP)
        return self.now - start


@pytest.fixture
def model() -> Model:
    return Model(two_sites())


def test_paths_come_up_and_are_measured(model: Model) -> None:
    for site in "ab":
        assert model.states(site) == {"up1": UP, "up2": UP}
        for path in model.sites[site]:
            assert path.rtt == pytest.approx(2 * model.delay, abs=2 * STEP)
            assert path.loss == 0
            assert path.why == "probes come and are answered"


def test_start_alarms_nobody(model: Model) -> None:
    assert not [change for change in model.changes if change[3] is DOWN]


@pytest.mark.parametrize("ends", [(), ("a",), ("b",)], ids=["both ways", "from a", "from b"])
def test_a_silent_wire_is_down_at_both_ends(model: Model, ends: tuple[str, ...]) -> None:
    """Also if only one direction is lost: the other end tells that it hears nothing."""
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
    """Where the loss is known at once; where it is only heard of, that took long enough."""
    (path, _) = model.sites["a"]
    model.set_port("a", "up1", PortState.DOWN)
    model.run(2 * STEP)
    assert path.state is DOWN
    assert path.rtt is not None
    orders = model.sites["a"].orders()
    assert not orders.dead_pairs
    assert orders.down_pairs == {(path.local, path.remote)}
    deadline = model.sites["a"].next_deadline(model.now)
    assert deadline == pytest.approx(path.since + ACKNOWLEDGED * path.rtt)
    model.run(deadline - model.now + STEP)
    orders = model.sites["a"].orders()
    assert orders.dead_pairs == {(path.local, path.remote)}
    assert not orders.down_pairs
    model.seconds_until("b", "up1", DOWN)
    assert model.sites["b"].orders().dead_pairs


def test_subflows_end_only_when_the_peer_knows_that_their_path_is_dead(model: Model) -> None:
    """So at both sites, within the time that it takes to tell."""
    ours, theirs = (next(iter(model.sites[site])) for site in "ab")
    model.cut_wire("up1", "b")
    model.seconds_until("a", "up1", DOWN)
    assert not ours.ended
    found = model.now
    while not ours.ended:
        model.run(STEP)
    assert theirs.state is DOWN
    assert model.now - found <= 2 * model.delay + 3 * STEP
    model.run(model.delay + 2 * STEP)
    assert theirs.ended


def test_what_either_site_finds_dead_is_down_at_both_and_comes_back(model: Model) -> None:
    model.cut |= {("b", "a", "up1"), ("a", "b", "up2")}
    model.run(2)
    for site in "ab":
        assert model.states(site) == {"up1": DOWN, "up2": DOWN}
    model.mend()
    for site, uplink in product("ab", ("up1", "up2")):
        model.seconds_until(site, uplink, UP, limit=1)


def _begin(model: Model, trouble: Trouble) -> None:
    match trouble:
        case "stalls", site:
            model.stalled.add(site)
        case "starts again", site:
            model.start(site, model.now)
        case "loses its port", site:
            model.set_port(site, "up1", PortState.DOWN)
        case "loses what it sends on up1", site:
            model.cut_wire("up1", site)
        case "loses what it sends on up2", site:
            model.cut_wire("up2", site)


def _end_all(model: Model) -> None:
    model.mend()
    model.stalled.clear()
    for site, paths in model.sites.items():
        if paths.ports["up1"] is not PortState.UP:
            model.set_port(site, "up1", PortState.UP)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.tuples(st.sets(st.sampled_from(TROUBLES), max_size=3), st.floats(0.01, 0.7)),
        max_size=8,
    )
)
@example([(set(), 0.125), ({A_STALLS}, 0.421875), ({B_LOSES_UP2, A_LOSES_UP1}, 0.5)])
@example([({A_LOSES_UP1}, 0.5), ({B_LOSES_UP2}, 0.2), ({B_LOSES_UP1, B_LOSES_UP2}, 3.0)])
@example([({B_LOSES_UP2, A_LOSES_UP1}, 0.5), ({A_STARTS_AGAIN}, 0.5)])
@example([
    *[({A_LOSES_PORT}, 0.05), (set(), 0.4)] * 6,
    *[({A_STALLS}, 0.4), (set(), 2.2), ({A_LOSES_UP2, B_LOSES_UP2}, 0.7)],
])  # fmt: skip
def test_some_path_is_left_alone_by_both_sites(troubles: list[tuple[set[Trouble], float]]) -> None:
    """Whatever is silent, whichever process stands still or starts anew, and for how long.

    Ended by one site here and by the other there, connections would have no subflow left.
    """
    model = Model(two_sites())
    gone: set[str] = set()
    for at_once, seconds in [*troubles, (set(), 0.7)]:
        for trouble in at_once:
            _begin(model, trouble)
        end = model.now + seconds
        while model.now < end:
            model.run(STEP)
            every = [path for site in "ab" for path in model.sites[site]]
            gone |= {path.name.uplink for path in every if path.ended}
            gone &= {path.name.uplink for path in every if path.state is DOWN}
            assert gone != {"up1", "up2"}
        _end_all(model)


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
    """What is unknown for a moment has not lost its subflows, as what was down has."""
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
    """Neither it nor its peer, whom it did not send to."""
    stalled = model.next_round.pop("a")
    model.run(0.7)
    model.next_round["a"] = stalled
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
    first, *_ = [probe for _, probe in b.next_round(model.now)]
    stale = replace(first, heard_epoch=first.heard_epoch - 1, down=("up1", "up2"))
    a.take(stale, model.now)
    assert not a.take(first, model.now)
    (path,) = [path for path in a if path.name.uplink == first.to_uplink]
    heard = path.heard
    for copy in (
        first,
        replace(first, number=first.number - 1, down=("up1", "up2")),
        replace(first, epoch=first.epoch - 1, number=10**9, leaving=True),
        replace(first, number=10**9, site="x"),
        replace(first, number=10**9, uplink="x"),
        replace(first, number=10**9, to="x"),
    ):
        assert not a.take(copy, model.now + 5)
        assert path.heard == heard
    assert not a.judge(model.now)


def test_without_probes_the_ports_decide() -> None:
    model = Model(replace(two_sites(), probes=None))
    assert model.states("a") == {"up1": UNKNOWN, "up2": UNKNOWN}
    assert not model.under_way
    model.set_port("a", "up1", PortState.DOWN)
    model.run(0.1)
    assert model.states("a") == {"up1": DOWN, "up2": UNKNOWN}
    assert model.sites["a"].orders().dead == {"up1"}
    model.set_port("a", "up1", PortState.UP)
    assert model.seconds_until("a", "up1", UNKNOWN) == pytest.approx(PROBES.hold, abs=2 * STEP)


def test_anothers_proxy_is_not_probed_and_its_ports_are_not_known() -> None:
    model = Model(with_foreign_proxy(two_sites(), "b"))
    assert not [probe for _, _, probe in model.under_way if probe.site == "a"]
    assert model.states("a") == {"up1": UNKNOWN, "up2": UNKNOWN}
    model.set_port("a", "up1", PortState.DOWN)
    model.run(0.1)
    assert model.states("a") == {"up1": DOWN, "up2": UNKNOWN}


def test_a_changed_federation_keeps_what_is_known(model: Model) -> None:
    model.cut_wire("up1")
    model.run(1)
    bigger = Paths(three_sites(), "a", epoch=1, now=model.now)
    bigger.inherit(model.sites["a"])
    known = {path.name: path.state for path in bigger}
    assert known[PathName("up1", "b", "up1")] is DOWN
    assert known[PathName("up2", "b", "up2")] is UP
    assert known[PathName("up1", "c", "up1")] is UNKNOWN


def test_the_next_deadline_is_when_something_would_change(model: Model) -> None:
    model.cut_wire("up1")
    for _ in range(10):
        deadline = model.sites["a"].next_deadline(model.now)
        assert model.now < deadline <= model.now + 1
        if any(path.state is DOWN for path in model.sites["a"]):
            break
        model.run(deadline - model.now)
    assert model.states("a")["up1"] is DOWN
