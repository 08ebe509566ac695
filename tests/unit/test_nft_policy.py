"""The rules of ``allow`` as the packet filter has them; that they hold is in tests/real."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

from fedsdn.config.model import Federation
from fedsdn.config.rules import Group, Rule
from fedsdn.pipeline.declarations import CT_POLICY_MASK
from fedsdn.site.nft_policy import policy
from tests.unit.federations import three_sites, with_foreign_proxy


def written(*rules: Rule, federation: Federation | None = None, site: str = "a") -> list[str]:
    """What the rules allow, without how that is done and without addresses that no VM has."""
    whole = replace(federation or three_sites(), allow=rules)
    found = policy(whole, whole.site(site)).rules
    return [rule.split(" ct mark set ")[0] for rule in found if "ct mark set" in rule]


def test_a_rule_is_one_way_and_of_this_site() -> None:
    rule = Rule(("a",), ("b", ip_network("10.3.0.16/28")), "udp", (range(53, 54), range(80, 90)))
    expected = [
        f"ct original {word} saddr {{ {own} }} ct original {word} daddr {{ {remote} }} "
        f"ct direction {way} udp {end} {{ 53, 80-89 }}"
        for word, own, remote in (
            ("ip", "10.1.0.0/24", "10.2.0.0/24, 10.3.0.16/28"),
            ("ip6", "fd00:1::/64", "fd00:2::/64"),
        )
        for way, end in (("original", "dport"), ("reply", "sport"))
    ]
    assert sorted(written(rule)) == sorted(expected)
    assert len(written(rule, site="b")) == 4
    assert len(written(rule, site="c")) == 2, "of IPv4 alone"
    assert not written(Rule(("b",), ("c",), "udp"))


def test_protocols_are_what_the_rule_says() -> None:
    assert written(Rule(protocol="icmp")) == ["meta l4proto icmp", "meta l4proto ipv6-icmp"]
    assert not written(Rule(protocol="tcp"))
    [both, _] = written(Rule(("a",), ("b",)))
    assert both == "ct original ip saddr { 10.1.0.0/24 } ct original ip daddr { 10.2.0.0/24 }"


def test_a_group_is_its_members_and_a_wide_network_what_sites_have_of_it() -> None:
    group = Group("some", ("c", ip_network("10.0.0.0/8")))
    federation = replace(three_sites(), groups=(group,))
    found = written(Rule(("some",), None, "icmp"), federation=federation)
    own, others = "{ 10.1.0.0/24 }", "{ 10.2.0.0/24, 10.3.0.0/24 }"
    assert [one for one in found if "ct original ip saddr" in one] == [
        f"ct original ip saddr {near} ct original ip daddr {far} meta l4proto icmp"
        for near, far in ((own, others), (others, own))
    ]


def test_what_has_another_proxy_is_in_no_rule() -> None:
    federation = with_foreign_proxy(three_sites(), "b")
    for rule in written(Rule(("a",), None, "udp"), federation=federation):
        assert "10.2.0.0" not in rule
        assert "fd00:2::" not in rule


def test_other_rules_have_another_mark() -> None:
    marks = set()
    for allow in (None, (), (Rule(("a",)),), (Rule(("b",)),)):
        federation = replace(three_sites(), allow=allow)
        mark = policy(federation, federation.site("a")).mark
        assert mark
        assert mark & ~CT_POLICY_MASK == 0
        marks.add(mark)
    assert len(marks) == 4
