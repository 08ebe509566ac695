"""The order of paths to a peer, by the states that the controller reports."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from fedsdn.config.model import Site, Uplink
from fedsdn.uplinks.status import STALE_SECONDS, PathState, SiteStatus

_ORDER = (PathState.UP, PathState.UNKNOWN, PathState.DOWN)
_UNKNOWN = (_ORDER.index(PathState.UNKNOWN), False)

_FAR = 2.0
"""Ratio of a path's round-trip time to the shortest one, above which the path is far."""


class LivePaths:
    """Has the last reported states; once these are stale, all paths are equal."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without states. ``clock`` returns seconds."""
        self._clock = clock
        self._fresh_until = 0.0
        self._ranks: dict[tuple[str, str, str], tuple[int, bool]] = {}
        self._usable: set[tuple[str, str, str]] = set()

    def live_first(
        self, paths: Iterable[tuple[Uplink, Uplink]], peer: Site
    ) -> list[tuple[Uplink, Uplink]]:
        """Sort paths to ``peer``: up and near ones first, down ones last.

        A connection begins on the first; a much longer path would delay its handshake.
        """
        known = self._ranks if self._fresh else {}

        def rank(path: tuple[Uplink, Uplink]) -> tuple[int, bool]:
            own, other = path
            return known.get((own.name, peer.name, other.name), _UNKNOWN)

        return sorted(paths, key=rank)

    def usable(
        self, paths: Iterable[tuple[Uplink, Uplink]], peer: Site
    ) -> list[tuple[Uplink, Uplink]]:
        """Leave out paths that are down, and those of uplinks without an MPTCP endpoint."""
        return [
            (own, other)
            for own, other in self.live_first(paths, peer)
            if not self._fresh or (own.name, peer.name, other.name) in self._usable
        ]

    @property
    def _fresh(self) -> bool:
        return self._clock() < self._fresh_until

    def take(self, status: SiteStatus) -> bool:
        """Replace the states; True if a path has become usable."""
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
        endpoints = {uplink.name for uplink in status.uplinks if uplink.endpoint is not None}
        before = self._usable
        self._usable = {
            (path.uplink, path.peer, path.peer_uplink)
            for path in status.paths
            if path.uplink in endpoints and path.state is not PathState.DOWN
        }
        return not self._usable <= before
