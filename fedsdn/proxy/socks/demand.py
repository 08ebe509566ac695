"""How many connections to a peer should be ready: pure code."""

from __future__ import annotations

from collections import deque

MOST_READY = 16
"""The most that one worker keeps ready for one peer. More at a time make their own handshakes."""

KEEP_SECONDS = 30.0
"""How long connections are kept ready for a demand that does not come again."""

_BURST_SECONDS = 0.25
"""Connections opened within such a time need as many that are ready: the next ones take a few round
trips to make."""


class Demand:
    """The requests of late, counted in bursts."""

    def __init__(self) -> None:
        """Begin without any."""
        self._bursts: deque[tuple[float, int]] = deque()
        """Beginning and size, of those only that no later one is larger than."""

    def asked(self, now: float) -> None:
        """Note a request."""
        began, size = now, 0
        if self._bursts and now < self._bursts[-1][0] + _BURST_SECONDS:
            began, size = self._bursts.pop()
        while self._bursts and self._bursts[-1][1] <= size + 1:
            self._bursts.pop()
        self._bursts.append((began, size + 1))

    def wanted(self, now: float) -> int:
        """Return how many connections should be ready: as many as the largest burst of late had."""
        while self._bursts and now >= self._bursts[0][0] + KEEP_SECONDS:
            self._bursts.popleft()
        return min(MOST_READY, self._bursts[0][1]) if self._bursts else 0
