"""Carriers that come and go: a loss counts at once, a return only when it stays."""

from __future__ import annotations

import math
from collections.abc import Set

AGAIN_SECONDS = 5.0
"""A loss so soon after the last one's end is another of the same trouble."""

STEADY_SECONDS = 0.3
"""How long the carrier has to stay after such a loss until its return counts. Each change works on
endpoints, subflows and routes at both sites."""


class Flapping:
    """Which interfaces count as without a carrier. Knows no sockets; a clock counts seconds."""

    def __init__(self) -> None:
        """Begin; no interface has lost its carrier yet."""
        self._lost: Set[str] = frozenset()
        self._last: dict[str, float] = {}
        """When each was last seen without a carrier."""
        self._doubted: set[str] = set()

    def take(self, lost: Set[str], now: float) -> frozenset[str]:
        """Take which have none now; return which count as such."""
        for name in lost - self._lost:
            if now < self._last.get(name, -math.inf) + AGAIN_SECONDS:
                self._doubted.add(name)
        self._lost = lost
        self._last.update(dict.fromkeys(lost, now))
        self._doubted = {name for name in self._doubted if now < self._last[name] + STEADY_SECONDS}
        return frozenset(lost | self._doubted)
