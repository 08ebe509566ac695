"""The paths between the sites of a federation, and what is cut off when uplinks are lost.

Sites do not relay for one another: a path between two sites is a pair of their uplinks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from fedsdn.config.model import Federation
from fedsdn.config.reach import Reach


@dataclass(frozen=True, slots=True, order=True)
class UplinkId:
    """An uplink's name in the federation."""

    site: str
    uplink: str

    def __str__(self) -> str:
        return f"{self.site}/{self.uplink}"


SitePair = tuple[str, str]
UplinkPair = tuple[UplinkId, UplinkId]


@dataclass(frozen=True, slots=True)
class CutOff:
    """The loss of one or two uplinks.

    ``cut_off`` are the pairs of sites without a path then, in the file's order. Of these,
    ``alone`` are the pairs for which the loss of one of the two uplinks is enough.
    """

    uplinks: tuple[UplinkId, ...]
    cut_off: tuple[SitePair, ...]
    alone: tuple[SitePair, ...]

    @property
    def is_news(self) -> bool:
        """Whether it cuts off more pairs than the loss of one of its uplinks does."""
        return self.cut_off != self.alone


def paths(federation: Federation) -> Iterator[tuple[SitePair, tuple[UplinkPair, ...]]]:
    """Yield, for every two sites, the pairs of uplinks that join them.

    One at a time: 1,000 sites have half a million pairs.
    """
    reach = Reach(federation.sites)
    names = [
        {uplink.name: UplinkId(site.name, uplink.name) for uplink in site.uplinks}
        for site in federation.sites
    ]
    for near, far in combinations(range(len(federation.sites)), 2):
        yield (
            (federation.sites[near].name, federation.sites[far].name),
            tuple(
                (names[near][here.name], names[far][there.name])
                for here, there in reach.paths(near, far)
            ),
        )


def losses(federation: Federation) -> tuple[CutOff, ...]:
    """Return the losses of one uplink, then those of two, that cut sites off from each other."""
    order: dict[SitePair, int] = {}
    cut_by: dict[frozenset[UplinkId], list[SitePair]] = {}
    for pair, between in paths(federation):
        for cover in _covers(between):
            order.setdefault(pair, len(order))
            cut_by.setdefault(cover, []).append(pair)

    def loss(*lost: UplinkId) -> CutOff:
        each = [cut_by.get(frozenset((uplink,)), []) for uplink in lost]
        alone = set().union(*each) if len(lost) > 1 else set()
        cut_off = alone.union(cut_by.get(frozenset(lost), []))
        return CutOff(
            lost,
            tuple(sorted(cut_off, key=order.__getitem__)),
            tuple(sorted(alone, key=order.__getitem__)),
        )

    uplinks = [UplinkId(site.name, up.name) for site in federation.sites for up in site.uplinks]
    return tuple(loss(*lost) for lost in _cutting(uplinks, cut_by.keys()))


def _cutting(
    uplinks: Sequence[UplinkId], cuts: Collection[frozenset[UplinkId]]
) -> Iterator[tuple[UplinkId, ...]]:
    """Yield, in the file's order, ``uplinks`` and pairs of them that hold one of the ``cuts``."""
    positions = {uplink: position for position, uplink in enumerate(uplinks)}
    single = sorted(positions[uplink] for cut in cuts if len(cut) == 1 for uplink in cut)
    double = {tuple(sorted(positions[uplink] for uplink in cut)) for cut in cuts if len(cut) == 2}
    for one in single:
        double |= {tuple(sorted((one, other))) for other in range(len(uplinks)) if other != one}
    for found in (*((one,) for one in single), *sorted(double)):
        yield tuple(uplinks[position] for position in found)


def _covers(between: tuple[UplinkPair, ...]) -> Iterator[frozenset[UplinkId]]:
    """Yield every uplink, or pair of uplinks, whose loss takes all paths."""
    for first in between[0]:
        rest = [path for path in between if first not in path]
        if not rest:
            yield frozenset((first,))
            continue
        for second in rest[0]:
            if all(second in path for path in rest):
                yield frozenset((first, second))
