"""What the proxy's workers are told of the paths: what has changed since they were told last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from msgspec import Struct

from fedsdn.uplinks.path import Path, PathKey
from fedsdn.uplinks.paths import Paths
from fedsdn.uplinks.status import PathState

TELL_SECONDS = 1.0
"""Workers are told something at least this often, and of every change of a state at once."""

_DRIFT = 1 / 4
_DRIFT_MS = 2.0
"""A round-trip time that has changed by this part of it, and so many milliseconds, is told."""


class ToldPath(Struct, frozen=True, array_like=True):
    """What is told of a path. ``current``: its loss would be noticed at the full rate.

    ``rtt_ms`` is the round-trip time, None if it is not known.
    """

    uplink: str
    peer: str
    peer_uplink: str
    state: PathState
    rtt_ms: float | None
    current: bool

    @property
    def key(self) -> PathKey:
        """Its name."""
        return self.uplink, self.peer, self.peer_uplink


@dataclass(frozen=True, slots=True)
class PathNews:
    """Paths that have changed, or are gone, and the uplinks that have an MPTCP endpoint now."""

    paths: tuple[ToldPath, ...]
    gone: tuple[PathKey, ...]
    endpoints: tuple[str, ...]


class News:
    """Gathers what has changed of ``paths``."""

    def __init__(self, paths: Paths) -> None:
        """Begin with everything."""
        self._paths = paths
        self._changed: dict[PathKey, Path] = {path.key: path for path in paths}
        self._gone: set[PathKey] = set()
        self._look_at = float("-inf")

    def set_paths(self, paths: Paths) -> None:
        """Go over to the paths of a changed federation."""
        self._gone |= {path.key for path in self._paths}
        self._gone -= {path.key for path in paths}
        self._paths = paths
        self._changed = {path.key: path for path in paths}

    def take(self, changed: Iterable[Path]) -> list[Path]:
        """Take in paths that have changed; return those whose state has, for the log."""
        every = list(changed)
        self._changed.update((path.key, path) for path in every)
        said = [path for path in every if path.state is not path.said]
        for path in said:
            path.said = path.state
        return said

    def gather(self, endpoints: Mapping[str, int], now: float) -> PathNews:
        """Return what has changed since the last time.

        Round-trip times change all the time, and are looked at now and then.
        """
        candidates = self._changed
        if now >= self._look_at:
            candidates |= self._paths.heard
            self._paths.heard.clear()
            self._look_at = now + TELL_SECONDS
        told = []
        for path in candidates.values():
            if _has_changed(path):
                path.told = _told(path)
                told.append(path.told)
        news = PathNews(tuple(told), tuple(self._gone), tuple(sorted(endpoints)))
        self._changed.clear()
        self._gone.clear()
        return news


def _has_changed(path: Path) -> bool:
    told = path.told
    return (
        not isinstance(told, ToldPath)
        or told.state is not path.state
        or told.current is not path.current
        or _has_drifted(told.rtt_ms, path.rtt)
    )


def _has_drifted(told_ms: float | None, rtt: float | None) -> bool:
    if told_ms is None or rtt is None:
        return (told_ms is None) is not (rtt is None)
    change = abs(rtt * 1000 - told_ms)
    return change > _DRIFT_MS and change > _DRIFT * told_ms


def _told(path: Path) -> ToldPath:
    rtt_ms = None if path.rtt is None else round(path.rtt * 1000, 3)
    return ToldPath(*path.key, path.state, rtt_ms, path.current)
