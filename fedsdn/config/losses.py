"""What is cut off when one or two uplinks are lost.

1,000 sites have half a million pairs. But sites come in few kinds (``Reach.kinds``): what cuts two
sites off from each other is worked out once for every two kinds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import comb

from fedsdn.config.graph import CutOff, UplinkId
from fedsdn.config.model import Federation
from fedsdn.config.reach import Reach

Place = tuple[int, int]
"""An uplink: its site's position in the file, and its own among the site's."""

_Path = tuple[int, int]
"""The positions of its two uplinks among their sites'."""
_NEAR, _FAR = 0, 1


@dataclass(frozen=True, slots=True)
class _Covers:
    """The uplinks of two sites, near and far, without which they have no path.

    ``double``: two of which neither is enough. An uplink is its side, and its position there.
    """

    single: frozenset[_Path]
    double: frozenset[frozenset[_Path]]

    def own(self, one: int, other: int) -> bool:
        """Whether the loss of two uplinks of the near site takes all paths, and neither does."""
        return frozenset(((_NEAR, one), (_NEAR, other))) in self.double

    def cross(self, near: int, far: int) -> bool:
        """Whether the loss of an uplink of each does, and neither's alone."""
        return frozenset(((_NEAR, near), (_FAR, far))) in self.double


class Losses:
    """The losses of one and of two uplinks that cut sites off from each other."""

    def __init__(self, federation: Federation) -> None:
        """Look at every two kinds of sites."""
        self._sites = federation.sites
        reach = Reach(federation.sites)
        self._kind = reach.kinds()
        self._members: list[list[int]] = [[] for _ in range(max(self._kind) + 1)]
        for position, kind in enumerate(self._kind):
            self._members[kind].append(position)
        self._covers: list[dict[int, _Covers]] = [{} for _ in self._members]
        """By the kinds of two sites, if there are two."""
        self.paths = 0
        """How many paths there are between all sites."""
        for near, far in product(range(len(self._members)), repeat=2):
            if pair := self._two_of(near, far):
                between = tuple(_positions(federation, reach, *pair))
                self._covers[near][far] = _covers(between)
                if near <= far:
                    self.paths += len(between) * self._pairs(near, far) // (1 + (near == far))
        self._alone = [
            {up for covers in by_far.values() for side, up in covers.single if side == _NEAR}
            for by_far in self._covers
        ]
        """The uplinks of each kind of which one is enough to cut its site off from another."""

    @property
    def uplinks(self) -> int:
        """How many uplinks there are."""
        return sum(len(site.uplinks) for site in self._sites)

    @property
    def one(self) -> int:
        """How many losses of one uplink cut sites off."""
        return sum(
            len(members) * len(alone)
            for members, alone in zip(self._members, self._alone, strict=True)
        )

    @property
    def two(self) -> int:
        """How many losses of two uplinks do."""
        others = self.uplinks - self.one
        return comb(self.uplinks, 2) - comb(others, 2) + self._own() + self._cross()

    def _own(self) -> int:
        """Count the losses of two uplinks of one site, of which neither cuts anything off."""
        count = 0
        for members, by_far, alone in zip(self._members, self._covers, self._alone, strict=True):
            doubles = frozenset().union(*(covers.double for covers in by_far.values()))
            found = [
                cover
                for cover in doubles
                if all(side == _NEAR and up not in alone for side, up in cover)
            ]
            count += len(members) * len(found)
        return count

    def _cross(self) -> int:
        """Count the losses of uplinks of two sites, of which neither cuts anything off."""
        twice = 0
        for near, by_far in enumerate(self._covers):
            for far, covers in by_far.items():
                alone = self._alone[near], self._alone[far]
                found = (
                    cover
                    for cover in covers.double
                    if {side for side, _ in cover} == {_NEAR, _FAR}
                    and all(up not in alone[side] for side, up in cover)
                )
                twice += sum(1 for _ in found) * self._pairs(near, far)
        return twice // 2

    def __iter__(self) -> Iterator[CutOff]:
        """Yield the losses of one, then those of two that cut off more than each of the two does.

        In the file's order.
        """
        places = [
            (at, up) for at, site in enumerate(self._sites) for up in range(len(site.uplinks))
        ]
        for at, up in places:
            if up in self._alone[self._kind[at]]:
                yield self._loss((at, up))
        useful = [place for place in places if self._has_partner(place)]
        for number, one in enumerate(useful):
            for other in useful[number + 1 :]:
                if self._cuts_more(one, other):
                    yield self._loss(one, other)

    def _has_partner(self, place: Place) -> bool:
        at, up = place
        return any(
            (_NEAR, up) in cover
            for covers in self._covers[self._kind[at]].values()
            for cover in covers.double
        )

    def _cuts_more(self, one: Place, other: Place) -> bool:
        by_far = self._covers[self._kind[one[0]]]
        if one[0] != other[0]:
            return by_far[self._kind[other[0]]].cross(one[1], other[1])
        return any(covers.own(one[1], other[1]) for covers in by_far.values())

    def _loss(self, *lost: Place) -> CutOff:
        each = [self._cut_alone(*place) for place in lost]
        alone = set().union(*each) if len(lost) > 1 else set()
        cut_off = set().union(*each)
        if len(lost) > 1:
            cut_off |= self._cut_together(*lost)
        return CutOff(
            tuple(self._named(*place) for place in lost),
            self._pairs_named(cut_off),
            self._pairs_named(alone),
        )

    def _cut_alone(self, at: int, up: int) -> set[tuple[int, int]]:
        return {
            _sorted(at, far)
            for kind, covers in self._covers[self._kind[at]].items()
            if (_NEAR, up) in covers.single
            for far in self._members[kind]
            if far != at
        }

    def _cut_together(self, one: Place, other: Place) -> set[tuple[int, int]]:
        if one[0] != other[0]:
            return {_sorted(one[0], other[0])} if self._cuts_more(one, other) else set()
        return {
            _sorted(one[0], far)
            for kind, covers in self._covers[self._kind[one[0]]].items()
            if covers.own(one[1], other[1])
            for far in self._members[kind]
            if far != one[0]
        }

    def _named(self, at: int, up: int) -> UplinkId:
        return UplinkId(self._sites[at].name, self._sites[at].uplinks[up].name)

    def _pairs_named(self, pairs: set[tuple[int, int]]) -> tuple[tuple[str, str], ...]:
        return tuple((self._sites[near].name, self._sites[far].name) for near, far in sorted(pairs))

    def _two_of(self, near: int, far: int) -> tuple[int, int] | None:
        """Return a site of each kind; None if both are the same."""
        first, *more = self._members[near]
        if near != far:
            return first, self._members[far][0]
        return (first, more[0]) if more else None

    def _pairs(self, near: int, far: int) -> int:
        """How many pairs of a site of each kind there are, in this order."""
        return len(self._members[near]) * (len(self._members[far]) - (near == far))


def _sorted(one: int, other: int) -> tuple[int, int]:
    return (one, other) if one < other else (other, one)


def _positions(federation: Federation, reach: Reach, near: int, far: int) -> Iterator[_Path]:
    here, there = (
        {up.name: place for place, up in enumerate(federation.sites[at].uplinks)}
        for at in (near, far)
    )
    for one, other in reach.paths(near, far):
        yield here[one.name], there[other.name]


@cache
def _covers(between: tuple[_Path, ...]) -> _Covers:
    """Find every uplink, and pair of uplinks, whose loss takes all paths."""
    ends = [frozenset(((_NEAR, near), (_FAR, far))) for near, far in between]
    every = frozenset().union(*ends)
    single = frozenset(up for up in every if all(up in path for path in ends))
    rest = every - single
    double = frozenset(
        frozenset((one, other))
        for one in rest
        for other in rest
        if one < other and all(one in path or other in path for path in ends)
    )
    return _Covers(single, double)
