"""When a tunnel's sessions begin, and which end begins them; no sockets, no clock.

Two ends that begin one at the same time refuse each other's answers, and WireGuard tries again
after five seconds; so it does when an attempt is lost, as while the peer's tunnel is not there yet
(https://www.wireguard.com/papers/wireguard.pdf, sections 5.4 and 6). Packets wait so long. So one
end begins a session, as soon as the path lives, and does not wait for five seconds. Keepalives keep
it at both ends.

An end that has lost its state (its program has died, its host was started again) cannot be heard by
the other, which has a session still and sends by it. So who had one begins at once, and who cannot
know does after two seconds: that crosses no attempt of the other end's.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import NamedTuple

from fedsdn.tunnels.configuration import Seen
from fedsdn.tunnels.plan import Tunnel

End = tuple[str, str]
"""A tunnel's interface, and a site at its other end."""

SESSION_SECONDS = 180.0
"""After so long nothing goes by a session any more; one in which something is said is followed by
another after 120 (the same, section 6.1)."""

_AGAIN_SECONDS = 1.0
"""How long after an attempt the next one is made, and each time twice as long after: at 0, 1, 3, 7
and 15 seconds."""
_OTHERS_AGAIN_SECONDS = 3.0
"""The same at the other end: at 2, 5, 11, 23 and 47 seconds."""
_MOST_ATTEMPTS = 5
"""So many; more are left to WireGuard itself, whose pause is five seconds."""
OTHER_SECONDS = 2.0
"""After so long the other end begins one, too: a firewall may let in answers alone, or the first
end has a session that this one has lost."""
_RESTLESS_SECONDS = 20.0


class Heard(NamedTuple):
    """What has come by a tunnel: bytes, and the seconds since the last session began, if any."""

    octets: int
    age: float | None

    @property
    def has_session(self) -> bool:
        """Whether packets can go by it at once."""
        return self.age is not None and self.age < SESSION_SECONDS


class Due(NamedTuple):
    """Ends that are to have keepalives, and ends whose peer is to be made anew.

    A peer is made anew to forget when the last attempt was made: the first keepalive begins one.
    """

    kept: Set[End]
    anew: Set[End]


@dataclass(slots=True)
class _Waiting:
    """A live path without a session: since when, when this end begins, and its attempts.

    The next one is ``due``, and that after it ``pause`` seconds later.
    """

    since: float
    first: float
    due: float
    pause: float
    attempts: int = 0

    def takes_another(self, now: float) -> bool:
        """Make an attempt, if it is time for one."""
        if now < self.due or self.attempts == _MOST_ATTEMPTS:
            return False
        self.due = now + self.pause
        self.pause *= 2
        self.attempts += 1
        return True


@dataclass(slots=True)
class Sessions:
    """Follows the sessions of a site's tunnels, by the host's clock and one that nobody sets."""

    heard: Mapping[End, Heard] = field(default_factory=dict)
    """By what was seen last."""
    _begins: Mapping[End, bool] = field(default_factory=dict)
    _began: dict[tuple[str, bytes], tuple[int, float]] = field(default_factory=dict)
    """When the last session with a peer's key did: by the host's clock, and by the other."""
    _had: dict[End, float] = field(default_factory=dict)
    """When the last session with an end began, by that clock, as long as that end may use it."""
    _waiting: Mapping[End, _Waiting] = field(default_factory=dict)

    def note(
        self, tunnels: Mapping[str, Tunnel], seen: Mapping[str, Seen], now: float, wall: float
    ) -> None:
        """Note what interfaces have; ``wall`` is the host's clock, in seconds since 1970."""
        before, self._began = self._began, {}
        heard: dict[End, Heard] = {}
        begins: dict[End, bool] = {}
        for name, present in seen.items():
            states = {one.key: one for one in present.peers}
            for peer in tunnels[name].peers if name in tunnels else ():
                octets, age = 0, None
                for key in (peer.key, *peer.spare_keys):
                    one = states.get(key)
                    if one is None:
                        continue
                    octets += one.received
                    if one.handshake is not None:
                        which = name, key
                        began = _began(one.handshake, before.get(which), now, wall)
                        self._began[which] = began
                        age = now - began[1] if age is None else min(age, now - began[1])
                end = name, peer.site
                begins[end] = peer.begins
                heard[end] = Heard(octets, age)
                if age is not None:
                    self._had[end] = now - age
        self.heard, self._begins = heard, begins
        self._forget(tunnels, now)

    def _forget(self, tunnels: Mapping[str, Tunnel], now: float) -> None:
        """Forget sessions that have ended, and those with ends that are not in the file any more.

        An interface that is gone for a moment is still in it.
        """
        for end in [end for end, began in self._had.items() if now - began >= SESSION_SECONDS]:
            del self._had[end]
        for name, site in self._had.keys() - self.heard.keys():
            if name not in tunnels or all(peer.site != site for peer in tunnels[name].peers):
                del self._had[name, site]

    def begin(self, live: Set[End], now: float) -> Due:
        """Say what is to be done; ``live`` are the ends whose paths do."""
        kept, anew = set[End](), set[End]()
        waiting: dict[End, _Waiting] = {}
        for end, begins in self._begins.items():
            if self.heard[end].has_session:
                kept.add(end)
            elif end in live:
                known = self._waiting.get(end)
                one = waiting[end] = (
                    self._first(end, now, begins=begins) if known is None else known
                )
                if now >= one.first:
                    kept.add(end)
                    if one.takes_another(now):
                        anew.add(end)
        self._waiting = waiting
        return Due(kept, anew)

    def _first(self, end: End, now: float, *, begins: bool) -> _Waiting:
        first = now if begins or end in self._had else now + OTHER_SECONDS
        return _Waiting(now, first, first, _AGAIN_SECONDS if begins else _OTHERS_AGAIN_SECONDS)

    def is_restless(self, now: float) -> bool:
        """Whether a session may begin any moment."""
        return any(now - one.since < _RESTLESS_SECONDS for one in self._waiting.values())


def _began(
    handshake: int, before: tuple[int, float] | None, now: float, wall: float
) -> tuple[int, float]:
    if before is None:
        return handshake, now - max(0.0, wall - handshake)
    return before if before[0] == handshake else (handshake, now)
