"""The kernel's groups of next hops: what turns one state into another, whatever the two are.

The kernel is a model here; ``tests/real/test_tunnel_routes.py`` has the real one.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsdn.config.model import Address, Family
from fedsdn.uplinks.routes.groups import (
    Change,
    DropForeign,
    DropGroup,
    DropHop,
    DropRoute,
    Exit,
    Hop,
    Interface,
    PeerRoutes,
    Present,
    SetGroup,
    SetHop,
    SetRoute,
    SetUnreachable,
    Wanted,
    carried,
    changes,
    target,
)

TUNNELS = ("t1-x", "t1-y", "t2-x", "t2-y")
ALL = {name: Interface(7 + at, frozenset({4, 6})) for at, name in enumerate(TUNNELS)}
SOURCES: dict[Family, Address] = {4: ip_address("10.0.0.2"), 6: ip_address("fd00::2")}


def prefixes(number: int) -> tuple[IPv4Network | IPv6Network, ...]:
    return (
        IPv4Network((f"10.{number}.0.0", 24)),
        IPv4Network((f"10.{number}.1.0", 24)),
        IPv6Network((f"fd00:{number}::", 64)),
    )


def reached(number: int, *tunnels: str) -> PeerRoutes:
    return PeerRoutes(prefixes(number), frozenset(map(Exit, tunnels)))


def wanting(*peers: PeerRoutes) -> Wanted:
    return Wanted(peers, SOURCES)


class Kernel:
    """Next hops, groups and routes as the kernel keeps them (net/ipv4/nexthop.c)."""

    def __init__(self, interfaces: dict[str, Interface]) -> None:
        self.up = {one.number: one.families for one in interfaces.values()}
        self.hops: dict[int, Hop] = {}
        self.groups: dict[int, frozenset[int]] = {}
        self.routes: dict[object, object] = {}
        self.unreachable: frozenset[Family] = frozenset()
        self.foreign: frozenset[bytes] = frozenset()

    @property
    def present(self) -> Present:
        return Present(
            dict(self.hops),
            dict(self.groups),
            dict(self.routes),  # type: ignore[arg-type]
            self.unreachable,
            self.foreign,
        )

    def make(self, change: Change) -> None:
        match change:
            case SetHop(hop):
                assert hop.family in self.up[hop.interface]
                self.hops[hop.number] = hop
            case DropHop(number):
                del self.hops[number]
                for group, hops in list(self.groups.items()):
                    self._set(group, hops - {number})
            case SetGroup(number, hops):
                assert hops
                assert hops <= self.hops.keys(), "a next hop that is not there"
                self.groups[number] = hops
            case DropGroup(number):
                assert number in self.groups
                self._set(number, frozenset())
            case SetRoute(prefix, route):
                assert route.group in self.groups
                self.routes[prefix] = route
            case DropRoute(prefix, route):
                assert self.routes.pop(prefix) == route
            case SetUnreachable(family):
                self.unreachable |= {family}
            case DropForeign(listed):
                self.foreign -= {listed}

    def _set(self, group: int, hops: frozenset[int]) -> None:
        if hops:
            self.groups[group] = hops
            return
        del self.groups[group]
        self.routes = {p: r for p, r in self.routes.items() if r.group != group}  # type: ignore[attr-defined]

    def lose(self, interface: int) -> None:
        """An interface goes down."""
        for number, hop in list(self.hops.items()):
            if hop.interface == interface:
                self.make(DropHop(number))

    def turn(self, wanted: Wanted, interfaces: dict[str, Interface]) -> Iterator[Change]:
        before = self.present
        for change in changes(before, target(wanted, interfaces, before)):
            self.make(change)
            yield change


tunnels = st.frozensets(st.sampled_from(TUNNELS))
some_peers = st.dictionaries(st.integers(1, 5), tunnels, max_size=5)
families: st.SearchStrategy[Family] = st.sampled_from([4, 6])
some_interfaces = st.dictionaries(
    st.sampled_from(TUNNELS),
    st.frozensets(families),
    max_size=4,
).map(lambda found: {name: Interface(ALL[name].number, fams) for name, fams in found.items()})


def all_of(peers: dict[int, frozenset[str]]) -> Wanted:
    return wanting(*(reached(number, *names) for number, names in peers.items()))


def expected(
    peers: dict[int, frozenset[str]], interfaces: dict[str, Interface]
) -> dict[object, frozenset[str]]:
    return {
        prefix: names
        for number, wanted in peers.items()
        for prefix in prefixes(number)
        if (names := frozenset(n for n in wanted & interfaces.keys()
                               if prefix.version in interfaces[n].families))
    }  # fmt: skip


@given(before=some_peers, after=some_peers, interfaces=some_interfaces)
def test_any_state_becomes_any_other(
    before: dict[int, frozenset[str]],
    after: dict[int, frozenset[str]],
    interfaces: dict[str, Interface],
) -> None:
    kernel = Kernel(interfaces)
    for peers in (before, after):
        list(kernel.turn(all_of(peers), interfaces))
        assert carried(kernel.present, interfaces) == expected(peers, interfaces)
        assert not list(kernel.turn(all_of(peers), interfaces)), "there is nothing left to change"


@given(before=some_peers, after=some_peers)
def test_no_prefix_is_without_a_route_meanwhile_or_led_elsewhere(
    before: dict[int, frozenset[str]], after: dict[int, frozenset[str]]
) -> None:
    kernel = Kernel(ALL)
    list(kernel.turn(all_of(before), ALL))
    old, new = expected(before, ALL), expected(after, ALL)
    for _ in kernel.turn(all_of(after), ALL):
        now = carried(kernel.present, ALL)
        assert old.keys() & new.keys() <= now.keys()
        for prefix, names in now.items():
            assert names <= old.get(prefix, frozenset()) | new.get(prefix, frozenset())


@given(peers=some_peers, gone=st.sampled_from(TUNNELS), others=some_peers)
def test_what_the_kernel_takes_away_with_an_interface_is_put_back(
    peers: dict[int, frozenset[str]], gone: str, others: dict[int, frozenset[str]]
) -> None:
    kernel = Kernel(ALL)
    list(kernel.turn(all_of(others), ALL))
    list(kernel.turn(all_of(peers), ALL))
    kernel.lose(ALL[gone].number)
    list(kernel.turn(all_of(peers), ALL))
    assert carried(kernel.present, ALL) == expected(peers, ALL)


@given(peers=some_peers, dies=st.integers(1, 5), on=st.sampled_from(TUNNELS))
def test_a_path_that_dies_changes_one_group_of_each_ip_version(
    peers: dict[int, frozenset[str]], dies: int, on: str
) -> None:
    kernel = Kernel(ALL)
    list(kernel.turn(all_of(peers), ALL))
    peers = {**peers, dies: peers.get(dies, frozenset()) - {on}}
    assert len(list(kernel.turn(all_of(peers), ALL))) <= 2


def test_a_tunnel_that_dies_takes_one_change_of_each_ip_version_for_all_peers() -> None:
    kernel = Kernel(ALL)
    list(kernel.turn(wanting(*(reached(n, "t1-x", "t1-y") for n in range(1, 100))), ALL))
    did = list(kernel.turn(wanting(*(reached(n, "t1-y") for n in range(1, 100))), ALL))
    assert [type(one) for one in did] == [DropHop, DropHop]


def test_a_path_that_returns_changes_no_route() -> None:
    kernel = Kernel(ALL)
    list(kernel.turn(wanting(reached(1, "t1-x")), ALL))
    did = list(kernel.turn(wanting(reached(1, "t1-x", "t1-y")), ALL))
    assert [type(one) for one in did] == [SetHop, SetHop, SetGroup, SetGroup]


def test_the_only_tunnel_is_replaced_before_it_goes() -> None:
    kernel = Kernel(ALL)
    list(kernel.turn(wanting(reached(1, "t1-x")), ALL))
    did = list(kernel.turn(wanting(reached(1, "t1-y")), ALL))
    assert [type(one) for one in did] == [SetHop, SetHop, SetGroup, SetGroup, DropHop, DropHop]


def test_another_process_finds_the_groups_again() -> None:
    kernel = Kernel(ALL)
    list(kernel.turn(wanting(reached(1, "t1-x"), reached(2, "t1-y")), ALL))
    assert not list(kernel.turn(wanting(reached(2, "t1-y"), reached(1, "t1-x")), ALL))


@pytest.mark.parametrize("family", [4, 6])
def test_without_an_address_of_our_own_nothing_of_an_ip_version_is_carried(family: Family) -> None:
    kernel = Kernel(ALL)
    wanted = Wanted((reached(1, "t1-x"),), {family: SOURCES[family]})
    list(kernel.turn(wanted, ALL))
    assert {prefix.version for prefix in carried(kernel.present, ALL)} == {family}


def test_the_table_has_nothing_of_others_and_answers_where_there_is_no_route() -> None:
    kernel = Kernel(ALL)
    kernel.foreign = frozenset({b"route"})
    list(kernel.turn(wanting(), ALL))
    assert kernel.unreachable == {4, 6}
    assert not kernel.foreign


def test_what_an_operator_has_made_is_not_taken_for_ours() -> None:
    """A group that is no resilient one reads as empty; its number is left to it."""
    kernel = Kernel(ALL)
    kernel.groups[1] = frozenset()
    list(kernel.turn(wanting(reached(1, "t1-x")), ALL))
    assert kernel.groups[1] == frozenset()
    assert carried(kernel.present, ALL).keys() == set(prefixes(1))


def test_a_neighbour_on_the_link_is_part_of_the_next_hop() -> None:
    gateway = IPv6Address("fe80::1")
    wanted = Wanted((PeerRoutes(prefixes(1), frozenset({Exit("t1-x", gateway)})),), SOURCES)
    found = target(wanted, ALL, Present())
    assert {hop.gateway for hop in found.hops.values()} == {gateway}


def test_the_number_of_somebody_elses_next_hop_is_left_to_it() -> None:
    wanted = wanting(reached(1, "t1-x"))
    found = target(wanted, ALL, Present(taken=frozenset({1, 2})))
    assert found.groups.keys() == {3, 4}
