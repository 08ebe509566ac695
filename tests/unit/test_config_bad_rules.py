"""Every group or rule that is wrong gives one exact line; the others are read as meant."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest

from fedsdn.config.document import ConfigError, parse_document
from fedsdn.config.loader import dump_federation, parse_federation
from fedsdn.config.model import Federation
from fedsdn.config.rules import Group, Rule
from tests.unit.bad_files import FILE, GOOD

FIRST = GOOD.count("\n") + 1
"""The line where what is added begins."""

NETWORK_IN = "write a network in a prefix of a site, or an address there"
PORTS = (
    "write a port of the destination from 1 to 65535, a range, as '8000-8099', or a list of these"
)
RANGE = "write the first and the last one, as '8000-8099', from 1 to 65535"
ENDS = "write a site, a group, a network or an address, or a list of these, as '[a, 10.2.0.0/28]'"
NOTHING = (
    "that allows nothing: no two of its addresses are of one IP version and at different sites; "
    "write two sites, or networks of two sites"
)


def parse(added: str) -> Federation:
    return parse_federation(parse_document(GOOD + added, FILE), of_lab=True)


BAD = {
    "no rules": (
        "allow:",
        "allow: found nothing; write a list of rules, of which each allows something; "
        "'[]' allows nothing, and without 'allow' VMs of all sites may talk",
    ),
    "empty rule": (
        "allow: [{}]",
        "allow[0]: found an empty mapping; write a rule with one or more of 'from', 'to', "
        "'protocol' and 'ports'; what it leaves out it does not limit",
    ),
    "unknown key": ("allow: [{form: a}]", "allow[0].form: found an unknown key; write 'from'"),
    "site misspelt": (
        "groups: {webs: [b]}\nallow: [{from: a, to: wbes}]",
        "+1: allow[0].to: found 'wbes', which is no name, network or address; write 'webs'",
    ),
    "unknown name": (
        "allow: [{from: [a, xyz], to: b}]",
        "allow[0].from[1]: found 'xyz', which is no name, network or address; "
        "write one of 'a', 'b'",
    ),
    "no end": ("allow: [{from: []}]", f"allow[0].from: found an empty list; {ENDS}"),
    "a number as name": ("allow: [{from: 7}]", f"allow[0].from: found the number 7; {ENDS}"),
    "outside of all prefixes": (
        "allow: [{from: 10.9.0.0/24}]",
        f"allow[0].from: found '10.9.0.0/24', which is in no site's prefix; {NETWORK_IN}",
    ),
    "address outside of all prefixes": (
        "allow: [{from: a, to: 10.2.1.11}]",
        f"allow[0].to: found '10.2.1.11', which is in no site's prefix; {NETWORK_IN}",
    ),
    "bits behind the length": (
        "allow: [{from: 10.1.0.1/24}]",
        "allow[0].from: found '10.1.0.1/24', which has bits set after its /24; write '10.1.0.0/24'",
    ),
    "no network": (
        "allow: [{from: a/24}]",
        "allow[0].from: found 'a/24'; write a network, as '10.1.0.0/24' or 'fd00:1::/64'",
    ),
    "the proxy": (
        "allow: [{from: a, to: [10.2.0.2]}]",
        "allow[0].to[0]: found '10.2.0.2', the proxy's address in 10.2.0.0/24: no VM has it; "
        "write an address of VMs",
    ),
    "one site": ("allow: [{from: a, to: a}]", f"allow[0]: found a rule from a to a {NOTHING}"),
    "one site's addresses": (
        "groups: {x: [10.1.0.11, a]}\nallow:\n- {from: x, to: 10.1.0.128/25, ports: 80}",
        f"+2: allow[0]: found a rule from x to 10.1.0.128/25, port 80 {NOTHING}",
    ),
    "two families": (
        "allow: [{from: 10.1.0.0/24, to: 'fd00:2::/64'}]",
        f"allow[0]: found a rule from 10.1.0.0/24 to fd00:2::/64 {NOTHING}",
    ),
    "protocol": (
        "allow: [{from: a, protocol: sctp}]",
        "allow[0].protocol: found 'sctp'; write 'tcp', 'udp', 'icmp' (of IPv4 and IPv6) or 'any'",
    ),
    "port 0": ("allow: [{ports: 0}]", f"allow[0].ports: found the number 0; {PORTS}"),
    "port 65536": ("allow: [{ports: 65536}]", f"allow[0].ports: found the number 65536; {PORTS}"),
    "port of a list": (
        "allow: [{ports: [80, 65536]}]",
        "allow[0].ports[1]: found the number 65536; "
        "write a port from 1 to 65535, or a range, as '8000-8099'",
    ),
    "port's name": ("allow: [{ports: http}]", f"allow[0].ports: found 'http'; {PORTS}"),
    "range backwards": (
        "allow: [{ports: 99-80}]",
        f"allow[0].ports: found '99-80', which is no range of ports; {RANGE}",
    ),
    "range beyond": (
        "allow: [{ports: [65530-65536]}]",
        f"allow[0].ports[0]: found '65530-65536', which is no range of ports; {RANGE}",
    ),
    "ports of ICMP": (
        "allow: [{protocol: icmp, ports: 80}]",
        "allow[0].ports: found ports beside 'protocol: icmp', which has none; "
        "write 'ports' with 'tcp' or 'udp' alone",
    ),
    "group with a site's name": (
        "groups: {a: [10.1.0.11]}",
        "groups.a: found 'a', which is a site's name; write a name of the group alone",
    ),
    "group with an address's name": (
        "groups: {10.1.0.11: [a]}",
        "groups.'10.1.0.11': found '10.1.0.11', which is an address; write a name, as 'web'",
    ),
    "group of groups": (
        "groups: {x: [a], y: [x]}",
        "groups.y[0]: found 'x', which is a group; write its members: groups hold no groups",
    ),
    "empty group": (
        "groups: {x: []}",
        "groups.x: found an empty list; write a list of sites, networks and addresses, one or more",
    ),
}


@pytest.mark.parametrize(("added", "said"), BAD.values(), ids=BAD.keys())
def test_a_bad_rule_or_group_has_one_exact_message(added: str, said: str) -> None:
    line, text = FIRST, said
    if said.startswith("+"):
        further, _, text = said[1:].partition(": ")
        line += int(further)
    with pytest.raises(ConfigError) as caught:
        parse(added)
    assert str(caught.value) == f"federation.yaml:{line}: {text}"


GATEWAYS = {
    "outside": (
        "10.1.9.1",
        "'10.1.9.1', which is outside the prefix '10.1.0.0/24'; write an address of '10.1.0.0/24'",
    ),
    "broadcast": (
        "10.1.0.255",
        "'10.1.0.255', the broadcast address of '10.1.0.0/24'; "
        "write a host's address in '10.1.0.0/24'",
    ),
    "the proxy": ("10.1.0.2", "'10.1.0.2', the proxy's own address; write the router's address"),
}


@pytest.mark.parametrize(("address", "said"), GATEWAYS.values(), ids=GATEWAYS.keys())
def test_a_prefix_has_a_gateway_in_it_or_none(address: str, said: str) -> None:
    proxy = "        proxy_address: 10.1.0.2\n"
    text = GOOD.replace(proxy, f"{proxy}        gateway: {address}\n")
    with pytest.raises(ConfigError) as caught:
        parse_federation(parse_document(text, FILE), of_lab=True)
    assert str(caught.value) == f"federation.yaml:8: sites.a.prefixes[0].gateway: found {said}"


GOOD_RULES = """\
groups:
  web: [10.2.0.16/28, "fd00:2::10/124", a]
allow:
  - {from: a, to: web, protocol: tcp, ports: [80, 8000-8099]}
  - {to: 10.2.0.40, protocol: icmp}
  - from: [b, 10.1.0.0/24]
  - {ports: 22}
  - {protocol: any}
  - {from: 0.0.0.0/0, to: [10.0.0.0/8, 10.2.0.11]}
"""


def test_rules_are_read_as_they_are_meant_and_written_so_again() -> None:
    federation = parse(GOOD_RULES)
    wide, eight, one = map(ip_network, ("0.0.0.0/0", "10.0.0.0/8", "10.2.0.11"))
    assert federation.groups == (
        Group("web", (ip_network("10.2.0.16/28"), ip_network("fd00:2::10/124"), "a")),
    )
    assert federation.allow == (
        Rule(("a",), ("web",), "tcp", (range(80, 81), range(8000, 8100))),
        Rule(None, (ip_network("10.2.0.40"),), "icmp"),
        Rule(("b", ip_network("10.1.0.0/24"))),
        Rule(ports=(range(22, 23),)),
        Rule(),
        Rule((wide,), (eight, one)),
    )
    assert [(rule.place, rule.line - FIRST) for rule in federation.allow] == [
        (place, place + 3) for place in range(6)
    ]
    assert [str(rule) for rule in federation.allow] == [
        "from a to web, tcp ports 80, 8000-8099",
        "to 10.2.0.40, icmp",
        "from b, 10.1.0.0/24",
        "port 22",
        "everything",
        "from 0.0.0.0/0 to 10.0.0.0/8, 10.2.0.11",
    ]
    written = dump_federation(federation)
    assert parse_federation(parse_document(written, Path("other.yaml")), of_lab=True) == federation


def test_no_site_is_called_like_an_address() -> None:
    """Else a rule for that VM of b would be one for all of the site."""
    text = GOOD.replace("  a:\n", "  10.2.0.11:\n") + "allow: [{from: b, to: 10.2.0.11}]"
    with pytest.raises(ConfigError) as caught:
        parse_federation(parse_document(text, FILE), of_lab=True)
    assert str(caught.value).endswith(
        ": sites.'10.2.0.11': found '10.2.0.11', which is an address; write a name, as 'web'"
    )


@pytest.mark.parametrize("origin", ["10.2.0.0/24", "all"])
def test_networks_behind_anothers_proxy_do_not_make_a_rule_good(origin: str) -> None:
    """Clients there are known by their site alone: a rule from their network lets nobody in."""
    foreign = GOOD.replace("  b:\n", "  b:\n    proxy: socks5\n")
    text = f"{foreign}groups: {{all: [10.2.0.0/24]}}\nallow: [{{from: {origin}, to: a}}]"
    with pytest.raises(ConfigError) as caught:
        parse_federation(parse_document(text, FILE), of_lab=True)
    assert str(caught.value).endswith(f"found a rule from {origin} to a {NOTHING}")
    for good in (f"from: a, to: {origin}", "from: b, to: a"):
        rules = text.replace(f"from: {origin}, to: a", good)
        assert parse_federation(parse_document(rules, FILE), of_lab=True).allow


def test_a_site_is_meant_before_an_address_of_the_same_words() -> None:
    text = GOOD.replace("  a:\n", "  '10':\n") + "allow: [{from: '10', to: b}]"
    (rule,) = parse_federation(parse_document(text, FILE), of_lab=True).allow or ()
    assert rule.origin == ("10",)


def test_nothing_is_allowed_by_an_empty_list_and_everything_without_one() -> None:
    assert parse("allow: []").allow == ()
    assert parse("").allow is None
