"""What a site needs on its host, worked out without touching one."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_network

import pytest

from fedsdn.config.model import Federation, ProviderNetwork, Site, Uplink
from fedsdn.config.rules import Rule
from fedsdn.pipeline.declarations import port_mac, wan_port
from fedsdn.pipeline.link_local import link_local
from fedsdn.site.plan import MAIN_TABLE, SitePlan, paired_uplinks, site_plan
from fedsdn.site.values import BridgeFacts, Port, Route, RouteKind
from tests.unit.federations import three_sites, two_sites, uplink, with_provider_network


def plan_of(federation: Federation, name: str = "a", facts: BridgeFacts | None = None) -> SitePlan:
    return site_plan(federation, federation.site(name), facts)


def with_uplinks(federation: Federation, name: str, *uplinks: Uplink) -> Federation:
    sites = [
        replace(site, uplinks=uplinks) if site.name == name else site for site in federation.sites
    ]
    return replace(federation, sites=tuple(sites))


def texts(values: object) -> list[str]:
    assert isinstance(values, tuple)
    return [str(value) for value in values]


def test_ports_of_a_flat_network_are_access_ports_of_untagged_frames() -> None:
    assert plan_of(two_sites()).ports == (
        Port("socksifier", tag=0),
        Port("server", tag=0),
        Port("router", tag=0),
        Port("wan-up1", trunks=(4095,)),
        Port("wan-up2", trunks=(4095,)),
    )


def test_ports_of_a_vlan_carry_its_segmentation_id() -> None:
    federation = with_provider_network(two_sites(), ProviderNetwork("br-vlan", 100))
    plan = plan_of(federation)
    assert plan.bridge == "br-vlan"
    assert texts(plan.ports)[:3] == ["socksifier tag 100", "server tag 100", "router tag 100"]


def test_veths_have_the_macs_that_the_flows_match() -> None:
    federation = two_sites()
    site = federation.site("a")
    macs = {veth.name: veth.mac for veth in plan_of(federation).veths}
    assert macs == {
        name: port_mac(site, name)
        for name in ("socksifier", "server", "router", "wan-up1", "wan-up2")
    }


def test_veths_follow_the_bridge() -> None:
    facts = BridgeFacts(checksum_offload=False, mtu=1450, uplink_mtus={"up1": 9000})
    veths = {veth.name: veth for veth in plan_of(two_sites(), facts=facts).veths}
    assert {name: veth.mtu for name, veth in veths.items()} == {
        "socksifier": 1450,
        "server": 1450,
        "router": 9216,
        "wan-up1": 9000,
        "wan-up2": 1500,
    }
    assert not any(veth.checksum_offload for veth in veths.values())
    assert str(veths["server"]).endswith("mtu 1450 tx-checksum off tso off up")
    assert str(plan_of(two_sites(), facts=facts).held) == "held tun multi_queue mtu 1450 up"


def test_super_frames_stay_off_uplinks_that_cut_them_up_wrongly() -> None:
    facts = BridgeFacts(uplink_segmentation=False)
    tso = {veth.name: veth.segmentation_offload for veth in plan_of(two_sites(), facts=facts).veths}
    assert tso == {
        "socksifier": True,
        "server": True,
        "router": True,
        "wan-up1": False,
        "wan-up2": False,
    }


def test_addresses() -> None:
    assert texts(plan_of(two_sites()).addresses) == [
        "10.1.0.2/24 dev socksifier",
        "10.1.0.2/24 dev server",
        "10.1.0.2/24 dev router",
        "fd00:1::2/64 dev socksifier",
        "192.0.2.1/24 dev wan-up1",
        "2001:db8:2::1/64 dev wan-up2",
    ]


def test_routes_print_as_iproute2_takes_them() -> None:
    assert texts(plan_of(two_sites()).routes) == [
        "table 100: local 0.0.0.0/0 dev lo",
        "table 103: 0.0.0.0/0 dev held",
        "table 100: local ::/0 dev lo",
        "table 103: ::/0 dev held",
        "table 101: 10.1.0.0/24 dev socksifier",
        "table 101: fd00:1::/64 dev socksifier",
        "table 101: unreachable 0.0.0.0/0",
        "table 101: unreachable ::/0",
        "table 102: 10.1.0.0/24 dev server",
        "table 102: fd00:1::/64 dev server",
        "table 102: unreachable 0.0.0.0/0",
        "table 102: unreachable ::/0",
        "table 99: local 10.2.0.0/24 dev lo",
        "table 99: local fd00:2::/64 dev lo",
        "table 300: 10.1.0.0/24 dev router src 10.1.0.2 mtu 1500",
        "table 300: fd00:1::/64 dev router src fd00:1::2 mtu 1500",
        "table 201: 192.0.2.0/24 dev wan-up1 src 192.0.2.1",
        "table 201: unreachable 0.0.0.0/0",
        "table 202: 2001:db8:2::/64 dev wan-up2 src 2001:db8:2::1",
        "table 202: unreachable ::/0",
        "table 254: 192.0.2.2/32 dev wan-up1 src 192.0.2.1",
        "table 254: 2001:db8:2::2/128 dev wan-up2 src 2001:db8:2::1",
    ]


def test_rules_look_into_each_uplinks_own_table() -> None:
    assert texts(plan_of(two_sites()).rules) == [
        "0: from all lookup 255 (IPv4)",
        "32766: from all lookup 254 (IPv4)",
        "0: from all lookup 255 (IPv6)",
        "32766: from all lookup 254 (IPv6)",
        "32767: from all lookup 253 (IPv4)",
        "99: from all fwmark 0x2/0xfffffffe lookup 99 (IPv4)",
        "100: from all fwmark 0x1 lookup 100 (IPv4)",
        "101: from all fwmark 0x2 lookup 101 (IPv4)",
        "102: from all fwmark 0x3 lookup 102 (IPv4)",
        "103: from all fwmark 0x4 lookup 103 (IPv4)",
        "100: from all fwmark 0x100/0xffffffc0 lookup 100 (IPv4)",
        "99: from all fwmark 0x2/0xfffffffe lookup 99 (IPv6)",
        "100: from all fwmark 0x1 lookup 100 (IPv6)",
        "101: from all fwmark 0x2 lookup 101 (IPv6)",
        "102: from all fwmark 0x3 lookup 102 (IPv6)",
        "103: from all fwmark 0x4 lookup 103 (IPv6)",
        "100: from all fwmark 0x100/0xffffffc0 lookup 100 (IPv6)",
        "201: from 192.0.2.1 lookup 201 (IPv4)",
        "201: from all fwmark 0x300 lookup 201 (IPv4)",
        "202: from 2001:db8:2::1 lookup 202 (IPv6)",
        "202: from all fwmark 0x301 lookup 202 (IPv6)",
        "300: from all fwmark 0x5 lookup 300 (IPv4)",
        "301: from all fwmark 0x5 lookup 301 (IPv4)",
        "300: from all fwmark 0x5 lookup 300 (IPv6)",
        "301: from all fwmark 0x5 lookup 301 (IPv6)",
    ]


def test_an_uplink_with_a_gateway_reaches_everything_through_it() -> None:
    federation = with_uplinks(two_sites(), "a", uplink("x", "198.51.100.2/30", "198.51.100.1"))
    federation = with_uplinks(federation, "b", uplink("y", "203.0.113.2/30", "203.0.113.1"))
    routes = texts(plan_of(federation).routes)
    assert "table 201: 0.0.0.0/0 via 198.51.100.1 dev wan-x src 198.51.100.2" in routes
    assert "table 254: 203.0.113.2/32 via 198.51.100.1 dev wan-x src 198.51.100.2" in routes


def test_peers_behind_nat_are_routed_by_their_public_address() -> None:
    federation = with_uplinks(two_sites(), "a", uplink("x", "198.51.100.2/30", "198.51.100.1"))
    behind = uplink("y", "192.168.1.2/24", "192.168.1.1", public="203.0.113.9")
    federation = with_uplinks(federation, "b", behind)
    main = [route for route in plan_of(federation).routes if route.table == MAIN_TABLE]
    assert texts(tuple(main)) == [
        "table 254: 203.0.113.9/32 via 198.51.100.1 dev wan-x src 198.51.100.2"
    ]


def test_endpoints_are_the_uplinks_own_addresses_and_not_announced() -> None:
    behind = uplink("y", "192.168.1.2/24", "192.168.1.1", public="203.0.113.9")
    open_ = uplink("x", "198.51.100.2/30", "198.51.100.1")
    plan = plan_of(with_uplinks(two_sites(), "a", open_, behind))
    assert texts(plan.endpoints) == ["198.51.100.2 subflow", "192.168.1.2 subflow"]


def test_every_route_of_a_table_has_its_own_destination() -> None:
    for federation in (two_sites(), three_sites()):
        for site in federation.sites:
            routes = plan_of(federation, site.name).routes
            keys = [(route.table, route.destination) for route in routes]
            assert len(keys) == len(set(keys))


def pairs(site: Site, peer: Site) -> list[tuple[str, str]]:
    return [(remote.name, local.name) for remote, local in paired_uplinks(site, peer)]


def test_pairs_deal_the_peers_uplinks_out_to_ours() -> None:
    ours = (
        uplink("a1", "198.51.100.1/24", "198.51.100.254"),
        uplink("a2", "198.51.101.1/24", "198.51.101.254"),
    )
    theirs = tuple(
        uplink(f"b{number}", f"203.0.113.{number * 4 + 1}/30", f"203.0.113.{number * 4 + 2}")
        for number in range(3)
    )
    federation = with_uplinks(with_uplinks(two_sites(), "a", *ours), "b", *theirs)
    site, peer = federation.sites
    assert pairs(site, peer) == [("b0", "a1"), ("b1", "a2"), ("b2", "a1")]
    assert pairs(peer, site) == [("a1", "b0"), ("a2", "b1")]


def test_a_direct_wire_comes_before_a_gateway() -> None:
    ours = (
        uplink("far", "198.51.100.1/24", "198.51.100.254"),
        uplink("near", "192.0.2.1/24"),
    )
    theirs = (uplink("there", "192.0.2.2/24", "192.0.2.254"),)
    federation = with_uplinks(with_uplinks(two_sites(), "a", *ours), "b", *theirs)
    site, peer = federation.sites
    assert pairs(site, peer) == [("there", "near")]


def test_an_uplink_that_reaches_nothing_has_no_pair() -> None:
    federation = with_uplinks(two_sites(), "b", uplink("up1", "203.0.113.2/24"))
    assert pairs(*federation.sites) == []


def test_the_ruleset_names_peers_and_prefixes() -> None:
    ruleset = plan_of(three_sites()).ruleset
    assert "ip saddr { 192.0.2.2, 192.0.2.3 } meta l4proto { tcp, udp } jump from_peer" in ruleset
    assert (
        "ip6 saddr { 2001:db8:2::2, 2001:db8:2::3 } meta l4proto { tcp, udp } jump from_peer"
        in ruleset
    )
    held = "ip saddr { 10.1.0.0/24 } ip daddr { 10.2.0.0/24, 10.3.0.0/24 } meta mark set 0x4 accept"
    assert held in ruleset
    assert "tcp dport 1080 accept" in ruleset
    assert "udp dport 1080 accept" in ruleset


def test_who_asks_is_in_no_limit_if_the_file_knows_him() -> None:
    """Peers, gateways, and the link-local addresses that follow from what they are known by."""
    mac = "00:00:5e:00:02:07"
    one = uplink("up1", "2001:db8:2::1/64", gateway="2001:db8:2::ff")
    site = replace(one, gateway_mac=mac)
    federation = with_uplinks(three_sites(), "a", uplink("up0", "192.0.2.1/24"), site)
    rules = [line.strip() for line in plan_of(federation).ruleset.splitlines()]
    (asked,) = [rule for rule in rules if "solicit accept" in rule and "ip6 saddr {" in rule]
    known = {"2001:db8:2::2", "2001:db8:2::3", "2001:db8:2::ff", str(link_local(mac))}
    for peer in federation.peers("a"):
        known |= {
            str(link_local(port_mac(peer, wan_port(remote))))
            for remote in peer.uplinks
            if remote.family == 6
        }
    assert set(asked.partition("{")[2].partition("}")[0].replace(",", "").split()) == known
    echoes = [rule for rule in rules if "echo-request accept" in rule and "saddr {" in rule]
    assert len(echoes) == 2
    assert 'iifname { "wan-up0" } arp saddr ip { 192.0.2.2, 192.0.2.3 } accept' in rules
    before, beyond = (
        next(number for number, rule in enumerate(rules) if text in rule)
        for text in ("arp saddr ip 192.0.2.0/24 update @askers", "arp saddr ip set 0.0.0.0")
    )
    assert before < beyond, "answered, and not taken up"


def test_no_peer_elsewhere_is_among_those_who_ask() -> None:
    """There may be thousands; whoever asks in their names would be taken up as each of them."""
    federation = with_uplinks(
        with_uplinks(two_sites(), "b", uplink("up1", "2001:db8:9::2/64", gateway="2001:db8:9::ff")),
        "a",
        uplink("up1", "2001:db8:2::1/64", gateway="2001:db8:2::ff"),
    )
    rules = plan_of(federation).ruleset.splitlines()
    assert [rule for rule in rules if "2001:db8:9::2" in rule and "echo-request accept" in rule]
    assert not [rule for rule in rules if "2001:db8:9::2" in rule and "solicit" in rule]
    assert not [rule for rule in rules if "arp" in rule]


def test_a_family_that_is_not_used_is_not_in_the_ruleset() -> None:
    federation = two_sites()
    sites = tuple(
        replace(site, prefixes=site.prefixes[:1], uplinks=site.uplinks[:1])
        for site in federation.sites
    )
    ruleset = plan_of(replace(federation, sites=sites)).ruleset
    assert "tproxy ip to" in ruleset
    assert "ip6 saddr {" not in ruleset
    assert "tproxy ip6" not in ruleset


def test_a_peer_that_no_uplink_reaches_is_not_let_in() -> None:
    federation = with_uplinks(two_sites(), "b", uplink("up1", "203.0.113.2/24"))
    assert "203.0.113.2" not in plan_of(federation).ruleset


def test_each_worker_has_a_port_for_the_syns_that_it_hands_in() -> None:
    ruleset = plan_of(two_sites()).ruleset
    for mark, port in (("0x100", 1081), ("0x101", 1082), ("0x13f", 1144)):
        assert f"{mark} : {port}" in ruleset
    assert "0x140" not in ruleset


def test_every_drop_is_counted_and_explained() -> None:
    rules = plan_of(two_sites()).ruleset.splitlines()
    drops = [rule for rule in rules if re.search(r"\bdrop\b", rule) and "policy" not in rule]
    assert drops
    assert all(re.search(r'counter drop comment "[^"]+"$', rule) for rule in drops)


def test_sysctls_are_named_once_and_explained() -> None:
    plan = plan_of(two_sites())
    settings = (*plan.sysctls, *plan.port_sysctls)
    names = [setting.name for setting in settings]
    assert len(names) == len(set(names))
    assert all(setting.meaning for setting in settings)
    assert "net.ipv4.conf.all.rp_filter = 0" in texts(settings)


@pytest.mark.parametrize(
    ("port", "reserved"),
    [(1080, "1080-1144"), (1145, "1081-1145"), (4430, "1081-1144,4430"), (80, "80,1081-1144")],
)
def test_listening_ports_are_reserved_as_the_kernel_prints_them(port: int, reserved: str) -> None:
    plan = plan_of(replace(two_sites(), proxy_port=port))
    assert f"net.ipv4.ip_local_reserved_ports = {reserved},51820-51884" in texts(plan.sysctls)


def test_a_digest_is_every_plans_own_but_for_the_rules() -> None:
    """The application puts other rules in place itself, and goes on to put back the rest."""
    one = two_sites()
    ruled = plan_of(replace(one, allow=(Rule(("a",), ("b",), "udp"),)))
    assert ruled != plan_of(one)
    assert ruled.digest == plan_of(one).digest
    assert plan_of(replace(one, proxy_port=1081)).digest != plan_of(one).digest


def test_the_plan_is_the_same_value_every_time() -> None:
    assert plan_of(two_sites()) == plan_of(two_sites())
    assert plan_of(two_sites()) != plan_of(two_sites(), "b")


def test_plans_of_two_sites_mirror_each_other() -> None:
    """What one site sends to is what the other one holds."""
    federation = three_sites()
    for site in federation.sites:
        held = {
            ip_network(entry.address.ip)
            for peer in federation.peers(site.name)
            for entry in plan_of(federation, peer.name).addresses
            if entry.interface.startswith("wan-")
        }
        sent = {
            route.destination
            for route in plan_of(federation, site.name).routes
            if route.table == MAIN_TABLE
        }
        assert sent == held


def test_a_route_without_a_way_prints_so() -> None:
    route = Route(7, ip_network("10.0.0.0/8"), RouteKind.UNREACHABLE)
    assert str(route) == "table 7: unreachable 10.0.0.0/8"
