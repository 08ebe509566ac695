"""Tunnels by which nothing comes, though their paths live: a firewall, a key; no sockets, no clock.

WireGuard says something on every tunnel each ``KEEPALIVE_SECONDS``.
"""

from __future__ import annotations

from collections.abc import Mapping, Set

from fedsdn.tunnels.plan import KEEPALIVE_SECONDS

End = tuple[str, str]
"""A tunnel's interface, and a site at its other end."""

SILENT_SECONDS = KEEPALIVE_SECONDS + 15.0
"""A tunnel that is quiet for so long does not work. By then WireGuard has tried another handshake
(https://www.wireguard.com/papers/wireguard.pdf, section 6)."""


class Silence:
    """Finds out which tunnels are silent, by how many bytes have come."""

    def __init__(self) -> None:
        """Begin with none."""
        self._heard: dict[End, tuple[int, float]] = {}

    def note(self, received: Mapping[End, int], now: float) -> Set[End]:
        """Return those by which nothing has come for a while, or ever."""
        silent = set()
        for end, octets in received.items():
            known, since = self._heard.get(end, (0, float("-inf")))
            if octets != known:
                since = now
            self._heard[end] = octets, since
            if now - since >= SILENT_SECONDS:
                silent.add(end)
        for gone in self._heard.keys() - received.keys():
            del self._heard[gone]
        return silent
