"""What VMs may open to VMs of other sites: the rules of ``allow``, and which of them decides.

A bit stands for each rule, the lowest for the first. Every address at one end, every address at the
other, and every port has the set of the rules that hold for it, found by bisection; the first
rule of all three sets decides. So a look-up does not walk over rules, whatever they are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from fedsdn.config.model import Address, Network, Site

RuleProtocol = Literal["tcp", "udp", "icmp", "any"]
"""``icmp`` is that of either IP version."""

Protocol = Literal["tcp", "udp", "icmp"]
"""What a packet or connection is of."""

PORTS = range(1, 1 << 16)
"""The destination's ports that there are."""

_WITH_PORTS: tuple[Protocol, ...] = ("tcp", "udp")
_PROTOCOLS: tuple[Protocol, ...] = (*_WITH_PORTS, "icmp")


@dataclass(frozen=True, slots=True)
class Group:
    """Sites and networks that rules name together."""

    name: str
    members: tuple[str | Network, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of ``allow``: from whom, to whom, and what. What is None or empty is not limited.

    ``origin`` and ``target`` are names of sites and groups, and networks. ``ports`` are those of
    the destination, and limit the rule to TCP and UDP. ``place`` is the number in the file's list,
    from 0, and ``line`` that of the file, if that was read as a whole.
    """

    origin: tuple[str | Network, ...] | None = None
    target: tuple[str | Network, ...] | None = None
    protocol: RuleProtocol = "any"
    ports: tuple[range, ...] = ()
    place: int = field(default=0, compare=False, repr=False)
    line: int = field(default=0, compare=False, repr=False)

    @property
    def name(self) -> str:
        """Where it is in the file, as errors of the file name it."""
        return f"allow[{self.place}]"

    def __str__(self) -> str:
        return ", ".join(part for part in (self._ends(), self._what()) if part) or "everything"

    def _ends(self) -> str:
        ends = (("from", self.origin), ("to", self.target))
        return " ".join(f"{way} {written(members)}" for way, members in ends if members is not None)

    def _what(self) -> str:
        protocol = "" if self.protocol == "any" else self.protocol
        if not self.ports:
            return protocol
        several = len(self.ports) > 1 or len(self.ports[0]) > 1
        ports = f"port{'s' * several} {', '.join(map(ports_text, self.ports))}"
        return f"{protocol} {ports}" if protocol else ports

    def is_about(self, protocol: Protocol) -> bool:
        """Whether the rule allows anything of a protocol."""
        return self.protocol in ("any", protocol) and (not self.ports or protocol in _WITH_PORTS)


def written(members: Iterable[str | Network]) -> str:
    """Write names and networks as people do: a network of one address without its length."""
    return ", ".join(map(member_text, members))


def member_text(member: str | Network) -> str:
    """Write a name, a network or an address."""
    if not isinstance(member, str) and member.prefixlen == member.max_prefixlen:
        return str(member.network_address)
    return str(member)


def ports_text(ports: range) -> str:
    """Write a port, or the first and the last one."""
    return f"{ports[0]}" if len(ports) == 1 else f"{ports[0]}-{ports[-1]}"


class _Sets:
    """The set of rules of every number: of all ranges that hold it together."""

    def __init__(self, ranges: Mapping[tuple[int, int], int]) -> None:
        """Take ranges, by their first and last number, with the set of each."""
        begin, end = defaultdict(list), defaultdict(list)
        for one in ranges:
            begin[one[0]].append(one)
            end[one[1] + 1].append(one)
        around: dict[tuple[int, int], int] = {}
        self._bounds = sorted(begin.keys() | end.keys())
        self._sets = [0]
        for bound in self._bounds:
            for one in end[bound]:
                del around[one]
            around.update((one, ranges[one]) for one in begin[bound])
            self._sets.append(reduce(or_, around.values(), 0))

    def of(self, number: int) -> int:
        """Return the set of a number."""
        return self._sets[bisect_right(self._bounds, number)]


class _Ends:
    """The rules that hold for addresses at one end."""

    def __init__(
        self,
        ends: Iterable[tuple[str | Network, ...] | None],
        groups: Iterable[Group],
        sites: Iterable[Site],
    ) -> None:
        """Take that end of each rule, in their order; None is every address."""
        self._everybody = 0
        named: defaultdict[str | Network, int] = defaultdict(int)
        for place, members in enumerate(ends):
            if members is None:
                self._everybody |= 1 << place
            for member in members or ():
                named[member] |= 1 << place
        for group in groups:
            of_group = named.pop(group.name, 0)
            for member in group.members if of_group else ():
                named[member] |= of_group
        self._of_sites = {site.name: named.pop(site.name, 0) for site in sites}
        for site in sites:
            for prefix in site.prefixes if self._of_sites[site.name] else ():
                named[prefix.network] |= self._of_sites[site.name]
        self._of_addresses = {
            family: _Sets(
                {
                    (int(network.network_address), int(network.broadcast_address)): rules
                    for network, rules in named.items()
                    if not isinstance(network, str) and network.version == family
                }
            )
            for family in (4, 6)
        }

    def of_address(self, address: Address) -> int:
        """Return the rules that hold for an address."""
        return self._everybody | self._of_addresses[address.version].of(int(address))

    def of_site(self, name: str) -> int:
        """Return the rules that hold for a whole site by its name."""
        return self._everybody | self._of_sites.get(name, 0)


@dataclass(frozen=True, slots=True)
class Contact:
    """What somebody wants: from ``client``, an address at the site ``origin``, to a port.

    The client behind another's proxy is not known, and None.
    """

    origin: str
    client: Address | None
    destination: Address
    port: int
    protocol: Protocol = "tcp"


class RuleIndex:
    """Finds the first rule that allows what somebody wants."""

    def __init__(
        self, rules: tuple[Rule, ...], groups: tuple[Group, ...], sites: tuple[Site, ...]
    ) -> None:
        """Index rules whose names are all of ``groups`` and ``sites``."""
        self._rules = rules
        self._origins = _Ends((rule.origin for rule in rules), groups, sites)
        self._targets = _Ends((rule.target for rule in rules), groups, sites)
        self._ports = {protocol: _Sets(_ports(rules, protocol)) for protocol in _WITH_PORTS}
        self._of = {protocol: _of_protocol(rules, protocol) for protocol in _PROTOCOLS}

    def __len__(self) -> int:
        return len(self._rules)

    def first(self, wanted: Contact) -> Rule | None:
        """Return the first rule that allows it; None if none does."""
        return self._lowest(self._between(wanted) & self._about(wanted))

    def nearest(self, wanted: Contact) -> Rule | None:
        """Return the first rule for the same two ends and protocol, or else for the two ends."""
        between = self._between(wanted)
        return self._lowest(between & self._of[wanted.protocol]) or self._lowest(between)

    def _between(self, wanted: Contact) -> int:
        if wanted.client is None:
            origin = self._origins.of_site(wanted.origin)
        else:
            origin = self._origins.of_address(wanted.client)
        return origin & self._targets.of_address(wanted.destination)

    def _about(self, wanted: Contact) -> int:
        if wanted.protocol == "icmp":
            return self._of["icmp"]
        return self._ports[wanted.protocol].of(wanted.port)

    def _lowest(self, found: int) -> Rule | None:
        return self._rules[(found & -found).bit_length() - 1] if found else None


def _of_protocol(rules: Iterable[Rule], protocol: Protocol) -> int:
    """Return the rules about a protocol, whatever their ports."""
    return sum(1 << place for place, rule in enumerate(rules) if rule.is_about(protocol))


def _ports(rules: Iterable[Rule], protocol: Protocol) -> dict[tuple[int, int], int]:
    """Return the rules of each range of ports that a rule about this protocol has."""
    found: defaultdict[tuple[int, int], int] = defaultdict(int)
    for place, rule in enumerate(rules):
        if rule.is_about(protocol):
            for ports in rule.ports or (PORTS,):
                found[ports[0], ports[-1]] |= 1 << place
    return found
