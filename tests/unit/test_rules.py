"""Which rule decides, held against a walk over all of them; and how fast that is found."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsdn.config.decision import Question, contact, decide
from fedsdn.config.model import Address, Federation, Network, Prefix
from fedsdn.config.rules import PORTS, Contact, Group, Protocol, Rule
from fedsdn.config.special import special
from tests.unit.federations import three_sites, with_foreign_proxy

SITES = three_sites().sites
NETWORKS: list[Network] = [
    ip_network(text)
    for text in (
        *("0.0.0.0/0", "::/0", "10.0.0.0/14", "10.1.0.0/24", "10.1.0.0/25", "10.1.0.16/28"),
        *("10.2.0.0/23", "10.2.0.11/32", "10.3.0.128/25", "fd00:1::/64", "fd00:1::10/124"),
        *("fd00:2::11/128", "fd00::/30"),
    )
]
ADDRESSES: list[Address] = [
    ip_address(text)
    for text in (
        *("10.1.0.1", "10.1.0.16", "10.1.0.31", "10.1.0.127", "10.1.0.128", "10.2.0.11"),
        *("10.2.0.12", "10.3.0.127", "10.3.0.128", "10.3.0.254"),
        *("fd00:1::1", "fd00:1::10", "fd00:1::1f", "fd00:2::11", "fd00:2::12", "fd00:3::11"),
    )
]
PROTOCOLS: tuple[Protocol, ...] = ("tcp", "udp", "icmp")
SOME_PORTS = (1, 22, 79, 80, 81, 443, 8000, 8099, 8100, 65535)

group_names = st.sampled_from(["web", "admins"])
networks = st.sampled_from(NETWORKS)
names = st.sampled_from([site.name for site in SITES])
groups = st.builds(
    lambda one, other: (Group("web", tuple(one)), Group("admins", tuple(other))),
    *[st.lists(st.one_of(names, networks), min_size=1, max_size=3)] * 2,
)
ends = st.none() | st.lists(st.one_of(names, networks, group_names), min_size=1, max_size=3).map(
    tuple
)
ports = st.tuples(st.sampled_from(SOME_PORTS), st.sampled_from(SOME_PORTS)).map(
    lambda pair: range(min(pair), max(pair) + 1)
)
unlimited = st.builds(Rule, ends, ends, st.sampled_from([*PROTOCOLS, "any"]))
limited = st.builds(
    Rule,
    ends,
    ends,
    st.sampled_from(["tcp", "udp", "any"]),
    st.lists(ports, min_size=1, max_size=3).map(tuple),
)
federations = st.builds(
    lambda rules, groups, foreign: replace(
        with_foreign_proxy(three_sites(), "c") if foreign else three_sites(),
        groups=groups,
        allow=tuple(replace(rule, place=place) for place, rule in enumerate(rules)),
    ),
    st.lists(unlimited | limited, max_size=12),
    groups,
    st.booleans(),
)


def holds_for(rule: Rule, protocol: Protocol, port: int) -> bool:
    if rule.protocol not in ("any", protocol):
        return False
    if not rule.ports:
        return True
    return protocol != "icmp" and any(port in ports for ports in rule.ports)


def naive(federation: Federation, wanted: Contact) -> Rule | None:
    """Walk over all rules, as a person reads them."""

    def is_of(member: str | Network, address: Address | None, site: str) -> bool:
        if not isinstance(member, str):
            return address is not None and address in member
        if member == site:
            return True
        return any(
            is_of(one, address, site)
            for group in federation.groups
            if group.name == member
            for one in group.members
        )

    held = federation.prefix_of(wanted.destination)
    assert held is not None
    for rule in federation.allow or ():
        origin = rule.origin is None or any(
            is_of(member, wanted.client, wanted.origin) for member in rule.origin
        )
        target = rule.target is None or any(
            is_of(member, wanted.destination, held[0].name) for member in rule.target
        )
        if origin and target and holds_for(rule, wanted.protocol, wanted.port):
            return rule
    return None


@given(federations, st.sampled_from(ADDRESSES), st.sampled_from(ADDRESSES), st.data())
def test_the_index_finds_what_a_walk_finds(
    federation: Federation, client: Address, destination: Address, data: st.DataObject
) -> None:
    held, rules = federation.prefix_of(client), federation.rules
    assert held is not None
    assert rules is not None
    for protocol in PROTOCOLS:
        port = 0 if protocol == "icmp" else data.draw(st.sampled_from(SOME_PORTS))
        asked = Question(client, destination, port, protocol)
        wanted = contact(held[0], asked)
        expected = naive(federation, wanted)
        assert rules.first(wanted) is expected
        if expected is None:
            near = [rule for rule in federation.allow or () if rule is rules.nearest(wanted)]
            assert all(not holds_for(rule, protocol, port) for rule in near)


@given(federations, st.sampled_from(ADDRESSES), st.sampled_from(ADDRESSES))
def test_a_decision_is_that_of_the_rules_and_says_which(
    federation: Federation, client: Address, destination: Address
) -> None:
    decision = decide(federation, Question(client, destination, 80))
    held, target = federation.prefix_of(client), federation.prefix_of(destination)
    assert held is not None
    assert target is not None
    if held[0].name == target[0].name:
        assert not decision.allowed
        assert "both are at site" in decision.why
        return
    expected = naive(federation, contact(held[0], Question(client, destination, 80)))
    assert decision.rule is expected
    assert decision.allowed is (expected is not None)
    if expected is not None:
        assert decision.why.startswith(f"allow[{expected.place}]: ")


def rules(*every: Rule, groups: tuple[Group, ...] = ()) -> Federation:
    numbered = tuple(replace(rule, place=place) for place, rule in enumerate(every))
    return replace(three_sites(), allow=numbered, groups=groups)


def why(federation: Federation, client: str, destination: str, port: int = 80) -> str:
    return decide(federation, Question(ip_address(client), ip_address(destination), port)).why


def test_without_rules_members_may_talk_and_with_none_nobody() -> None:
    asked = Question(ip_address("10.1.0.11"), ip_address("10.2.0.11"), 80)
    assert decide(three_sites(), asked).allowed
    nobody = decide(rules(), asked)
    assert not nobody.allowed
    assert nobody.why == (
        "no rule allows tcp from 10.1.0.11 to 10.2.0.11 port 80 (site a to site b): "
        "'allow' is empty"
    )


def test_the_nearest_rule_is_named() -> None:
    federation = rules(
        Rule(("a",), (ip_network("10.2.0.16/28"),), "tcp", (PORTS[79:80], range(443, 500)))
    )
    assert why(federation, "10.1.0.11", "10.2.0.17", 22).endswith(
        "the nearest is allow[0], from a to 10.2.0.16/28, tcp ports 80, 443-499"
    )
    assert why(federation, "10.1.0.11", "10.2.0.11", 22).endswith("none is for these two ends")
    assert why(federation, "10.1.0.11", "10.2.0.17") == (
        "allow[0]: from a to 10.2.0.16/28, tcp ports 80, 443-499"
    )


def test_of_clients_behind_anothers_proxy_the_site_alone_counts() -> None:
    by_address = with_foreign_proxy(rules(Rule(origin=(ip_network("10.3.0.0/24"),))), "c")
    by_name = with_foreign_proxy(rules(Rule(origin=("c",))), "c")
    in_group = with_foreign_proxy(
        rules(Rule(origin=("all",)), groups=(Group("all", ("b", "c")),)), "c"
    )
    asked = Question(ip_address("10.3.0.11"), ip_address("10.1.0.11"), 80)
    assert [decide(one, asked).allowed for one in (by_address, by_name, in_group)] == [
        False,
        True,
        True,
    ]


def test_between_two_sites_with_others_proxies_nothing_is_carried() -> None:
    for federation in (three_sites(), rules(Rule(origin=("b",)))):
        foreign = with_foreign_proxy(with_foreign_proxy(federation, "b"), "c")
        decided = decide(foreign, Question(ip_address("10.2.0.11"), ip_address("10.3.0.11"), 80))
        assert str(decided) == "refused: neither site b nor site c runs fedsdn: not carried"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("10.2.0.0", "the network address of 10.2.0.0/24"),
        ("10.2.0.255", "the broadcast address of 10.2.0.0/24"),
        ("10.2.0.2", "the proxy's address in 10.2.0.0/24"),
        ("10.2.0.1", "the gateway of 10.2.0.0/24"),
        ("fd00:2::", "the subnet-router anycast address of fd00:2::/64"),
        ("fd00:2::2", "the proxy's address in fd00:2::/64"),
        ("224.0.0.1", "a multicast address"),
        ("127.0.0.1", "a loopback address"),
        ("169.254.1.1", "a link-local address"),
        ("0.0.0.0", "an address of 'this network'"),
        ("255.255.255.255", "a reserved address"),
        ("::", "the unspecified address"),
        ("::1", "a loopback address"),
        ("fe80::1", "a link-local address"),
        ("ff02::1", "a multicast address"),
        ("::ffff:10.2.0.11", "an IPv4 address written as IPv6"),
    ],
)
def test_addresses_that_no_vm_has_are_neither_client_nor_destination(
    address: str, said: str
) -> None:
    federation = three_sites()
    a, b, c = federation.sites
    b = replace(b, prefixes=(replace(b.prefixes[0], gateway=ip_address("10.2.0.1")), b.prefixes[1]))
    federation = replace(federation, sites=(a, b, c))
    vm = "10.1.0.11" if ip_address(address).version == 4 else "fd00:1::11"
    for ends in ((vm, address), (address, vm)):
        assert why(federation, *ends) == f"{ip_address(address)} is {said}: no VM has it"


@pytest.mark.parametrize("network", ["10.2.0.0/31", "10.2.0.0/32", "fd00:2::/127", "fd00:2::/128"])
def test_networks_of_two_addresses_and_of_one_have_vms_at_all(network: str) -> None:
    prefix = Prefix(ip_network(network), ip_address("192.0.2.1"))
    assert [special(address, prefix) for address in prefix.network] == [None] * (
        prefix.network.num_addresses
    )


def test_a_wide_prefix_has_no_vm_in_multicast_or_loopback() -> None:
    prefix = Prefix(ip_network("64.0.0.0/2"), ip_address("64.0.0.2"))
    assert special(ip_address("127.1.2.3"), prefix) == "a loopback address"
    assert special(ip_address("126.1.2.3"), prefix) is None


def test_an_address_that_is_not_federated_is_said_to_be_so() -> None:
    assert why(three_sites(), "10.1.0.11", "8.8.8.8") == (
        "8.8.8.8 is in no site's prefix: not federated, so not carried"
    )
