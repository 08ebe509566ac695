"""One path between two sites, judged by its probes: no sockets, no clock of its own.

The terms are those of BFD (RFC 5880): a path is down after a detection time without probes. Unlike
BFD's, one that came back has to stay for a hold time, which doubles with every loss.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from fedsdn.config.model import Address, AddressPair, Probes
from fedsdn.uplinks.probe import Probe
from fedsdn.uplinks.status import PathState

_LOSS_WINDOW = 64
"""Loss is measured over so many probes."""

_RTT_SMOOTHING = 1 / 8
"""Weight of a new sample (RFC 6298, section 2)."""

_FLAP_WINDOW = 10.0
"""Losses of the last so many seconds make the hold time longer."""

_MOST_HOLD = 5.0

_SETTLE_SECONDS = 2.0
"""What the kernels may take to open subflows of every connection on a path that came back."""

PATIENCE = 10
"""A path that was down stays so for this many detection times after its peer has gone silent."""


@dataclass(frozen=True, slots=True, order=True)
class PathName:
    """A path by the names of its ends: an uplink of ours, a peer, an uplink of the peer's."""

    uplink: str
    peer: str
    peer_uplink: str

    def __str__(self) -> str:
        return f"{self.uplink} to {self.peer}/{self.peer_uplink}"


class Verdict(Enum):
    """What can be said about a path at a moment."""

    GOOD = auto()
    BAD = auto()
    UNPROBED = auto()
    """Nothing is known against it, and nothing will be."""
    SILENT = auto()
    """Nothing comes from the peer at all, by no path: it may be its application that has ended."""


Finding = tuple[Verdict, str]
"""A verdict, and the reason in words."""


@dataclass(slots=True)
class Path:
    """A path, with what came over it. All times are seconds of one clock, which callers give."""

    name: PathName
    local: Address
    remote: Address
    opened: float
    """Since when probes are to come."""
    state: PathState = PathState.UNKNOWN
    since: float = 0.0
    why: str = "no probe has come yet"
    newest: tuple[int, int] = (0, 0)
    """Epoch and number of the newest probe that came."""
    heard: float | None = None
    """When it came."""
    confirmed: float | None = None
    """When the peer had the newest of our probes that it tells of."""
    rtt: float | None = None
    given_up: bool = False
    """Whether connections have been able to do without it since it went down."""
    agreed: bool = False
    """Whether the peer is known to know that it is down."""
    ended: bool = False
    """Whether its subflows have been ended since then: by then it was both."""
    found: bool = False
    """Whether it is down by what was found here, of which the peer is told. A path that is down
    without it is so by the peer's word."""
    told: int | None = None
    """In which round the peer was first told so."""
    _received: int = 0
    """A bit for each of the last probes, the newest lowest: 1 if it came."""
    _expected: int = 0
    _good_since: float | None = None
    _losses: list[float] = field(default_factory=list)
    _returned: float = float("-inf")
    """When it was last no longer down."""

    def take(self, probe: Probe, now: float, sent: float | None) -> bool:
        """Note a probe that came; ``sent`` is when ours left that it tells of.

        False if it is not newer than the last: a copy.
        """
        newest = (probe.epoch, probe.number)
        if newest <= self.newest:
            return False
        if probe.epoch == self.newest[0]:
            gap = min(probe.number - self.newest[1], _LOSS_WINDOW)
            self._received = (self._received << gap | 1) & ((1 << _LOSS_WINDOW) - 1)
            self._expected = min(self._expected + gap, _LOSS_WINDOW)
        else:
            self._received = self._expected = 1
        self.newest = newest
        self.heard = now
        if sent is not None:
            ago = probe.heard_ago / 1e6
            self.confirmed = now - ago
            self._measure(now - ago - sent)
        return True

    def _measure(self, sample: float) -> None:
        if self.rtt is None:
            self.rtt = sample
        self.rtt += _RTT_SMOOTHING * (sample - self.rtt)

    @property
    def loss(self) -> float | None:
        """Part of the peer's last probes that did not come, 0 to 1; None before the first."""
        if not self._expected:
            return None
        return 1 - self._received.bit_count() / self._expected

    @property
    def pair(self) -> AddressPair:
        """The addresses of its subflows."""
        return self.local, self.remote

    @property
    def lives_since(self) -> float:
        """When it was last no longer down, if it is not; probes have come since."""
        return max(self._returned, self.opened)

    def settled(self, now: float) -> bool:
        """Whether connections have had the time to get subflows on it, if it lives."""
        return now - self.lives_since > _SETTLE_SECONDS

    def restart(self, now: float) -> None:
        """Forget what came: probes begin anew, after the port was down or the peer had left."""
        self.opened = now
        self.heard = self.confirmed = self.rtt = None
        self._received = self._expected = 0

    def judge(self, finding: Finding, word: str | None, now: float, probes: Probes) -> bool:
        """Draw the conclusion from what is found here; True if the state changed.

        Whatever that is, the path is down while there is a ``word`` of the peer against it.
        """
        verdict, why = finding
        if verdict in (Verdict.BAD, Verdict.SILENT):
            self._good_since = None
        if verdict is Verdict.BAD:
            self._found_dead()
            return self._become(PathState.DOWN, why, now)
        if self.state is PathState.DOWN and self._is_held(verdict, now, probes):
            if word is None:
                self._found_dead()  # whatever it was down for
            return False
        self.found = False
        if word is not None:
            return self._become(PathState.DOWN, word, now)
        self._good_since = None
        good = verdict is Verdict.GOOD
        return self._become(PathState.UP if good else PathState.UNKNOWN, why, now)

    def _found_dead(self) -> None:
        """Have the peer told, unless it is or will be."""
        if not self.found:
            self.found, self.told = True, None

    def _is_held(self, verdict: Verdict, now: float, probes: Probes) -> bool:
        """Whether a path that is down stays so, though nothing bad is found any more.

        What is down by the peer's word alone is held there.
        """
        if verdict is Verdict.SILENT:  # nothing better is known
            quiet = now - max(self.since, self.opened, self.heard or 0.0)
            return quiet < PATIENCE * probes.detection
        return self.found and self.held_until(now, probes) > now

    def held_until(self, now: float, probes: Probes) -> float:
        """When a path that has come back is used again, if nothing else happens."""
        if self._good_since is None:
            self._good_since = now
        recent = sum(now - loss < _FLAP_WINDOW for loss in self._losses)
        hold: float = probes.hold * 2 ** max(0, recent - 1)
        return self._good_since + min(hold, _MOST_HOLD)

    def _become(self, state: PathState, why: str, now: float) -> bool:
        changed = state is not self.state
        if changed:
            if self.state is PathState.DOWN:
                self._returned = now
            self.state, self.since = state, now
            if state is PathState.DOWN:
                self._losses = [loss for loss in self._losses if now - loss < _FLAP_WINDOW]
                self._losses.append(now)
        self.why = why
        return changed
