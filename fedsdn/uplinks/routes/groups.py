"""The kernel's next hops, groups and routes: what is there, what is wanted, what is to change.

A next hop for each tunnel and IP version, a group of them for each peer and IP version, and a route
for each of the peer's prefixes to its group. So a path that dies or returns changes one group; a
tunnel over which no path lives takes its next hop out of all groups at once. A peer without a live
path has no route: the ``unreachable`` default answers. The table has nothing else. No sockets.

The kernel deletes, with a next hop, the groups that have no other, and with a group its routes.
Next hops go with their interface, and when it is down (kernel: net/ipv4/nexthop.c).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from itertools import count
from typing import NamedTuple, TypeVar

from fedsdn.config.model import Address, Family, Network

FIRST_HOP, FIRST_GROUP = 1 << 30, 1
"""Identifiers of next hops and of groups begin here."""

_FAMILIES: tuple[Family, ...] = (4, 6)


class Exit(NamedTuple):
    """A tunnel's interface, and the peer's address on its link where that is asked for."""

    interface: str
    gateway: IPv6Address | None = None


@dataclass(frozen=True, slots=True)
class Hop:
    """A next hop for an IP version: the number of its interface, and the neighbour, if any."""

    interface: int
    family: Family
    gateway: IPv6Address | None = None

    @property
    def number(self) -> int:
        """Its identifier, which follows from it: another process finds the same."""
        return FIRST_HOP + 2 * self.interface + (self.family == 6)


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface that is up: its number, and the IP versions that it carries."""

    number: int
    families: frozenset[Family]


@dataclass(frozen=True, slots=True)
class PeerRoutes:
    """Prefixes of one peer, and over which tunnels they are reached now."""

    prefixes: tuple[Network, ...]
    exits: frozenset[Exit]


class Route(NamedTuple):
    """Where a route leads: a group's identifier, and the source of what this host itself sends."""

    group: int
    source: Address | None


@dataclass(frozen=True)
class Present:
    """What the kernel has: next hops and groups by identifier, and the routes by destination."""

    hops: Mapping[int, Hop] = field(default_factory=dict)
    groups: Mapping[int, frozenset[int]] = field(default_factory=dict)
    routes: Mapping[Network, Route] = field(default_factory=dict)
    unreachable: frozenset[Family] = frozenset()
    """The IP versions of which what has no route is answered as unreachable."""
    foreign: frozenset[bytes] = frozenset()
    """Routes of somebody else in the table, as the kernel lists them."""
    taken: frozenset[int] = frozenset()
    """Identifiers of somebody else's next hops."""


@dataclass(frozen=True, slots=True)
class SetHop:
    """Have a next hop."""

    hop: Hop


@dataclass(frozen=True, slots=True)
class DropHop:
    """Have a next hop no more, nor in any group."""

    number: int


@dataclass(frozen=True, slots=True)
class SetGroup:
    """Have a group with exactly these next hops."""

    number: int
    hops: frozenset[int]


@dataclass(frozen=True, slots=True)
class DropGroup:
    """Have a group no more, nor its routes."""

    number: int


@dataclass(frozen=True, slots=True)
class SetRoute:
    """Have a route."""

    prefix: Network
    route: Route


@dataclass(frozen=True, slots=True)
class DropRoute:
    """Have a route no more."""

    prefix: Network
    route: Route


@dataclass(frozen=True, slots=True)
class SetUnreachable:
    """Have what has no route answered."""

    family: Family


@dataclass(frozen=True, slots=True)
class DropForeign:
    """Have a route of somebody else no more."""

    listed: bytes


Change = (
    SetHop | DropHop | SetGroup | DropGroup | SetRoute | DropRoute | SetUnreachable | DropForeign
)

_Key = TypeVar("_Key")


@dataclass(frozen=True)
class Wanted:
    """What is reached, and the ``sources`` of this host's own answers, by IP version.

    Without a source of an IP version nothing of it is carried.
    """

    peers: tuple[PeerRoutes, ...] = ()
    sources: Mapping[Family, Address] = field(default_factory=dict)


def target(wanted: Wanted, interfaces: Mapping[str, Interface], present: Present) -> Present:
    """Return what the kernel is to have, with the groups' identifiers that are there already."""
    hops: dict[int, Hop] = {}
    groups: dict[int, frozenset[int]] = {}
    routes: dict[Network, Route] = {}
    free = (
        number
        for number in count(FIRST_GROUP)
        if number not in present.groups and number not in present.taken
    )
    for family, prefixes, reached in _by_family(wanted.peers, interfaces):
        if family not in wanted.sources:
            continue
        found = {hop.number: hop for hop in reached}
        hops |= found
        number = _identifier(prefixes, present, groups) or next(free)
        groups[number] = frozenset(found)
        routes |= dict.fromkeys(prefixes, Route(number, wanted.sources[family]))
    return Present(hops, groups, routes, frozenset(_FAMILIES))


def _by_family(
    peers: Iterable[PeerRoutes], interfaces: Mapping[str, Interface]
) -> Iterator[tuple[Family, list[Network], list[Hop]]]:
    """Yield the prefixes that are reached alike, with their next hops."""
    for peer in peers:
        up = [(interfaces[one.interface], one) for one in peer.exits if one.interface in interfaces]
        for family in _FAMILIES:
            prefixes = [prefix for prefix in peer.prefixes if prefix.version == family]
            reached = [
                Hop(found.number, family, one.gateway)
                for found, one in up
                if family in found.families
            ]
            if prefixes and reached:
                yield family, prefixes, reached


def _identifier(
    prefixes: Iterable[Network], present: Present, taken: Collection[int]
) -> int | None:
    """Return the identifier of the group that has the prefixes' routes now; None without one."""
    for prefix in prefixes:
        route = present.routes.get(prefix)
        if route is not None and present.groups.get(route.group) and route.group not in taken:
            return route.group
    return None


def changes(present: Present, target: Present) -> list[Change]:
    """Return what turns one into the other, so that no prefix with a live path is without a route.

    A next hop that is deleted leaves all groups at once, so dead ones go early. A group that has
    no others would be deleted, too, with its routes: before, it gets those that it is to have.
    """
    dead = frozenset(present.hops.keys() - target.hops.keys())
    left = {number: hops - dead for number, hops in present.groups.items()}
    saved = [
        SetGroup(number, target.groups[number])
        for number, hops in left.items()
        if not hops and number in target.groups
    ]
    left |= {one.number: one.hops for one in saved}
    there = {number for number, hops in left.items() if hops}
    routes = present.routes
    if any(route.group not in there for route in routes.values()):
        routes = {prefix: route for prefix, route in routes.items() if route.group in there}
    gone = there - target.groups.keys()
    news = _news(routes, target.routes)
    added = sum(prefix not in routes for prefix in news)
    stale = len(routes) > len(target.routes) - added  # to look for them takes as long as all else
    return [
        *(SetHop(hop) for hop in _news(present.hops, target.hops).values()),
        *saved,
        *(DropHop(number) for number in sorted(dead)),
        *(SetGroup(number, hops) for number, hops in _news(left, target.groups).items()),
        *(SetRoute(prefix, route) for prefix, route in news.items()),
        *(
            DropRoute(prefix, route)
            for prefix, route in (routes.items() if stale else ())
            if route.group not in gone and prefix not in target.routes
        ),
        *(DropGroup(number) for number in sorted(gone)),
        *(SetUnreachable(family) for family in sorted(target.unreachable - present.unreachable)),
        *(DropForeign(listed) for listed in sorted(present.foreign)),
    ]


_Value = TypeVar("_Value")


def _news(before: Mapping[_Key, _Value], after: Mapping[_Key, _Value]) -> dict[_Key, _Value]:
    return {key: value for key, value in after.items() if before.get(key) != value}


def carried(present: Present, interfaces: Mapping[str, Interface]) -> dict[Network, frozenset[str]]:
    """Return over which interfaces prefixes are reached, by the routes that are there."""
    names = {one.number: name for name, one in interfaces.items()}
    groups = {
        number: frozenset(
            names[present.hops[hop].interface]
            for hop in hops
            if hop in present.hops and present.hops[hop].interface in names
        )
        for number, hops in present.groups.items()
    }
    return {prefix: groups.get(one.group, frozenset()) for prefix, one in present.routes.items()}
