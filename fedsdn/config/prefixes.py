"""Networks that overlap, and the network that holds an address, without a walk over all of them.

Two networks in CIDR notation are disjoint, or one holds the other: sorted by their first address, a
network stands right behind those that hold it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from fedsdn.config.model import Address, Network

T = TypeVar("T")


def first_overlap(networks: Sequence[Network]) -> tuple[int, int] | None:
    """Find the first network that overlaps one before it, and the first of those.

    Returns their positions, or None if all networks are disjoint.
    """
    found: list[tuple[int, int]] = []
    around: list[tuple[int, int, int]] = []
    """Networks that hold the current one: version, last address, and the least position so far."""
    for version, first, length, position in sorted(
        (network.version, int(network.network_address), network.prefixlen, position)
        for position, network in enumerate(networks)
    ):
        while around and around[-1][:2] < (version, first):
            around.pop()
        least = position
        if around:
            other = around[-1][2]
            found.append((max(position, other), min(position, other)))
            least = min(position, other)
        around.append((version, _last(version, first, length), least))
    return min(found, default=None)


def _last(version: int, first: int, length: int) -> int:
    """Return the last address of a network as a number."""
    bits = 32 if version == 4 else 128
    return first + (1 << (bits - length)) - 1


class NetworkIndex(Generic[T]):
    """Finds what belongs to the network that holds an address, if the networks are disjoint."""

    def __init__(self, entries: Iterable[tuple[Network, T]]) -> None:
        """Index the networks, each with what belongs to it."""
        self._firsts: dict[int, list[int]] = {4: [], 6: []}
        self._found: dict[int, list[tuple[int, T]]] = {4: [], 6: []}
        for network, value in sorted(entries, key=lambda entry: int(entry[0].network_address)):
            first = int(network.network_address)
            last = _last(network.version, first, network.prefixlen)
            self._firsts[network.version].append(first)
            self._found[network.version].append((last, value))
        self.disjoint = all(
            last < first
            for version, firsts in self._firsts.items()
            for (last, _), first in zip(self._found[version], firsts[1:], strict=False)
        )
        """Whether no two of the networks overlap."""

    def find(self, address: Address) -> T | None:
        """Return what belongs to the network that holds ``address``; None if none does."""
        number = int(address)
        position = bisect_right(self._firsts[address.version], number)
        if not position:
            return None
        last, value = self._found[address.version][position - 1]
        return value if number <= last else None

    def overlapping(self, network: Network) -> Iterator[T]:
        """Yield what belongs to the networks that hold, or are in, ``network``."""
        first = int(network.network_address)
        last = _last(network.version, first, network.prefixlen)
        firsts, found = self._firsts[network.version], self._found[network.version]
        position = max(bisect_right(firsts, first) - 1, 0)
        while position < len(firsts) and firsts[position] <= last:
            if found[position][0] >= first:
                yield found[position][1]
            position += 1
