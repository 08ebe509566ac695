"""Groups and rules as the federation file has them: read, checked, written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from ipaddress import ip_address, ip_network
from itertools import islice
from typing import Any

from fedsdn.config.addresses import parse_address, parse_network
from fedsdn.config.document import Document, quoted
from fedsdn.config.model import Family, Federation, Network, Site
from fedsdn.config.rules import PORTS, Group, Rule, member_text, ports_text, written
from fedsdn.config.special import special

_RANGE = re.compile(r"([0-9]{1,9})-([0-9]{1,9})")
_MOST_NAMES = 8
"""An error lists so many names that could have been meant."""

_WRITE_NETWORK = "a network in a prefix of a site, or an address there"
_FAMILIES: tuple[Family, ...] = (4, 6)

Members = tuple[str | Network, ...]


def read_groups(federation: Document, sites: Iterable[Site]) -> tuple[Group, ...]:
    """Read the groups of a federation file that has these sites.

    Raises:
        ConfigError: a network of theirs is none.

    """
    groups = federation.section("groups")
    if groups.value is None:
        return ()
    names = _names(federation, sites)
    return tuple(Group(name, _members(group, names)) for name, group in groups.items())


def read_rules(federation: Document, sites: Iterable[Site]) -> tuple[Rule, ...] | None:
    """Read the rules of a federation file that has these sites; None if it has no ``allow``.

    Raises:
        ConfigError: a network, or a range of ports, is none.

    """
    allow = federation.section("allow")
    if allow.value is None:
        return None
    names = _names(federation, sites)
    return tuple(_rule(place, rule, names) for place, rule in enumerate(allow.elements()))


def _names(federation: Document, sites: Iterable[Site]) -> frozenset[str]:
    groups = federation.section("groups").value or ()
    return frozenset((*(site.name for site in sites), *groups))


def _rule(place: int, rule: Document, names: frozenset[str]) -> Rule:
    ends = {
        key: None if rule.section(key).value is None else _members(rule.section(key), names)
        for key in ("from", "to")
    }
    ports = () if rule.section("ports").value is None else tuple(_ports(rule.section("ports")))
    return Rule(
        origin=ends["from"],
        target=ends["to"],
        protocol=rule.value.get("protocol", "any"),
        ports=ports,
        place=place,
        line=rule.line,
    )


def _members(members: Document, names: frozenset[str]) -> Members:
    return tuple(_member(one, names) for one in members.each())


def _member(one: Document, names: frozenset[str]) -> str | Network:
    """Read a name, a network or an address; what is none of these is a name that nobody has."""
    text: str = one.value
    if text in names:
        return text
    if "/" in text:
        return parse_network(one)
    return ip_network(parse_address(one)) if _is_address(text) else text


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _ports(ports: Document) -> Iterator[range]:
    for one in ports.each():
        bounds = _RANGE.fullmatch(str(one.value))
        first, last = map(int, bounds.groups() if bounds else (one.value, one.value))
        if first not in PORTS or last not in PORTS or last < first:
            raise one.error(
                f"'{one.value}', which is no range of ports",
                "the first and the last one, as '8000-8099', from 1 to 65535",
            )
        yield range(first, last + 1)


def check_rules(federation: Federation, document: Document) -> None:
    """Check that groups and rules name what there is, and that each rule can allow something.

    Raises:
        ConfigError: the first that does not.

    """
    sites = dict.fromkeys(site.name for site in federation.sites)
    for name, where in document.section("sites").items():
        _check_no_address(name, where)
    names = sites | dict.fromkeys(group.name for group in federation.groups)
    for group in federation.groups:
        where = document.section("groups").section(group.name)
        _check_group_name(federation, group, where)
        _check_members(federation, group.members, where, sites)
    for place, rule in enumerate(federation.allow or ()):
        where = document.section("allow").section(place)
        for key, members in (("from", rule.origin), ("to", rule.target)):
            _check_members(federation, members or (), where.section(key), names)
        if rule.protocol == "icmp" and rule.ports:
            raise where.section("ports").error(
                "ports beside 'protocol: icmp', which has none", "'ports' with 'tcp' or 'udp' alone"
            )
        _check_use(federation, rule, where)


def _check_group_name(federation: Federation, group: Group, where: Document) -> None:
    if federation.find_site(group.name) is not None:
        raise where.error(f"'{group.name}', which is a site's name", "a name of the group alone")
    _check_no_address(group.name, where)


def _check_no_address(name: str, where: Document) -> None:
    """Check that a name does not look like a member of a rule that has none."""
    if _is_address(name):
        raise where.error(f"'{name}', which is an address", "a name, as 'web'")


def _check_members(
    federation: Federation, members: Members, where: Document, names: Mapping[str, None]
) -> None:
    for member, at in zip(members, where.each(), strict=False):
        if isinstance(member, str):
            if member not in names:
                raise at.error(*_unknown(federation, member, names))
            continue
        inside = next(federation.prefixes_in(member), None)
        if inside is None:
            raise at.error(f"'{member_text(member)}', which is in no site's prefix", _WRITE_NETWORK)
        if member.prefixlen == member.max_prefixlen and (
            kind := special(member.network_address, inside[1])
        ):
            raise at.error(f"'{member_text(member)}', {kind}: no VM has it", "an address of VMs")


def _unknown(federation: Federation, name: str, names: Mapping[str, None]) -> tuple[str, str]:
    """Say that a name is nobody's, and what to write."""
    if any(group.name == name for group in federation.groups):
        return f"{quoted(name)}, which is a group", "its members: groups hold no groups"
    near = get_close_matches(name, names, n=1)
    if near:
        return f"{quoted(name)}, which is no name, network or address", f"'{near[0]}'"
    more = ", ..." if len(names) > _MOST_NAMES else ""
    known = ", ".join(f"'{one}'" for one in islice(names, _MOST_NAMES))
    return f"{quoted(name)}, which is no name, network or address", f"one of {known}{more}"


def _check_use(federation: Federation, rule: Rule, where: Document) -> None:
    """Check that the two ends are at different sites, and of one family.

    Clients of a site with another's proxy are known by the site alone, so that their networks let
    nobody in.
    """
    ends = (
        _Ends(federation, rule.origin, of_clients=True),
        _Ends(federation, rule.target, of_clients=False),
    )
    for family in _FAMILIES:
        origins, targets = (end.sites(family) for end in ends)
        if origins and targets and len(origins | targets) > 1:
            return
    raise where.error(
        f"a rule {rule} that allows nothing: no two of its addresses are of one IP version and at "
        "different sites",
        "two sites, or networks of two sites",
    )


class _Ends:
    """At which sites one end of a rule is."""

    def __init__(
        self, federation: Federation, members: Members | None, *, of_clients: bool
    ) -> None:
        self._federation = federation
        self._members = members
        self._of_clients = of_clients

    def sites(self, family: Family) -> set[str]:
        """Return two of the sites, or the only one, where it has addresses of a family."""
        found: set[str] = set()
        for name in self._names(family):
            found.add(name)
            if len(found) > 1:
                break
        return found

    def _names(self, family: Family) -> Iterator[str]:
        if self._members is None:
            for site in self._federation.sites:
                yield from self._of_member(site.name, family)
        for member in self._members or ():
            yield from self._of_member(member, family)

    def _of_member(self, member: str | Network, family: Family) -> Iterator[str]:
        if not isinstance(member, str):
            if member.version == family:
                for inside, _ in self._federation.prefixes_in(member):
                    if not (self._of_clients and inside.proxy == "socks5"):
                        yield inside.name
            return
        site = self._federation.find_site(member)
        if site is None:
            group = self._federation.group(member)
            for one in group.members:
                yield from self._of_member(one, family)
        elif any(prefix.family == family for prefix in site.prefixes):
            yield site.name


def rules_document(federation: Federation) -> dict[str, Any]:
    """Return groups and rules as plain mappings and lists; without any, nothing."""
    document: dict[str, Any] = {}
    if federation.groups:
        document["groups"] = {
            group.name: _members_document(group.members) for group in federation.groups
        }
    if federation.allow is not None:
        document["allow"] = [_rule_document(rule) for rule in federation.allow]
    return document


def _rule_document(rule: Rule) -> dict[str, Any]:
    ends = {"from": rule.origin, "to": rule.target}
    document: dict[str, Any] = {
        key: _members_document(members) for key, members in ends.items() if members is not None
    }
    document["protocol"] = rule.protocol
    if rule.ports:
        document["ports"] = [
            ports[0] if len(ports) == 1 else ports_text(ports) for ports in rule.ports
        ]
    return document


def _members_document(members: Iterable[str | Network]) -> list[str]:
    return [member_text(member) for member in members]


def rules_meaning(federation: Federation) -> dict[str, Any]:
    """Return groups and rules as nested mappings, for comparison: without order and repetition."""
    meaning: dict[str, Any] = {}
    if federation.groups:
        meaning["groups"] = {
            group.name: written(sorted(set(group.members), key=member_text))
            for group in federation.groups
        }
    if federation.allow is not None:
        meaning["allow"] = {rule_meaning(rule): "allowed" for rule in federation.allow}
    return meaning


def rule_meaning(rule: Rule) -> str:
    """Write a rule so that two that say the same are the same text."""

    def ordered(members: Members | None) -> Members | None:
        return None if members is None else tuple(sorted(set(members), key=member_text))

    ports = tuple(sorted(set(rule.ports), key=lambda ports: (ports[0], ports[-1])))
    return str(Rule(ordered(rule.origin), ordered(rule.target), rule.protocol, ports))
