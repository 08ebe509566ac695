"""How often each peer is probed: no sockets, no clock.

Peers that connections depend on are probed at the full rate (``probes`` of the federation file).
All others share what is left over for them: a few have the full rate, too, and of many each is
probed rarely, at moments that are spread over time. Every probe says when the next one is due, as
in BFD (RFC 5880, section 6.8.2), so that a peer knows how long a silence is one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum, auto

KEEP_SECONDS = 120.0
"""A peer counts as busy for so long after its last connection."""

WISH_SECONDS = 60.0
"""What a peer wished when it was heard last is granted for so long."""

REPEATS = (0.01, 0.03)
"""A round with news is sent at once, and again after so many seconds: a probe may be lost."""

_TELLING = 3
"""So many rounds tell a peer that it is probed more rarely, before it is."""


_TICKS, _LONGEST_TICK = 20, 0.1
"""An interval has so many places at which rounds are sent, or one each so many seconds."""


class Kind(Enum):
    """What a peer is, as far as its probes are concerned."""

    BUSY = auto()
    """Connections depend on its paths, here or there, and it is heard."""
    IDLE = auto()
    """It is heard, or asked for; nothing depends on it now."""
    ABSENT = auto()
    """It is not heard, and nobody asks for it."""


SHARES = {Kind.BUSY: (4000.0, 10.0), Kind.IDLE: (400.0, 10.0), Kind.ABSENT: (100.0, 30.0)}
"""Probes a second for all peers of a kind together, and the longest interval that follows from it.
A probe costs some 50 µs at both ends together; with 400 of them a second a core is idle."""


class Shares:
    """Divides the probes among the peers."""

    def __init__(self, interval: float) -> None:
        """Begin without any; ``interval`` is that of the full rate, in seconds."""
        self._interval = interval
        self._paths = dict.fromkeys(Kind, 0)

    def move(self, paths: int, before: Kind | None, after: Kind | None) -> None:
        """Count the ``paths`` of a peer that was ``before`` and is ``after`` now."""
        if before is not None:
            self._paths[before] -= paths
        if after is not None:
            self._paths[after] += paths

    def interval(self, kind: Kind) -> float:
        """Return after how many seconds a peer of this kind is to be probed again."""
        rate, longest = SHARES[kind]
        return max(self._interval, min(self._paths[kind] / rate, longest))


@dataclass(slots=True)
class Pace:
    """When one peer is probed. ``phase``, 0 to 1, is its place among the peers.

    ``interval`` is that between rounds, ``due`` is when the next one is.
    """

    phase: float
    interval: float
    due: float = float("inf")
    repeats: list[float] = field(default_factory=list)
    telling: int = 0

    def begin(self, interval: float, now: float) -> None:
        """Have the first round sent within an interval."""
        if math.isinf(self.due):
            self.interval = interval
            self.due = self._place_after(now)

    def hurry(self, now: float) -> None:
        """Have a round sent at once, and repeated."""
        self.due = now
        self.repeats = [now + seconds for seconds in REPEATS]

    def sent(self, wanted: float, now: float, *, hears: bool = True) -> None:
        """Go on to the next round after one that has told ``wanted``, the interval from now on.

        A longer one is kept only when a peer that ``hears`` has been told: it would take the pause
        for silence.
        """
        self.telling = self.telling + 1 if wanted > self.interval else 0
        if wanted <= self.interval or self.telling > _TELLING or not hears:
            self.interval, self.telling = wanted, 0
        regular = self._place_after(now + self.interval / 4)
        self.repeats = [moment for moment in self.repeats if moment > now]
        self.due = min(regular, *self.repeats) if self.repeats else regular

    def _place_after(self, moment: float) -> float:
        """Return the peer's next place in time: however it came here, peers stay spread.

        A few that are near each other share a place, so that the process wakes up less often.
        """
        tick = min(self.interval / _TICKS, _LONGEST_TICK)
        place = math.floor(self.phase * self.interval / tick) * tick
        after = place + math.ceil((moment - place) / self.interval) * self.interval
        return after if after > moment else after + self.interval
