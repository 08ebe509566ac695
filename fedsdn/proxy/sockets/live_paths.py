"""The order of paths to a peer, by the states that the controller reports."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field

from fedsdn.channel.messages import PathsMessage
from fedsdn.config.model import Site, Uplink
from fedsdn.uplinks.news import ToldPath
from fedsdn.uplinks.path import PathKey
from fedsdn.uplinks.status import STALE_SECONDS, PathState

Rank = tuple[int, bool]

_CURRENT, _UP, _UNKNOWN, _DOWN = range(4)
"""Up by probes at the full rate; up when it was probed last; the other two states."""

_ORDER = {PathState.UP: _UP, PathState.UNKNOWN: _UNKNOWN, PathState.DOWN: _DOWN}
_NOTHING_KNOWN: Rank = (_UNKNOWN, False)

_FAR = 2.0
"""Ratio of a path's round-trip time to the shortest one, above which the path is far."""

_MOST_AT_ONCE = 4
"""So many paths are tried at once, if none is known to live at this moment."""


@dataclass(slots=True)
class _Peer:
    """The paths to a peer as they were told, and what follows."""

    paths: dict[PathKey, ToldPath] = field(default_factory=dict)
    ranks: Mapping[PathKey, Rank] = field(default_factory=dict)
    usable: Set[PathKey] = frozenset()

    def look(self, endpoints: Set[str]) -> bool:
        """Find out what follows; True if a path has become usable."""
        up = (one for one in self.paths.values() if one.state is PathState.UP)
        nearest = min((one.rtt_ms for one in up if one.rtt_ms is not None), default=0.0)
        self.ranks = {
            key: (
                _CURRENT if one.current else _ORDER[one.state],
                (one.rtt_ms or 0) > _FAR * nearest,
            )
            for key, one in self.paths.items()
        }
        before = self.usable
        self.usable = {
            key
            for key, one in self.paths.items()
            if one.uplink in endpoints and one.state is not PathState.DOWN
        }
        return not self.usable <= before


class LivePaths:
    """Has the states reported last; once these are stale, all paths are equal."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without states. ``clock`` returns seconds."""
        self._clock = clock
        self._fresh_until = 0.0
        self._peers: dict[str, _Peer] = {}
        self._endpoints: Set[str] = frozenset()
        self._parts: list[PathsMessage] = []
        """Messages whose rest has not come yet."""

    def live_first(
        self, paths: Iterable[tuple[Uplink, Uplink]], peer: Site
    ) -> list[tuple[Uplink, Uplink]]:
        """Sort paths to ``peer``: up and near ones first, down ones last.

        A connection begins on the first; a much longer path would delay its handshake.
        """
        known = self._known(peer)
        return sorted(paths, key=lambda path: _rank(known, path, peer))

    def at_once(self, paths: Iterable[tuple[Uplink, Uplink]], peer: Site) -> int:
        """Return on how many of the paths, in the order of ``live_first``, to begin at once.

        A peer that nothing depended on is probed rarely: a path may have died meanwhile.
        """
        known = self._known(peer)
        places = [_rank(known, path, peer)[0] for path in paths]
        if _CURRENT in places or _UP not in places:
            return 1
        return min(places.count(_UP), _MOST_AT_ONCE)

    def usable(
        self, paths: Iterable[tuple[Uplink, Uplink]], peer: Site
    ) -> list[tuple[Uplink, Uplink]]:
        """Leave out paths that are down, and those of uplinks without an MPTCP endpoint."""
        known = self._known(peer)
        return [
            (own, other)
            for own, other in self.live_first(paths, peer)
            if known is None or (own.name, peer.name, other.name) in known.usable
        ]

    def _known(self, peer: Site) -> _Peer | None:
        """Return what was told of the paths to a peer; None if nothing holds any more."""
        if self._clock() >= self._fresh_until:
            return None
        return self._peers.get(peer.name, _Peer())

    def take(self, message: PathsMessage) -> bool:
        """Take in what has changed; True if a path has become usable."""
        self._fresh_until = self._clock() + STALE_SECONDS
        if message.anew:  # the rest of older ones was lost with their channel
            self._parts.clear()
        self._parts.append(message)
        if message.more:
            return False
        parts, self._parts = self._parts, []
        changed: set[str] = set()
        if any(part.anew for part in parts):
            changed |= self._peers.keys()
            for peer in self._peers.values():
                peer.paths = {}
        for part in parts:
            changed |= self._take_part(part)
        if self._endpoints != (endpoints := frozenset(message.endpoints)):
            self._endpoints, changed = endpoints, set(self._peers)
        usable = [self._peers[name].look(endpoints) for name in changed]
        for name in changed:
            if not self._peers[name].paths:
                del self._peers[name]
        return any(usable)

    def _take_part(self, part: PathsMessage) -> set[str]:
        """Take in paths; return the names of their peers."""
        for path in part.paths:
            self._peers.setdefault(path.peer, _Peer()).paths[path.key] = path
        gone = [key for key in part.gone if key[1] in self._peers]
        for key in gone:
            self._peers[key[1]].paths.pop(key, None)
        return {path.peer for path in part.paths} | {peer for _, peer, _ in gone}


def _rank(known: _Peer | None, path: tuple[Uplink, Uplink], peer: Site) -> Rank:
    own, other = path
    if known is None:
        return _NOTHING_KNOWN
    return known.ranks.get((own.name, peer.name, other.name), _NOTHING_KNOWN)
