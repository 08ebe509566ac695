"""When a tunnel's sessions begin, and which end begins them; no sockets, no clock.

Two ends that begin one at the same time refuse each other's answers, and WireGuard tries again
after five seconds; so it does when an attempt is lost, as while the peer's tunnel is not there yet
(https://www.wireguard.com/papers/wireguard.pdf, sections 5.4 and 6). Packets wait so long. So one
end begins a session, as soon as the path lives, and does not wait for five seconds. Keepalives keep
it at both ends.
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
"""How long after an attempt the next one is made, and each time twice as long after."""
_MOST_ATTEMPTS = 5
"""So many; more are left to WireGuard itself, whose pause is five seconds."""
OTHER_SECONDS = 10.0
"""After so long the other end begins one, too: a firewall may let in answers alone."""
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
    """A live path without a session: since when, attempts, and when the next one is due."""

    since: float
    due: float
    attempts: int = 0

    def takes_another(self, now: float) -> bool:
        """Make an attempt, if it is time for one."""
        if now < self.due or self.attempts == _MOST_ATTEMPTS:
            return False
        self.due = now + _AGAIN_SECONDS * 2**self.attempts
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
        self.heard, self._begins = heard, begins

    def begin(self, live: Set[End], now: float) -> Due:
        """Say what is to be done; ``live`` are the ends whose paths do."""
        kept, anew = set[End](), set[End]()
        waiting: dict[End, _Waiting] = {}
        for end, begins in self._begins.items():
            if self.heard[end].has_session:
                kept.add(end)
            elif end in live:
                one = waiting[end] = self._waiting.get(end) or _Waiting(now, now)
                if begins or now - one.since >= OTHER_SECONDS:
                    kept.add(end)
                    if one.takes_another(now):
                        anew.add(end)
        self._waiting = waiting
        return Due(kept, anew)

    def is_restless(self, now: float) -> bool:
        """Whether a session may begin any moment."""
        return any(now - one.since < _RESTLESS_SECONDS for one in self._waiting.values())


def _began(
    handshake: int, before: tuple[int, float] | None, now: float, wall: float
) -> tuple[int, float]:
    if before is None:
        return handshake, now - max(0.0, wall - handshake)
    return before if before[0] == handshake else (handshake, now)
