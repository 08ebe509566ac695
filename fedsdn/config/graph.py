"""The federation as a graph: sites, their uplinks, and which uplinks reach each other.

Sites do not relay for one another, so a path between two sites is one edge between their uplinks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from fedsdn.config.model import Federation

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True, slots=True, order=True)
class UplinkId:
    """An uplink's name in the federation."""

    site: str
    uplink: str

    def __str__(self) -> str:
        return f"{self.site}/{self.uplink}"


Node = str | UplinkId
"""A site is a node by its name."""

SitePair = tuple[str, str]
UplinkPair = tuple[UplinkId, UplinkId]


@dataclass(frozen=True, slots=True)
class Loss:
    """What goes when ``uplinks`` are lost together.

    ``cut_off`` are the pairs of sites left without a path, in the file's order. ``alone`` are
    those of them that the loss of one of the uplinks alone leaves so.
    """

    uplinks: tuple[UplinkId, ...]
    cut_off: tuple[SitePair, ...]
    alone: tuple[SitePair, ...]

    @property
    def is_news(self) -> bool:
        """Whether it cuts off more than the loss of one of its uplinks alone."""
        return self.cut_off != self.alone


def graph(federation: Federation) -> nx.Graph[Node]:
    """Return the graph: an edge from each site to its uplinks and between uplinks that reach."""
    # Here, not above: networkx takes a fifth of every command's start, and few use it.
    import networkx as nx  # noqa: PLC0415

    result: nx.Graph[Node] = nx.Graph()
    for site in federation.sites:
        result.add_node(site.name)
        result.add_edges_from((site.name, UplinkId(site.name, up.name)) for up in site.uplinks)
    for near, far in combinations(federation.sites, 2):
        result.add_edges_from(
            (UplinkId(near.name, here.name), UplinkId(far.name, there.name))
            for here in near.uplinks
            for there in far.uplinks
            if here.reaches(there)
        )
    return result


def paths(federation: Federation) -> dict[SitePair, tuple[UplinkPair, ...]]:
    """Return, for every two sites, the pairs of uplinks that join them."""
    whole = graph(federation)
    return {
        (near.name, far.name): tuple(
            (here, there)
            for here in whole[near.name]
            for there in whole[here]
            if isinstance(here, UplinkId) and isinstance(there, UplinkId)
            if there.site == far.name
        )
        for near, far in combinations(federation.sites, 2)
    }


def losses(federation: Federation) -> tuple[Loss, ...]:
    """Return what the loss of each uplink, then of each two uplinks, would cut off."""
    joined = paths(federation)
    order = {pair: index for index, pair in enumerate(joined)}
    cut_by: dict[frozenset[UplinkId], set[SitePair]] = {}
    for pair, between in joined.items():
        for cover in _covers(between):
            cut_by.setdefault(cover, set()).add(pair)

    def loss(*lost: UplinkId) -> Loss:
        each = [cut_by.get(frozenset((uplink,)), set()) for uplink in lost]
        alone: set[SitePair] = set().union(*each) if len(lost) > 1 else set()
        cut_off = alone | cut_by.get(frozenset(lost), set())
        return Loss(
            lost,
            tuple(sorted(cut_off, key=order.__getitem__)),
            tuple(sorted(alone, key=order.__getitem__)),
        )

    uplinks = [UplinkId(site.name, up.name) for site in federation.sites for up in site.uplinks]
    return (*map(loss, uplinks), *(loss(*two) for two in combinations(uplinks, 2)))


def _covers(between: tuple[UplinkPair, ...]) -> Iterator[frozenset[UplinkId]]:
    """Yield the one or two uplinks of which every path has at least one."""
    for first in between[0]:
        rest = [path for path in between if first not in path]
        if not rest:
            yield frozenset((first,))
            continue
        for second in rest[0]:
            if all(second in path for path in rest):
                yield frozenset((first, second))
