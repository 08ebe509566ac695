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


class LivePaths:
    """Follows the application's status file; without one every path is as good."""

    def __init__(self, file: Path = STATUS_FILE) -> None:
        """Follow ``file``, which need not be there yet."""
        self._file = file
        self._version = 0
        self._written = 0.0
        self._states: dict[tuple[str, str, str], PathState] = {}

    def live_first(
        self, paths: Iterable[tuple[Uplink, Uplink]], peer: Site
    ) -> list[tuple[Uplink, Uplink]]:
        """Put paths to ``peer`` that are up first, and those that are down last."""
        self._refresh()
        known = self._states if time.time() - self._written < STALE_SECONDS else {}

        def rank(path: tuple[Uplink, Uplink]) -> int:
            own, other = path
            state = known.get((own.name, peer.name, other.name), PathState.UNKNOWN)
            return _ORDER.index(state)

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
        self._states = {
            (path.uplink, path.peer, path.peer_uplink): path.state
            for path in (() if status is None else status.paths)
        }
