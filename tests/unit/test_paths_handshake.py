"""Which start of a peer's application runs: whatever is sent again, lost, late, or out of order."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import ip_interface

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as altered

from fedsdn.uplinks.handshake import moment
from fedsdn.uplinks.path import Path
from fedsdn.uplinks.paths import Paths
from fedsdn.uplinks.probe import Probe, Refusal
from fedsdn.uplinks.status import PathState, PortState
from tests.unit.federations import two_sites
from tests.unit.path_model import DOWN, PROBES, STEP, UNKNOWN, UP, Model, arrive

OTHER = {"a": "b", "b": "a"}
ALL_UP = {"up1": UP, "up2": UP}
SILENCE = 5 * PROBES.detection
CONTACT = 0.3
"""So long after a start both know each other. What is sent again meanwhile makes them ask, and that
may be a few milliseconds earlier or later than they would."""
TROUBLES = ("restart a", "restart b", "restart both", "up1", "up1 from a", "up1 from b", "up2")
times = st.floats(0.01, 1.0)
lives = st.lists(st.tuples(st.sampled_from(TROUBLES), times, times), max_size=4)
"""Troubles, how long each is, and how long all is well afterwards."""


@dataclass
class Tapped(Model):
    """Sites whose wires somebody listens to, who sends again what he has heard, at random.

    He has what has come to a site's host; if he ``delays``, also what was lost on its way.
    """

    seed: int = 0
    often: float = 0.0
    """How many datagrams are sent again in each step."""
    delays: bool = False
    losses: Iterator[bool] = field(default_factory=lambda: iter(()))
    """Whether the next datagram is lost."""
    heard: list[tuple[str, Probe]] = field(default_factory=list)
    starts: dict[str, list[int]] = field(default_factory=lambda: {"a": [], "b": []})
    """The epochs of each site, in the order of its starts."""
    started: list[float] = field(default_factory=list)
    """When sites were started."""

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)  # noqa: S311
        super().__post_init__()

    def start(self, site: str, when: float) -> None:
        super().start(site, when)
        self.started.append(when)
        self.starts[site].append(self.sites[site]._sender.epoch)

    def restart(self, *sites: str, silence: float = SILENCE) -> None:
        for site in sites:
            self.stop(site, leaving=False)
        self.run(silence)
        for site in sites:
            self.start(site, self.now)

    def send(self, site: str, probes: Iterable[tuple[Path, Probe]]) -> None:
        every = list(probes)
        if self.delays:
            self.heard += [(path.name.peer, probe) for path, probe in every]
        super().send(site, [one for one in every if not next(self.losses, False)])

    def step(self) -> None:
        due = [one for one in self.under_way if one[0] <= self.now + STEP]
        self.heard += [(to, probe) for _, to, probe in due if self.has_port(to, probe.to_uplink)]
        super().step()
        for _ in range(int(self.often) + (self.dice.random() < self.often % 1)):
            self.send_again()

    def send_again(self) -> None:
        """Send what may be of any epoch, but rather of late."""
        some = self.heard[-200:] if self.dice.random() < 0.5 else self.heard
        if not some:
            return
        site, probe = self.dice.choice(some)
        # An application that has sent nothing yet would ask, and so be known earlier than alone.
        if site in self.running and self.sites[site]._peers[OTHER[site]].rounds.number:
            self.take(site, probe)
            self.turn(site)

    def proven(self, site: str) -> int:
        """Return which start of its peer a site takes for the one that runs, from 0; -1: none."""
        peer = OTHER[site]
        epoch = self.sites[site]._peers[peer].handshake.epoch
        return self.starts[peer].index(epoch) if epoch else -1

    def told(self) -> list[tuple[float, str, str, PathState]]:
        """Return all changes with their times; of those of a first contact, when that began."""
        return sorted(
            (self._of_contact(when), site, uplink, state)
            for when, site, uplink, state in self.changes
        )

    def _of_contact(self, when: float) -> float:
        begun = (start for start in self.started if 0 <= when - start < CONTACT)
        return max(begun, default=when)

    def seconds_until_all_up(self, site: str) -> float:
        start = self.now
        while self.states(site) != ALL_UP:
            assert self.now < start + 10, self.states(site)
            self.run(STEP)
        return self.now - start


def live(model: Tapped, life: list[tuple[str, float, float]]) -> None:
    for trouble, seconds, rest in life:
        match trouble.split():
            case "restart", who:
                model.restart(*("ab" if who == "both" else who), silence=seconds)
                model.run(CONTACT)
            case uplink, *sender:
                model.cut_wire(uplink, *sender[1:])
                model.run(seconds)
                model.mend()
        model.run(rest)


@pytest.mark.parametrize("delay", [0.001, 0.015, 0.2])
@pytest.mark.parametrize("who", ["a", "b", "ab"])
def test_first_contact_takes_as_long_as_a_question_and_its_answer(who: str, delay: float) -> None:
    """From the first probe on: a round trip for who was started, one way more for the other."""
    model = Tapped(two_sites(), delay)
    model.run(20 * delay)
    model.restart(*who)
    begins = PROBES.interval
    trip = delay + 2 * STEP
    if who == "ab":
        later = "a"
    else:
        model.seconds_until(who, "up1", UP)
        assert model.states(who) == ALL_UP
        assert model.now - model.sites[who]._began <= begins + 2 * trip
        later = OTHER[who]
    model.seconds_until(later, "up1", UP)
    assert model.states(later) == ALL_UP
    assert model.now - model.sites[who[0]]._began <= begins + 3 * trip
    assert DOWN not in [state for *_, state in model.changes]


@pytest.mark.parametrize("seed", range(4))
def test_an_epoch_may_be_less_than_the_one_before(seed: int) -> None:
    """No clock is asked: one that is an hour back makes no difference."""
    model = Tapped(two_sites(), lot=random.Random(seed))  # noqa: S311
    for _ in range(4):
        model.restart("b")
        assert model.seconds_until_all_up("a") < 0.3
        assert model.seconds_until_all_up("b") < 0.3
    starts = model.starts["b"]
    assert starts != sorted(starts)


@settings(deadline=None, max_examples=15, derandomize=True)
@given(life=lives, seed=st.integers(0, 99), often=st.sampled_from([0.05, 1.0]))
@example(life=[("restart both", 1.0, 1.0), ("restart both", 0.2, 1.0)], seed=1, often=5.0)
@example(life=[("restart a", 0.1, 0.1), ("up2", 0.9, 1.0)], seed=1, often=5.0)
def test_what_is_sent_again_changes_nothing_at_any_moment(
    life: list[tuple[str, float, float]], seed: int, often: float
) -> None:
    """Neither of this epoch nor of earlier ones, to applications that run or were just started."""
    alone, tapped = Tapped(two_sites()), Tapped(two_sites(), seed=seed, often=often)
    for model in (alone, tapped):
        live(model, life)
    assert tapped.told() == alone.told()
    for site in "ab":
        ours, theirs = tapped.sites[site], alone.sites[site]
        assert ours.orders() == theirs.orders()
        assert [path.loss for path in ours] == [path.loss for path in theirs]
        for path, same in zip(ours, theirs, strict=True):
            assert path.rtt == pytest.approx(same.rtt, abs=1e-5)
    assert all(tapped.sent[way] >= number for way, number in alone.sent.items())


@settings(deadline=None, max_examples=15, derandomize=True)
@given(life=lives, seed=st.integers(0, 99), often=st.sampled_from([0.05, 1.0]))
@example(life=[("restart a", 0.01, 0.01)] * 4 + [("restart both", 0.01, 0.01)] * 2, seed=3, often=5)
def test_epochs_only_go_forward_whatever_is_held_back(
    life: list[tuple[str, float, float]], seed: int, often: float
) -> None:
    """Also if datagrams come late that were taken from the wire; and soon the last start counts."""
    model = Tapped(two_sites(), seed=seed, often=often, delays=True)
    seen = dict.fromkeys("ab", (0, -1))
    step = model.step

    def watch() -> None:
        step()
        for site in "ab":
            now = len(model.starts[site]), model.proven(site)
            assert now >= seen[site], f"{site} goes back"
            seen[site] = now

    model.step = watch  # type: ignore[method-assign]
    live(model, life)
    model.run(1.0)
    for site in "ab":
        assert model.proven(site) == len(model.starts[OTHER[site]]) - 1
    model.often = 0.0
    for site in "ab":
        assert model.seconds_until_all_up(site) < 2.0


@settings(deadline=None, max_examples=15, derandomize=True)
@given(losses=st.lists(st.booleans(), max_size=60), who=st.sampled_from(["a", "b", "ab"]))
def test_whatever_is_lost_of_a_handshake_the_next_one_makes_up_for(
    losses: list[bool], who: str
) -> None:
    model = Tapped(two_sites())
    model.restart(*who)
    model.losses = iter(losses)
    while next(model.losses, None) is not None:
        model.losses = iter(losses := losses[1:])
        model.step()
    for site in "ab":
        assert model.seconds_until_all_up(site) < PROBES.detection + 4 * model.delay
    assert all(model.proven(site) == len(model.starts[OTHER[site]]) - 1 for site in "ab")


def test_a_question_that_nobody_answers_costs_the_running_one_nothing() -> None:
    """It goes out once for each probe that came, on the path by which that came."""
    model = Tapped(two_sites())
    a = model.sites["a"]
    old, *_ = [probe for site, probe in model.heard if site == "a" and probe.to_uplink == "up2"]
    before = model.sent["a", "b"]
    old = altered(old, epoch=old.epoch + 1, leaving=True, down=("up1", "up2"))
    for _ in range(100):
        refusal, greeting = arrive(a, old, model.now)
        assert refusal is Refusal.UNPROVEN
        assert greeting is not None
        assert greeting.uplink == "up2"
        assert arrive(model.sites["b"], greeting, model.now) == (Refusal.UNPROVEN, None)
    model.run(1)
    assert model.changes == Tapped(two_sites()).changes
    assert model.sent["a", "b"] == before + 10 * 2
    assert model.states("a") == model.states("b") == ALL_UP


def test_of_a_site_that_was_started_again_nothing_counts_that_its_peer_had_sent_before() -> None:
    """On no path: what came over one that is dead now may be sent again, to who has not seen it."""
    model = Tapped(two_sites())
    model.stop("b", leaving=False)
    model.run(1)
    model.cut_wire("up2")
    model.start("b", model.now)
    old = [one for site, one in model.heard if (site, one.to_uplink) == ("b", "up2")]
    assert model.seconds_until("b", "up1", UP) < 0.2
    b = model.sites["b"]
    (dead,) = [path for path in b if path.name.uplink == "up2"]
    assert {arrive(b, one, model.now).refusal for one in old} == {Refusal.UNPROVEN}
    assert dead.heard is None
    model.seconds_until("b", "up2", DOWN, limit=0.5)


def test_on_a_path_that_moves_nothing_counts_that_was_sent_before() -> None:
    model = Tapped(two_sites())
    a, b = model.federation.sites
    moved = replace(b.uplinks[0], address=ip_interface("192.0.2.9/24"))
    changed = replace(model.federation, sites=(a, replace(b, uplinks=(moved, b.uplinks[1]))))
    old = [one for site, one in model.heard if (site, one.to_uplink) == ("a", "up1")]
    later = Paths(changed, "a", model.sites["a"]._sender.epoch, model.now, old=model.sites["a"])
    assert {arrive(later, one, model.now).refusal for one in old} == {
        Refusal.UNPROVEN,
        Refusal.OLD,
    }
    (new, _) = [probe for _, probe in model.sites["b"].last_probes(model.now)]
    assert arrive(later, new, model.now).refusal is None


def test_a_greeting_acknowledges_no_loss() -> None:
    """Who asks has not acted on what the probe reports; the peer would rely on that."""
    model = Tapped(two_sites())
    model.set_port("a", "up1", PortState.DOWN)
    model.stop("b", leaving=False)
    model.run(0.05)
    model.start("b", model.now)
    (up1, _) = model.sites["a"]
    model.run(model.delay)
    while not up1.ended:
        model.run(STEP)
        assert model.now < model.sites["b"]._began + 1
    assert model.states("b")["up1"] is DOWN


@pytest.mark.parametrize("answers", [0, 2**62])
def test_an_answer_to_a_question_that_was_not_asked_is_none(answers: int) -> None:
    model = Tapped(two_sites())
    a = model.sites["a"]
    probe, *_ = [probe for _, probe in model.sites["b"].last_probes(model.now)]
    other = altered(probe, epoch=probe.epoch + 1, answers=answers)
    assert arrive(a, other, model.now).refusal is Refusal.UNPROVEN
    assert arrive(a, altered(other, answers=moment(model.now)), model.now).refusal is None
    third = altered(other, epoch=3, answers=moment(model.now))
    assert arrive(a, third, model.now).refusal is Refusal.UNPROVEN, "another has answered that"


def test_an_application_that_was_stopped_is_not_kept_alive_by_its_own_words() -> None:
    model = Tapped(two_sites(), often=5.0)
    model.stop("b", leaving=True)
    model.run(SILENCE)
    assert model.states("a") == {"up1": UNKNOWN, "up2": UNKNOWN}


def started(site: str, epoch: int, now: float) -> Paths:
    """Return the paths of a site whose application has just been started."""
    paths = Paths(two_sites(), site, epoch, now)
    paths.set_ports({"up1": PortState.UP, "up2": PortState.UP}, now)
    return paths


def said(paths: Paths, now: float) -> Probe:
    """Return what a site sends over its first path."""
    probe, *_ = [probe for _, probe in paths.last_probes(now)]
    return altered(probe, leaving=False)


def answer(paths: Paths, probe: Probe, now: float) -> Probe:
    """Have a site take a probe, and return its greeting."""
    greeting = arrive(paths, probe, now).greeting
    assert greeting is not None
    return greeting


def test_an_answer_that_was_held_back_proves_no_earlier_start() -> None:
    """Also if the later one was proven without any question, by naming ours."""
    a, first, second = started("a", 1, 10.0), started("b", 3333, 9.0), started("b", 2222, 11.0)
    held = answer(first, answer(a, said(first, 10.1), 10.2), 10.3)
    assert held.answers
    assert arrive(a, answer(second, said(a, 11.1), 11.2), 11.3).refusal is None
    assert arrive(a, held, 11.4).refusal is Refusal.UNPROVEN
    assert a._peers["b"].handshake.epoch == 2222


def test_of_a_peer_that_was_away_nothing_counts_that_it_said_before() -> None:
    """Its application goes on, and so does ours, which it has heard."""
    model = Tapped(two_sites())
    a, b = model.sites["a"], model.federation.site("b")
    old = [probe for site, probe in model.heard if site == "a"]
    alone = replace(model.federation, sites=model.federation.sites[:1])
    epoch = a._sender.epoch
    meanwhile = altered(said(model.sites["b"], model.now), down=("up1", "up2"))
    away = Paths(alone, "a", epoch, model.now, old=a)
    assert arrive(away, meanwhile, model.now).refusal is Refusal.UNKNOWN
    back = model.sites["a"] = Paths(model.federation, "a", epoch, model.now, old=away)
    for one in (*old, meanwhile):
        assert arrive(back, one, model.now).refusal is Refusal.UNPROVEN
    assert b.name not in {path.name.peer for path in back if path.heard is not None}
    assert model.seconds_until_all_up("a") < 0.3
    for one in (*old, meanwhile):
        assert arrive(back, one, model.now).refusal is not None
    assert DOWN not in [state for *_, state in model.changes]


def test_of_a_peer_that_had_anothers_proxy_nothing_counts_that_it_said_before() -> None:
    model = Tapped(two_sites())
    a, b = model.federation.sites
    epoch, old = model.sites["a"]._sender.epoch, said(model.sites["b"], model.now)
    other = replace(model.federation, sites=(a, replace(b, proxy="socks5")))
    unprobed = Paths(other, "a", epoch, model.now, old=model.sites["a"])
    assert arrive(unprobed, old, model.now).refusal is Refusal.UNKNOWN
    back = model.sites["a"] = Paths(model.federation, "a", epoch, model.now, old=unprobed)
    assert arrive(back, old, model.now).refusal is Refusal.UNPROVEN
    assert model.seconds_until_all_up("a") < 0.5


def test_a_probe_on_a_path_that_we_lack_tells_of_its_file_once() -> None:
    """Sent again, it would have that reported for ever."""
    model = Tapped(two_sites())
    a = model.sites["a"]
    probe = altered(said(model.sites["b"], model.now), uplink="up9", file="another")
    model.run(0.5)
    assert arrive(a, probe, model.now).refusal is Refusal.PATH
    assert a.differing(model.now) == []
    newer = altered(probe, number=said(model.sites["b"], model.now).number)
    assert arrive(a, newer, model.now).refusal is Refusal.PATH
    assert [one.site for one in a.differing(model.now)] == ["b"]
