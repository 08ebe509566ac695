"""The paths between the sites of a federation, and what is cut off when uplinks are lost.

Sites do not relay for one another: a path between two sites is a pair of their uplinks.
"""

from __future__ import annotations

from collections.abc import Iterator
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
