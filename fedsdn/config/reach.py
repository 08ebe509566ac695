"""Which uplinks reach which, and which sites have no path between them.

Comparing every two uplinks of 1,000 sites takes many seconds. Instead each uplink is put into
groups whose members all reach each other: the uplinks with a gateway, by family, and the uplinks on
one network. Only sites that share no group are compared.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache

from fedsdn.config.model import MOST_KEPT, Address, Family, Network, Site, Uplink

Group = tuple[int, int, int]
"""IP version, length and first address of a network; of length 0 for all that have a gateway."""


def all_reach_all(sites: Sequence[Site]) -> bool:
    """Whether it is plain that every uplink reaches one of every other site: by gateways alone."""
    families = set(map(_routed, sites))
    return len(sites) > 1 and len(families) == 1 and None not in families


@lru_cache(MOST_KEPT)
def _routed(site: Site) -> frozenset[Family] | None:
    """Return the IP versions of a site's uplinks; None if one of these has no gateway."""
    if any(uplink.gateway is None for uplink in site.uplinks):
        return None
    return frozenset(uplink.family for uplink in site.uplinks)


class Reach:
    """Which of some sites' uplinks reach each other."""

    def __init__(self, sites: Sequence[Site]) -> None:
        """Put the uplinks into groups."""
        self._sites = sites
        every = [uplink.address.network for site in sites for uplink in site.uplinks]
        self._networks = {_group(network) for network in every}
        self._lengths = {
            version: sorted({group[1] for group in self._networks if group[0] == version})
            for version in (4, 6)
        }
        self._without_gateway = {
            version: sorted(
                int(uplink.peer_address)
                for site in sites
                for uplink in site.uplinks
                if uplink.gateway is None and uplink.family == version
            )
            for version in (4, 6)
        }
        """Their addresses, by IP version."""
        self._off_link = {
            (version, routed): sorted(
                int(uplink.peer_address)
                for site in sites
                for uplink in site.uplinks
                if (uplink.family, uplink.gateway is not None) == (version, routed)
                and uplink.peer_address not in uplink.address.network
            )
            for version in (4, 6)
            for routed in (False, True)
        }
        """Addresses of uplinks that are on none of the networks that have a group."""
        self._groups = [
            {uplink.name: frozenset(self._groups_of(uplink)) for uplink in site.uplinks}
            for site in sites
        ]
        self._members: dict[Group, int] = {}
        """The sites with an uplink in each group, as bits: 1 is the first site."""
        for position, uplinks in enumerate(self._groups):
            for group in frozenset().union(*uplinks.values()):
                self._members[group] = self._members.get(group, 0) | 1 << position

    def _groups_of(self, uplink: Uplink) -> Iterator[Group]:
        if uplink.gateway is not None:
            yield uplink.family, 0, 0
        address, own = uplink.peer_address, uplink.address.network
        if address not in own:
            return
        # An uplink on a wide network reaches those on a narrow one of it if that holds its address.
        for length in self._lengths[uplink.family]:
            group = _network_of(address, length)
            if length >= max(own.prefixlen, 1) and group in self._networks:
                yield group

    def paths(self, near: int, far: int) -> Iterator[tuple[Uplink, Uplink]]:
        """Yield the uplinks of two sites, given by position, that reach each other."""
        for here in self._sites[near].uplinks:
            groups = self._groups[near][here.name]
            for there in self._sites[far].uplinks:
                shared = not groups.isdisjoint(self._groups[far][there.name])
                if shared or here.reaches(there):
                    yield here, there

    def kinds(self) -> list[int]:
        """Return a number for each site: two of the same reach every third site alike.

        Uplink by uplink, in the order that each site has them.
        """
        numbers: dict[object, int] = {}
        return [
            numbers.setdefault(self._kind(position), len(numbers))
            for position in range(len(self._sites))
        ]

    def _kind(self, position: int) -> object:
        """Return what a site's paths depend on: the groups that others are in, too."""
        site = self._sites[position]
        if not all(map(self._groups_say_all, site.uplinks)):
            return position
        alone = 1 << position
        return tuple(
            frozenset(group for group in groups if self._members[group] != alone)
            for groups in self._groups[position].values()
        )

    def _groups_say_all(self, uplink: Uplink) -> bool:
        """Whether an uplink reaches those alone with which it shares a group."""
        own, routed = uplink.address.network, uplink.gateway is not None
        if own.prefixlen > 0 and uplink.peer_address in own:
            # One behind a NAT whose outside is here, and whose private network has our address.
            alike = (False,) if routed else (False, True)
            return all(_none_in(self._off_link[uplink.family, one], own) for one in alike)
        # Behind a NAT: then it may reach one on its private network that reaches the NAT's outside.
        return routed and _none_in(self._without_gateway[uplink.family], own)

    def apart(self) -> Iterator[tuple[Site, Site]]:
        """Yield every two sites without a path between them, in the file's order."""
        for near in range(len(self._sites)):
            for far in _bits(self._unshared(near, self._groups[near]) >> near + 1 << near + 1):
                if next(self.paths(near, far), None) is None:
                    yield self._sites[near], self._sites[far]

    def unreached(self, position: int) -> Iterator[Uplink]:
        """Yield the uplinks of a site that reach none of another site."""
        site = self._sites[position]
        for uplink in site.uplinks:
            groups = {uplink.name: self._groups[position][uplink.name]}
            others = self._unshared(position, groups)
            if others.bit_count() == len(self._sites) - 1 and not any(
                uplink.reaches(there) for far in _bits(others) for there in self._sites[far].uplinks
            ):
                yield uplink

    def _unshared(self, position: int, groups: dict[str, frozenset[Group]]) -> int:
        """Return the other sites, as bits, that are in none of a site's ``groups``."""
        shared = 1 << position
        for group in frozenset().union(*groups.values()):
            shared |= self._members[group]
        return ((1 << len(self._sites)) - 1) & ~shared


def _group(network: Network) -> Group:
    return network.version, network.prefixlen, int(network.network_address)


def _network_of(address: Address, length: int) -> Group:
    """Return the network of that length around an address."""
    host_bits = address.max_prefixlen - length
    return address.version, length, int(address) >> host_bits << host_bits


def _none_in(addresses: Sequence[int], network: Network) -> bool:
    """Whether a network has none of some addresses, which are in order."""
    first = bisect_left(addresses, int(network.network_address))
    return first == bisect_right(addresses, int(network.broadcast_address))


def _bits(number: int) -> Iterator[int]:
    """Yield the positions of the bits that are set, the lowest first."""
    while number:
        lowest = number & -number
        yield lowest.bit_length() - 1
        number ^= lowest
