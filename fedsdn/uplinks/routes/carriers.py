"""Which paths to a peer carry what is not TCP; no sockets, no clock."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Set
from dataclasses import dataclass, replace
from typing import NamedTuple

from fedsdn.config.model import Prefer
from fedsdn.uplinks.path import PathKey
from fedsdn.uplinks.status import PathState

STEADY_SECONDS = 5.0
"""A path has to have been the faster one for so long before flows move to it; twice as long after
each move, as what moves may be what makes a path the slower one."""
MOST_STEADY_SECONDS = 300.0
"""It becomes no longer than that; and is as at the start when no path was faster for so long."""

_FASTER = 3 / 4
_FASTER_SECONDS = 0.002
"""A path is the faster one if its round trip takes this part of the other's at most, and is shorter
by so many seconds: less is noise, or the queue of what flows there."""


class Seen(NamedTuple):
    """What is known of a path; ``rtt`` is its round-trip time in seconds, None if unknown.

    ``ready`` says whether its tunnel works: a path whose probes come may have one that does not.
    """

    key: PathKey
    state: PathState
    rtt: float | None
    ready: bool = True


@dataclass(frozen=True, slots=True)
class Carriers:
    """The ``paths`` to a peer that carry, of all that ``live``.

    ``faster_since`` is when one of the others became faster than the only one that carries. It has
    to stay so for ``steady`` seconds. ``restless`` is when one was the faster one last.
    """

    paths: frozenset[PathKey] = frozenset()
    live: frozenset[PathKey] = frozenset()
    faster_since: float | None = None
    steady: float = STEADY_SECONDS
    restless: float = float("-inf")

    def after(self, seen: Collection[Seen], prefer: Prefer, now: float) -> Carriers:
        """Return what carries by what is known ``now``: all that live, or the fastest of them."""
        live = _live(seen, self.live)
        if prefer == "spread" or len(live) < 2:
            return self._with(live, live)
        times = {one.key: _seconds(one.rtt) for one in seen if one.key in live}
        return self._fastest(times, now)

    def _fastest(self, times: dict[PathKey, float], now: float) -> Carriers:
        live = frozenset(times)
        best = _first(times, live)
        before = self.paths & live
        if not before:
            return self._with({best}, live)
        carries = _first(times, before)
        stays = self._with({carries}, live)
        if not _is_faster(times[best], times[carries]):
            return stays
        since = now if self.faster_since is None else self.faster_since
        calm = now - self.restless >= MOST_STEADY_SECONDS
        steady = STEADY_SECONDS if calm else self.steady
        if now - since < steady:
            return replace(stays, faster_since=since, steady=steady, restless=now)
        longer = min(2 * steady, MOST_STEADY_SECONDS)
        return replace(self._with({best}, live), steady=longer, restless=now)

    def _with(self, paths: Set[PathKey], live: frozenset[PathKey]) -> Carriers:
        return replace(self, paths=frozenset(paths), live=live, faster_since=None)


def _live(seen: Collection[Seen], before: Set[PathKey]) -> frozenset[PathKey]:
    """Return the paths that are up, and those that were before and are not known to be down.

    If there is none, all that may be up: nothing is lost by a try.
    """
    up = {one.key for one in seen if one.state is PathState.UP and one.ready}
    unknown = {one.key for one in seen if one.state is PathState.UNKNOWN}
    lame = {one.key for one in seen if one.state is PathState.UP}
    return frozenset((up | (unknown & before)) or lame or unknown)


def _first(times: dict[PathKey, float], among: Iterable[PathKey]) -> PathKey:
    return min(among, key=lambda key: (times[key], key))


def _seconds(rtt: float | None) -> float:
    return float("inf") if rtt is None else rtt


def _is_faster(one: float, other: float) -> bool:
    return one <= _FASTER * other and one <= other - _FASTER_SECONDS and one < other
