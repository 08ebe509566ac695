"""Which paths to try first, by what the application has found out about them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from fedsdn.config.model import Site, Uplink
from fedsdn.uplinks.status import STALE_SECONDS, PathState, SiteStatus

_ORDER = (PathState.UP, PathState.UNKNOWN, PathState.DOWN)
_UNKNOWN = (_ORDER.index(PathState.UNKNOWN), False)

_FAR = 2.0
"""A path is far if its round-trip time is so many times that of the nearest one."""


class LivePaths:
    """Knows what the application said last; when that is old, every path is as good."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with nothing known. ``clock`` tells seconds."""
        self._clock = clock
        self._fresh_until = 0.0
        self._ranks: dict[tuple[str, str, str], tuple[int, bool]] = {}

    def live_first(
        self, paths: Iterable[tuple[Uplink, Uplink]], peer: Site
    ) -> list[tuple[Uplink, Uplink]]:
        """Put paths to ``peer`` that are up and near first, and those that are down last.

        A connection begins on the first; a much longer path would delay all that it begins with.
        """
        known = self._ranks if self._clock() < self._fresh_until else {}

        def rank(path: tuple[Uplink, Uplink]) -> tuple[int, bool]:
            own, other = path
            return known.get((own.name, peer.name, other.name), _UNKNOWN)

        return sorted(paths, key=rank)

    def take(self, status: SiteStatus) -> None:
        """Go by a status from now on, until the next one."""
        self._fresh_until = self._clock() + STALE_SECONDS
        nearest: dict[str, float] = {}
        for path in status.paths:
            if path.state is PathState.UP and path.rtt_ms is not None:
                nearest[path.peer] = min(path.rtt_ms, nearest.get(path.peer, path.rtt_ms))
        self._ranks = {
            (path.uplink, path.peer, path.peer_uplink): (
                _ORDER.index(path.state),
                (path.rtt_ms or 0.0) > _FAR * nearest.get(path.peer, 0.0),
            )
            for path in status.paths
        }
