"""Which paths to try first, by what the application has found out about them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from fedsdn.config.model import Site, Uplink
from fedsdn.uplinks.status import (
    STALE_SECONDS,
    STATUS_FILE,
    PathState,
    SiteStatus,
    read_status,
)

_ORDER = (PathState.UP, PathState.UNKNOWN, PathState.DOWN)
_UNKNOWN = (_ORDER.index(PathState.UNKNOWN), False)

_FAR = 2.0
"""A path is far if its round-trip time is so many times that of the nearest one."""


class LivePaths:
    """Follows the application's status file; without one every path is as good."""

    def __init__(self, file: Path = STATUS_FILE) -> None:
        """Follow ``file``, which need not be there yet."""
        self._file = file
        self._version = 0
        self._written = 0.0
        self._ranks: dict[tuple[str, str, str], tuple[int, bool]] = {}

    def live_first(
        self, paths: Iterable[tuple[Uplink, Uplink]], peer: Site
    ) -> list[tuple[Uplink, Uplink]]:
        """Put paths to ``peer`` that are up and near first, and those that are down last.

        A connection begins on the first; a much longer path would delay all that it begins with.
        """
        self._refresh()
        known = self._ranks if time.time() - self._written < STALE_SECONDS else {}

        def rank(path: tuple[Uplink, Uplink]) -> tuple[int, bool]:
            own, other = path
            return known.get((own.name, peer.name, other.name), _UNKNOWN)

        return sorted(paths, key=rank)

    def _refresh(self) -> None:
        try:
            version = os.stat(self._file).st_mtime_ns
        except OSError:
            version = 0
        if version != self._version:
            self._version = version
            self._take(read_status(self._file))

    def _take(self, status: SiteStatus | None) -> None:
        self._written = 0.0 if status is None else status.written
        paths = () if status is None else status.paths
        nearest: dict[str, float] = {}
        for path in paths:
            if path.state is PathState.UP and path.rtt_ms is not None:
                nearest[path.peer] = min(path.rtt_ms, nearest.get(path.peer, path.rtt_ms))
        self._ranks = {
            (path.uplink, path.peer, path.peer_uplink): (
                _ORDER.index(path.state),
                (path.rtt_ms or 0.0) > _FAR * nearest.get(path.peer, 0.0),
            )
            for path in paths
        }
