"""Tunnels by which nothing comes, though their paths live: a firewall, a key; no sockets, no clock.

WireGuard says something on every tunnel each ``KEEPALIVE_SECONDS``.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from fedsdn.tunnels.plan import KEEPALIVE_SECONDS
from fedsdn.tunnels.sessions import End, Heard
from fedsdn.uplinks.status import PathState

SILENT_SECONDS = KEEPALIVE_SECONDS + 15.0
"""A tunnel that is quiet for so long does not work. By then WireGuard has tried another handshake
(https://www.wireguard.com/papers/wireguard.pdf, section 6)."""


@dataclass(slots=True)
class _End:
    """The last that was heard, since when it is that, and when its path came back."""

    heard: Heard
    octets_since: float
    returned: float = float("-inf")

    def note(self, heard: Heard, now: float) -> None:
        if heard.octets != self.heard.octets:
            self.octets_since = now
        self.heard = heard

    def is_silent(self, now: float) -> bool:
        since = max(self.octets_since, self.returned)
        return not self.heard.has_session or now - since >= SILENT_SECONDS


class Silence:
    """Finds out which tunnels are silent, by bytes that have come and sessions that have begun."""

    def __init__(self) -> None:
        """Begin with none."""
        self._ends: dict[End, _End] = {}
        self._silent: set[End] = set()
        self._lost: set[End] = set()

    def follow(self, end: End, state: PathState, now: float) -> None:
        """Note the state of a tunnel's path: one that worked before its path was down has time."""
        if state is PathState.DOWN:
            if end in self._ends and end not in self._silent:
                self._lost.add(end)
        elif state is PathState.UP and end in self._lost:
            self._lost.discard(end)
            if end in self._ends:
                self._ends[end].returned = now

    def note(self, heard: Mapping[End, Heard], now: float) -> Set[End]:
        """Return those without a session, and those by which nothing has come for a while."""
        for end, one in heard.items():
            known = self._ends.setdefault(end, _End(Heard(0, None), float("-inf")))
            known.note(one, now)
        for gone in self._ends.keys() - heard.keys():
            del self._ends[gone]
            self._lost.discard(gone)
        self._silent = {end for end, one in self._ends.items() if one.is_silent(now)}
        return frozenset(self._silent)
