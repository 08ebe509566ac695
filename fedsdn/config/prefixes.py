"""Networks that overlap, and the network that holds an address, without a walk over all of them.

Two networks in CIDR notation are disjoint, or one holds the other: sorted by their first address, a
network stands right behind those that hold it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter, lt
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


Span = tuple[int, int, int]
"""A network by its IP version, its first and its last address."""


def span(network: Network) -> Span:
    """Return a network as numbers, which take a while to work out for thousands of them."""
    first = int(network.network_address)
    return network.version, first, _last(network.version, first, network.prefixlen)


class NetworkIndex(Generic[T]):
    """Finds what belongs to the network that holds an address, if the networks are disjoint."""

    def __init__(self, entries: Iterable[tuple[Span, T]]) -> None:
        """Index the networks, each with what belongs to it."""
        every = sorted(entries, key=itemgetter(0))
        self._firsts: dict[int, list[int]] = {}
        self._lasts: dict[int, list[int]] = {}
        self._found: dict[int, list[T]] = {}
        for version in (4, 6):
            mine = [entry for entry in every if entry[0][0] == version]
            self._firsts[version] = [first for (_, first, _), _ in mine]
            self._lasts[version] = [last for (_, _, last), _ in mine]
            self._found[version] = [value for _, value in mine]
        self.disjoint = all(
            all(map(lt, self._lasts[version], firsts[1:]))
            for version, firsts in self._firsts.items()
        )
        """Whether no two of the networks overlap."""

    def find(self, address: Address) -> T | None:
        """Return what belongs to the network that holds ``address``; None if none does."""
        return self.find_number(address.version, int(address))

    def find_number(self, version: int, number: int) -> T | None:
        """Return the same for the address that is this ``number``."""
        position = bisect_right(self._firsts[version], number) - 1
        if position < 0 or number > self._lasts[version][position]:
            return None
        return self._found[version][position]

    def overlapping(self, network: Network) -> Iterator[T]:
        """Yield what belongs to the networks that hold, or are in, ``network``."""
        version, first, last = span(network)
        firsts, lasts = self._firsts[version], self._lasts[version]
        position = max(bisect_right(firsts, first) - 1, 0)
        while position < len(firsts) and firsts[position] <= last:
            if lasts[position] >= first:
                yield self._found[version][position]
            position += 1
