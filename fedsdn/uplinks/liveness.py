"""Whether a path carries packets: its state from the probes that came, without sockets or clock.

The terms are those of BFD (RFC 5880). A path is down when the detection time expires without a
probe, or when the peer reports it down (diagnostics 1 and 3 of section 4.1: "Control Detection Time
Expired", "Neighbor Signaled Session Down")::

          not down                                      down
      +------------+  detection time, own port down  +------------+
      |     UP     | ------------------------------> |  DETECTED  |
      |    |  ^    | <------------------------------ |    |  ^    |
      |   1|  |2   |  hold time over                 |   3|  |4   |
      |    v  |    |  the peer reports the path      |    v  |    |
      |  UNKNOWN   | ------------------------------> |  REPORTED  |
      +------------+ <------------------------------ +------------+
                      report withdrawn
      1 silence on every path       3 hold time over, and the peer reports the path
      2 probes are answered         4 detection time, own port down, or silence on every path

Unlike a BFD session, a path that recovers is held down for the hold time, which doubles with every
recent loss (damping). A path is not blamed for a silence on every path: it is unknown then, and
one that was down stays so for ``PATIENCE`` detection times.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto

from fedsdn.uplinks.probe import Probe
from fedsdn.uplinks.status import PathState

_LOSS_WINDOW = 64
"""Loss is measured over so many probes."""

_RTT_SMOOTHING = 1 / 8
"""Weight of a new sample (RFC 6298, section 2)."""

_FLAP_WINDOW = 10.0
"""Losses within the last so many seconds lengthen the hold time."""

_MAX_HOLD = 5.0

PATIENCE = 10
"""A path that is down stays so for this many detection times after its peer has gone silent."""

_NEVER = float("-inf")
_EXCUSES = 4
"""So often may a peer pause, one pause soon after the other, before a silent path is blamed."""
_REMEMBERED = 4 * _EXCUSES
"""Of so many pauses is known when they ended."""


class Verdict(Enum):
    """What can be said about a path at a moment."""

    GOOD = auto()
    BAD = auto()
    UNPROBED = auto()
    """No probes are sent: nothing is known against it, and nothing will be."""
    SILENT = auto()
    """The peer is silent on every path: its application may have ended."""


Finding = tuple[Verdict, str]
"""A verdict, and the reason in words."""


@dataclass(frozen=True, slots=True)
class Reception:
    """The probes received over one path, and what they measure. Times are seconds of one clock.

    ``opened`` is since when probes are expected, ``newest`` the epoch and number of the newest
    probe, ``heard`` when it came. ``confirmed`` is when the peer received our latest acknowledged
    probe, ``acknowledged`` when that one left. ``rtt`` is the smoothed round-trip time in seconds.
    """

    opened: float
    newest: tuple[int, int] = (0, 0)
    greeted: bool = False
    """Whether the newest is a greeting, which is of no round and has the last one's number."""
    heard: float | None = None
    confirmed: float | None = None
    rtt: float | None = None
    received: int = 0
    """A bit for each of the last probes, the newest lowest: 1 if it came."""
    expected: int = 0
    acknowledged: float | None = None

    def take(self, probe: Probe, now: float, sent: float | None) -> Reception:
        """Count a probe in; ``sent`` is when the probe of ours left that it acknowledges, if known.

        Returns this very object if the probe is a duplicate: not newer than the last. (A greeting
        is one if anything was received of its epoch.)
        """
        again = probe.epoch == self.newest[0]
        if again and (probe.is_greeting or probe.number <= self.newest[1]):
            return self
        received = expected = 1
        if again:
            gap = min(probe.number - self.newest[1], _LOSS_WINDOW)
            received = (self.received << gap | 1) & ((1 << _LOSS_WINDOW) - 1)
            expected = min(self.expected + gap, _LOSS_WINDOW)
        confirmed, rtt, acknowledged = self.confirmed, self.rtt, self.acknowledged
        if sent is not None:
            acknowledged = sent
            confirmed = now - probe.heard_ago / 1e6
            sample = confirmed - sent
            rtt = sample if rtt is None else rtt + _RTT_SMOOTHING * (sample - rtt)
        newest = (probe.epoch, probe.number)
        return Reception(
            *(self.opened, newest, probe.is_greeting, now, confirmed, rtt, received, expected),
            acknowledged,
        )

    def restart(self, now: float) -> Reception:
        """Expect probes anew, after the port was down; old ones stay refused."""
        return Reception(opened=now, newest=self.newest, greeted=self.greeted)

    @property
    def loss(self) -> float | None:
        """Part of the peer's last probes that did not come, 0 to 1; None before the first."""
        return 1 - self.received.bit_count() / self.expected if self.expected else None

    @property
    def last_heard(self) -> float:
        """When the newest probe came, or since when the first is expected."""
        return self.opened if self.heard is None else self.heard

    @property
    def last_confirmed(self) -> float:
        """When the peer received our latest acknowledged probe, or since when that is expected."""
        return self.opened if self.confirmed is None else self.confirmed

    @property
    def last_acknowledged(self) -> float:
        """When our latest acknowledged probe left, or since when one is expected to be."""
        return self.opened if self.acknowledged is None else self.acknowledged


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How often a peer sends probes (``theirs``), and this site to it; seconds.

    A path is down after ``multiplier`` times as long.
    """

    theirs: float
    ours: float
    multiplier: int

    @property
    def detection(self) -> float:
        """After how long a silence a path is down (RFC 5880, section 6.8.4)."""
        return self.theirs * self.multiplier

    @property
    def confirmation(self) -> float:
        """How long ago at most the peer may have received our latest acknowledged probe."""
        return max(self.theirs, self.ours) * self.multiplier


@dataclass(frozen=True, slots=True)
class Contact:
    """When a peer was last heard, and last heard us, on whichever path.

    ``news`` is when a probe came of a round of which none had, and ``acknowledged`` when our latest
    acknowledged probe left: of a peer that says nothing any more, a slower path brings for a while
    what a faster one has brought long ago.
    """

    heard: float = _NEVER
    news: float = _NEVER
    acknowledged: float = _NEVER
    confirmed: float = _NEVER
    """When the peer received our latest acknowledged probe."""
    appearances: tuple[float, ...] = ()
    """When its probes began to come, after a start of its application or a silence: the latest
    ``_REMEMBERED``, in order."""
    hastened: float = _NEVER
    """When its probes or ours began to go out more often: none was late before."""

    def take(self, path: Reception, now: float, *, appears: bool, new: bool) -> Contact:
        """Count in a probe that ``path`` has received, perhaps of a new round, or after silence."""
        return Contact(
            heard=now,
            news=now if new else self.news,
            acknowledged=max(self.acknowledged, path.acknowledged or self.acknowledged),
            confirmed=max(self.confirmed, path.confirmed or self.confirmed),
            appearances=(*self.appearances, now)[-_REMEMBERED:] if appears else self.appearances,
            hastened=self.hastened,
        )

    def expected_since(self, last: float, delay: float = 0.0) -> float:
        """Since when the next probe after the ``last`` is expected, or what comes by ``delay``.

        A peer that has appeared since excuses the path, but only ``_EXCUSES`` times: a dead path is
        found beside a peer that keeps pausing.
        """
        since = [one for one in self.appearances if one + delay > last]
        excuse = since[:_EXCUSES][-1] if since else _NEVER
        return max(last, excuse + delay, self.hastened)

    @property
    def appeared(self) -> float:
        """When its probes began to come the last time."""
        return self.appearances[-1] if self.appearances else _NEVER

    def was_silent(self, path: Reception, now: float, rhythm: Rhythm) -> bool:
        """Whether neither anything new came for the detection time, nor anything over ``path``."""
        return now - max(self.news, self.hastened, path.last_heard) >= rhythm.detection

    def speaks(self, now: float, rhythm: Rhythm) -> bool:
        """Whether the peer was heard within the detection time: what it said last still holds."""
        return now - max(self.heard, self.hastened) < rhythm.detection


def judge_probes(
    path: Reception, peer: str, contact: Contact, now: float, rhythm: Rhythm
) -> Finding:
    """Judge a path by its own probes and those on the peer's other paths.

    A path is blamed only if another one has brought, or taken, probes that left clearly later.
    Otherwise the peer is silent, or this process was not scheduled for a while.
    """
    heard = contact.expected_since(path.last_heard, path.rtt or 0.0)
    if now - heard >= rhythm.detection:
        if contact.news - heard > _clearly(rhythm.detection, rhythm.theirs):
            return Verdict.BAD, f"no probe received for {rhythm.detection * 1000:.0f} ms"
        return Verdict.SILENT, f"{peer} is silent on every path"
    confirmation = rhythm.confirmation
    confirmed = contact.expected_since(path.last_confirmed, path.rtt or 0.0)
    # The last acknowledgement counts as current until the next probe is late.
    current = now if now - heard < 1.5 * rhythm.theirs else heard
    if current - confirmed >= confirmation:
        left = contact.acknowledged - contact.expected_since(path.last_acknowledged)
        if left > _clearly(confirmation, max(rhythm.theirs, rhythm.ours)):
            return Verdict.BAD, f"{peer} received no probe for {confirmation * 1000:.0f} ms"
        return Verdict.SILENT, f"{peer} receives no probe on any path"
    # A peer that has only just appeared may still be silent on this path.
    oldest = min(path.heard or _NEVER, path.confirmed or _NEVER)
    is_old = oldest < contact.appeared and current - oldest >= rhythm.detection
    if is_old or oldest == _NEVER:
        return Verdict.SILENT, "no probe has been answered yet"
    return Verdict.GOOD, "probes come and are answered"


def _clearly(detection: float, interval: float) -> float:
    return detection - 1.5 * interval


def deadlines(path: Reception, contact: Contact, rhythm: Rhythm) -> tuple[float, ...]:
    """Return when ``judge_probes`` may find something else, if no more probes come."""
    heard = contact.expected_since(path.last_heard, path.rtt or 0.0)
    confirmed = contact.expected_since(path.last_confirmed, path.rtt or 0.0)
    return (
        heard + rhythm.detection,
        confirmed + rhythm.confirmation,
        max(contact.heard, contact.hastened) + rhythm.detection,
    )


class Condition(Enum):
    """A path's state, and if it is down, who detected that."""

    UNKNOWN = auto()
    UP = auto()
    DETECTED = auto()
    """Down by a verdict of ours, which we report to the peer."""
    REPORTED = auto()
    """Down by the peer's report alone."""


_STATES = {
    Condition.UNKNOWN: PathState.UNKNOWN,
    Condition.UP: PathState.UP,
    Condition.DETECTED: PathState.DOWN,
    Condition.REPORTED: PathState.DOWN,
}


@dataclass(frozen=True, slots=True)
class Liveness:
    """A path's condition, since when and why, and its damping."""

    since: float
    condition: Condition = Condition.UNKNOWN
    why: str = "no probe has come yet"
    good_since: float | None = None
    """When probes were answered again on a path that is held down."""
    losses: tuple[float, ...] = ()
    recovered: float = _NEVER
    """When it was last no longer down."""

    @property
    def state(self) -> PathState:
        """What others are told."""
        return _STATES[self.condition]

    @property
    def is_down(self) -> bool:
        """Whether it is down, whoever detected that."""
        return self.condition in (Condition.DETECTED, Condition.REPORTED)

    def judge(
        self,
        finding: Finding,
        report: str | None,
        path: Reception,
        now: float,
        times: tuple[float, float],
    ) -> Liveness:
        """Follow our finding, and the peer's ``report`` against the path, None if there is none.

        ``times`` are the peer's detection time and the hold time.
        """
        verdict, why = finding
        if verdict is Verdict.BAD:
            return replace(self._become(Condition.DETECTED, why, now), good_since=None)
        if self._is_held(verdict, path, now, times):
            return replace(
                self,
                condition=Condition.DETECTED if report is None else self.condition,
                good_since=None if verdict is Verdict.SILENT else self._good_since(now),
            )
        if report is not None:
            return self._become(Condition.REPORTED, report, now)
        good = verdict is Verdict.GOOD
        return self._become(Condition.UP if good else Condition.UNKNOWN, why, now)

    def _is_held(
        self, verdict: Verdict, path: Reception, now: float, times: tuple[float, float]
    ) -> bool:
        """Whether a path that is down stays so after the verdict against it has ended.

        The peer holds a path that is down by its report alone.
        """
        detection, hold = times
        if verdict is Verdict.SILENT:
            return self.is_down and now < self.patient_until(path, detection)
        return self.condition is Condition.DETECTED and self.held_until(now, hold) > now

    def patient_until(self, path: Reception, detection: float) -> float:
        """When a path that is down is not called so any more, if its peer stays silent."""
        return max(self.since, path.opened, path.last_heard) + PATIENCE * detection

    def _good_since(self, now: float) -> float:
        return now if self.good_since is None else self.good_since

    def held_until(self, now: float, hold: float) -> float:
        """When the hold time of a recovering path ends, if nothing else happens."""
        recent = sum(now - loss < _FLAP_WINDOW for loss in self.losses)
        longer: float = hold * 2 ** max(0, recent - 1)
        return self._good_since(now) + min(longer, _MAX_HOLD)

    def _become(self, condition: Condition, why: str, now: float) -> Liveness:
        if condition is self.condition and why == self.why:
            return self
        after = replace(self, condition=condition, why=why)
        if after.state is self.state:
            return after
        if not after.is_down:
            recovered = now if self.is_down else self.recovered
            return replace(after, since=now, recovered=recovered, good_since=None)
        recent = tuple(loss for loss in self.losses if now - loss < _FLAP_WINDOW)
        return replace(after, since=now, losses=(*recent, now))
