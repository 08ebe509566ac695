"""One peer of a site: its paths, what it says, and how often it is probed; no sockets, no clock.

Nothing here depends on another peer, so that one that is silent costs the others nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from fedsdn.uplinks import teardown
from fedsdn.uplinks.agreement import Agreement, Rounds
from fedsdn.uplinks.handshake import Handshake, moment
from fedsdn.uplinks.heard_file import HeardFile
from fedsdn.uplinks.liveness import (
    PATIENCE,
    Contact,
    Finding,
    Rhythm,
    Verdict,
    deadlines,
    judge_probes,
)
from fedsdn.uplinks.outgoing import Said, Sender, acknowledged
from fedsdn.uplinks.pace import KEEP_SECONDS, WISH_SECONDS, Kind, Pace, Shares
from fedsdn.uplinks.path import Path
from fedsdn.uplinks.probe import Probe, Refusal
from fedsdn.uplinks.status import PathState, PortState
from fedsdn.uplinks.teardown import Event, Teardown

DEAD_PORT = (PortState.DOWN, PortState.ABSENT)

_ANSWER_SECONDS = 1.0
"""A peer that is asked for the full rate, and says nothing for so long, is silent."""

_PROMPT_SECONDS = 0.5
"""Hundreds of peers in use are probed less often than the file says, but this often."""

LATE = 1e-6
"""A deadline is met so much later: sums of times are not exact."""

Ports = Mapping[str, PortState]
"""The states of the site's ports, by uplink."""


@dataclass(slots=True, eq=False)
class Peer:
    """A peer. One that is ``unprobed``, for the reason given, is judged by our ports alone.

    ``rounds`` begins with the last number that was used before, if it was a peer once.
    """

    name: str
    sender: Sender
    paths: tuple[Path, ...]
    unprobed: str
    pace: Pace
    rounds: Rounds
    contact: Contact = field(default_factory=Contact)
    agreement: Agreement = field(default_factory=Agreement)
    file: HeardFile = field(default_factory=HeardFile)
    handshake: Handshake = field(default_factory=Handshake)
    newest: int = -1
    """Number of its newest probe, on whichever path; -1: none of its epoch yet."""
    every: float = 0.0
    """After how many seconds its next probe is due, by its newest one."""
    wishes: bool = False
    """Whether it asks for the full rate."""
    needed: bool = False
    """Whether connections of ours depend on it."""
    needed_until: float = float("-inf")
    kind: Kind | None = None
    deadline: float = float("-inf")
    """When it is to be judged again, if it says nothing before."""
    rhythm: Rhythm = field(init=False)

    def __post_init__(self) -> None:
        self.every = self.every or self.sender.probes.interval
        self._note_rhythm()

    # How often it is probed

    def _note_rhythm(self) -> None:
        self.rhythm = Rhythm(self.every, self.pace.interval, self.sender.probes.multiplier)

    def is_wanted(self, now: float) -> bool:
        """Whether connections of ours depend on it, or did a short while ago."""
        return self.needed or now < self.needed_until

    def is_prompt(self) -> bool:
        """Whether a lost path is noticed as fast as the federation file says, or as can be."""
        full = self.sender.probes.interval
        return self.every <= (max(full, _PROMPT_SECONDS) if self.kind is Kind.BUSY else full)

    def join(self, shares: Shares) -> None:
        """Take part in the division of probes: before anything is heard, as an idle peer."""
        self.kind = self.kind or Kind.IDLE
        shares.move(len(self.paths), None, self.kind)

    def begin(self, shares: Shares, now: float) -> None:
        """Begin to be probed, once all peers take part."""
        self.pace.begin(shares.interval(self.kind or Kind.IDLE), now)
        self._note_rhythm()

    def is_fast(self) -> bool:
        """Whether it is probed at the full rate, as far as there is time for that."""
        return self.kind is Kind.BUSY or self.pace.interval <= self.sender.probes.interval

    def classify(self, shares: Shares, now: float) -> Kind:
        """Find out how often it is to be probed, and hurry if that is more often than before."""
        before, kind = self.kind, self._kind(now)
        if before is not kind:
            self.kind = kind
            shares.move(len(self.paths), before, kind)
        if shares.interval(kind) < self.pace.interval / 2:
            if self.contact.speaks(now, self.rhythm):
                self.contact = replace(self.contact, hastened=now)
            self.pace.interval = shares.interval(kind)
            if self.is_wanted(now):  # it answers at once
                answer = max(self.sender.probes.interval, _ANSWER_SECONDS / self.rhythm.multiplier)
                self.every = min(self.every, answer)
            self._note_rhythm()
            self.pace.hurry(now)
        return kind

    def _kind(self, now: float) -> Kind:
        # By their rhythm alone: ours becomes slower because of the silence.
        silence = now - max(self.contact.heard, self.contact.hastened)
        patient = silence < PATIENCE * self.rhythm.detection
        heard = patient and not self.agreement.report.leaving
        wished = self.wishes and now - self.contact.heard < WISH_SECONDS
        asked_for = self.is_wanted(now) or wished
        if heard:
            return Kind.BUSY if asked_for else Kind.IDLE
        return Kind.IDLE if asked_for else Kind.ABSENT

    def need(self, now: float, *, needed: bool) -> bool:
        """Note whether connections of ours depend on it; True if it is asked for anew."""
        if self.needed and not needed:
            self.needed_until = now + KEEP_SECONDS
        begins = needed and not self.is_wanted(now)
        self.needed = needed
        return begins

    def inherit(self, old: Peer, now: float) -> None:
        """Take over what is known of the same peer by an older federation file."""
        same = {path.name: path for path in old.paths}
        self.paths = tuple(
            same[path.name] if path.name in same and same[path.name].pair == path.pair else path
            for path in self.paths
        )
        for name in _INHERITED:
            setattr(self, name, getattr(old, name))
        if old.unprobed:
            self.doubt(now)
        for path in set(self.paths).difference(old.paths):  # what was sent before is not for them
            path.reception = replace(path.reception, newest=(self.handshake.epoch, self.newest))
        self._note_file(old.sender.file, now)
        self.agreement = self.agreement.keep({path.name for path in self.paths if path.is_detected})
        self._note_rhythm()

    def stay(self, sender: Sender, now: float) -> None:
        """Go on as it is: another federation file has changed neither it nor this site."""
        before, self.sender = self.sender, sender
        self._note_file(before.file, now)

    def _note_file(self, before: str, now: float) -> None:
        """Note that our file is another than ``before``, which may have been the peer's."""
        if self.file.digest == before != self.sender.file:
            self.file.since = now

    def doubt(self, now: float) -> None:
        """Have nothing count that it said before: it may have been a peer once."""
        self.handshake = Handshake(asked=moment(now))

    # What it says, and what it is told

    def take(self, path: Path, probe: Probe, now: float) -> Refusal | bool:
        """Take in a probe; say why it is not taken, or whether the peer is to be judged now."""
        ours = probe.heard_epoch == self.sender.epoch
        restarted = probe.epoch != self.handshake.epoch
        if restarted and not self.handshake.is_proof(probe, self.sender.epoch, now):
            return Refusal.UNPROVEN
        if restarted:
            self._begin_anew(probe, now)
        # Who sends something again may send it on a path that nothing has come over yet.
        if not (ours if probe.is_greeting else probe.number > self.handshake.sent):
            return Refusal.UNPROVEN
        reception = path.reception.take(probe, now, self._sent(probe) if ours else None)
        if reception is path.reception:
            return Refusal.UNPROVEN if probe.is_greeting else Refusal.OLD
        new, before = probe.number > self.newest, path.reception
        path.reception = reception
        self.file.note(probe.file, self.sender.file, now)
        appears = restarted or not self.contact.speaks(now, self.rhythm)
        appears |= new and self.contact.was_silent(before, now, self.rhythm)
        if appears:  # it waits for an answer on every path
            self.pace.hurry(now)
        self.contact = self.contact.take(reception, now, appears=appears, new=new)
        changed = self._take_pace(probe, now)
        news = ours and self._take_report(probe, now)
        if self.is_prompt() and not path.current:
            return True
        doubtful = any(one.state is not PathState.UP for one in self.paths)
        return news or changed or appears or doubtful

    def note_file(self, probe: Probe, now: float) -> None:
        """Note its file alone, of a probe on a path that ours does not have."""
        proven = self.handshake.epoch
        if not proven or (probe.epoch == proven and probe.number > self.newest):
            self.file.note(probe.file, self.sender.file, now)

    def _begin_anew(self, proof: Probe, now: float) -> None:
        """Go over to another start of its application, which knows nothing."""
        self.handshake, self.newest = self.handshake.after(proof, now), -1
        self.agreement = self.agreement.restart()

    def _sent(self, probe: Probe) -> float | None:
        """When that left which a probe acknowledges; None if that is unknown."""
        return probe.answers / 1e6 if probe.answers else self.rounds.sent(probe.heard)

    def greeting(self, path: Path, probe: Probe, ports: Ports, now: float) -> Probe | None:
        """Return what is to be sent back for a probe that was taken or not; None if nothing."""
        question = self.handshake.question(probe, self.sender.epoch, now)
        if question is None or ports[path.name.uplink] in DEAD_PORT:
            return None
        down = _dead(ports)
        _, lost = self._told(down)
        number = self.rounds.number
        said = Said(self.sender, number, self.pace.interval, self.is_wanted(now), down, lost)
        heard = 0 if probe.is_greeting else probe.number
        return said.over(path, (probe.epoch, heard, 0), *question)

    def _take_pace(self, probe: Probe, now: float) -> bool:
        """Take in how often its probes come, and are wanted; True if that has changed."""
        if probe.number <= self.newest:
            return False
        every, wishes = probe.every / 1e6, probe.wanted
        self.newest, before = probe.number, (self.every, self.wishes)
        if every < self.every / 2:  # by less, none is late; and it goes to and fro with their share
            self.contact = replace(self.contact, hastened=now)
        if wishes and not self.wishes:
            self.pace.hurry(now)
        self.every, self.wishes = every, wishes
        self._note_rhythm()
        return before != (every, wishes)

    def _take_report(self, probe: Probe, now: float) -> bool:
        """Take in what it acknowledges and reports; True if that is news."""
        before = self.agreement
        after = self.agreement = before.take(probe)
        if after.report.adds_to(before.report):  # it waits for our acknowledgement
            self.pace.hurry(now)
        return after.report != before.report or after.acknowledges_more_than(before)

    def next_round(
        self, ports: Ports, shares: Shares, now: float, *, leaving: bool = False
    ) -> list[tuple[Path, Probe]]:
        """Return a probe for every path whose own port is not down."""
        kind = self.classify(shares, now)
        interval = shares.interval(kind)
        self.rounds = self.rounds.next(now)
        self.pace.sent(interval, now, hears=kind is not Kind.ABSENT)
        self._note_rhythm()
        down = _dead(ports)
        self.agreement, lost = self._told(down)
        number = self.rounds.number
        said = Said(self.sender, number, interval, self.is_wanted(now), down, lost, leaving)
        return [
            (path, said.over(path, acknowledged(path, now)))
            for path in self.paths
            if path.name.uplink not in down
        ]

    def _told(self, down: tuple[str, ...]) -> tuple[Agreement, tuple[tuple[str, str], ...]]:
        """Return the agreement once a round is sent, and what it reports as lost."""
        detected = [path.name for path in self.paths if path.is_detected]
        return self.agreement.tell(self.rounds.number, detected, down)

    # What follows

    def judge(self, ports: Ports, now: float) -> list[Path]:
        """Judge its paths; return those whose state, or what is known of it, has changed."""
        before = [(path.state, path.current, path.is_detected) for path in self.paths]
        for path in self.paths:
            self._judge(path, ports, now)
        detected = {path.name for path in self.paths if path.is_detected}
        if [path.is_detected for path in self.paths] != [was for _, _, was in before]:
            self.pace.hurry(now)
        self.agreement = self.agreement.keep(detected)
        settled = [path for path in self.paths if self.has_settled(path, now)]
        for path in self.paths:
            path.teardown = self._tear_down(path, ports, now, replaced=bool(settled))
        candidates = (each for path in self.paths for each in self._deadlines(path, ports, now))
        self.deadline = min((each for each in candidates if each > now), default=float("inf"))
        return [
            path
            for path, (state, current, _) in zip(self.paths, before, strict=True)
            if path.state is not state or path.current is not current
        ]

    def _judge(self, path: Path, ports: Ports, now: float) -> None:
        finding, report = self._finding(path, ports, now), self._report_against(path, now)
        times = (self.rhythm.detection, self.sender.probes.hold)
        path.liveness = path.liveness.judge(finding, report, path.reception, now, times)
        heard = path.heard
        path.current = (
            path.state is PathState.UP
            and self.is_prompt()
            and heard is not None
            and heard >= self.contact.hastened
        )

    def _finding(self, path: Path, ports: Ports, now: float) -> Finding:
        port = ports[path.name.uplink]
        if port in DEAD_PORT:
            return Verdict.BAD, f"port of {path.name.uplink} is {port}"
        if self.unprobed:
            return Verdict.UNPROBED, self.unprobed
        if self.agreement.report.leaving:
            return Verdict.SILENT, f"the application of {self.name} was stopped"
        verdict, why = judge_probes(path.reception, self.name, self.contact, now, self.rhythm)
        return verdict, self.agreement.port_report(path.name) or why

    def _report_against(self, path: Path, now: float) -> str | None:
        """Return what the peer reports against a path; None if nothing."""
        if self.unprobed:
            return None
        speaks = self.contact.speaks(now, self.rhythm)
        return self.agreement.report_against(path.name, speaks=speaks)

    def _tear_down(self, path: Path, ports: Ports, now: float, *, replaced: bool) -> Teardown:
        if not path.liveness.is_down:
            return path.teardown.after(Event.RECOVERED)
        state = path.teardown.after(Event.LOST)
        known = self._is_acknowledged(path, now)
        state = state.after(Event.ACKNOWLEDGED if known else Event.WITHDRAWN)
        if replaced and now >= _drained_at(path, ports):
            state = state.after(Event.REPLACED)
            if ports[path.name.uplink] in DEAD_PORT:
                state = state.after(Event.PORT_REPLACED)
        return state

    def _is_acknowledged(self, path: Path, now: float) -> bool:
        """Whether the peer has acknowledged a loss, or reports it, and so counts on other paths.

        Only the acknowledgement of a peer that speaks is accepted: its report on the other paths is
        newer than the loss. It stays valid when the peer falls silent, since the peer keeps the
        path down while it hears nothing from us.
        """
        if self.unprobed:
            return False  # nobody reports which paths live
        knows = (
            self.agreement.has_acknowledged(path.name)
            or self._report_against(path, now) is not None
        )
        return knows and (path.teardown.is_acknowledged or self.contact.speaks(now, self.rhythm))

    def live_since(self, path: Path, now: float) -> float | None:
        """Since when a path may take over subflows of others; None if it may not."""
        if path.state is PathState.UP and self.has_settled(path, now):
            return path.lives_since
        return None

    def has_settled(self, path: Path, now: float) -> bool:
        """Whether connections have had the time to open subflows on a path.

        To peers without one, the subflows of a path that is down stay, and resume if it recovers.
        """
        return not path.liveness.is_down and teardown.has_settled(path.lives_since, now)

    def _deadlines(self, path: Path, ports: Ports, now: float) -> Iterator[float]:
        """Yield when something may follow for a path, if nothing is heard until then."""
        if path.liveness.is_down:
            yield _drained_at(path, ports)
            yield path.liveness.patient_until(path.reception, self.rhythm.detection) + LATE
            if path.liveness.good_since is not None:
                yield path.liveness.held_until(now, self.sender.probes.hold)
        else:
            yield teardown.settles_at(path.lives_since) + LATE
        if not self.unprobed:
            for moment in deadlines(path.reception, self.contact, self.rhythm):
                yield moment + LATE


_INHERITED = (
    *("contact", "agreement", "rounds", "pace", "file", "newest", "every", "wishes"),
    *("needed", "needed_until", "kind", "handshake"),
)


def _dead(ports: Ports) -> tuple[str, ...]:
    return tuple(name for name, port in ports.items() if port in DEAD_PORT)


def _drained_at(path: Path, ports: Ports) -> float:
    own_port = ports[path.name.uplink] in DEAD_PORT
    return teardown.drained_at(path.since, path.rtt, own_port=own_port)
