"""What a site needs on its host, worked out without touching one."""

from __future__ import annotations

from dataclasses import replace

from fedsdn.config.model import Federation, ProviderNetwork, Uplink
from fedsdn.pipeline.declarations import port_mac
from fedsdn.site.plan import (
    BridgeFacts,
    Port,
    SitePlan,
    site_plan,
)
from tests.unit.federations import three_sites, two_sites, uplink, with_provider_network

OPENFLOW_PORT = 6654


def plan_of(federation: Federation, name: str = "a", facts: BridgeFacts | None = None) -> SitePlan:
    return site_plan(federation, federation.site(name), OPENFLOW_PORT, facts)


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
        Port("wan-up1", trunks=(4095,)),
        Port("wan-up2", trunks=(4095,)),
    )


def test_ports_of_a_vlan_carry_its_segmentation_id() -> None:
    federation = with_provider_network(two_sites(), ProviderNetwork("br-vlan", 100))
    plan = plan_of(federation)
    assert plan.bridge == "br-vlan"
    assert texts(plan.ports)[:2] == ["socksifier tag 100", "server tag 100"]


def test_veths_have_the_macs_that_the_rows_match() -> None:
    federation = two_sites()
    site = federation.site("a")
    macs = {veth.name: veth.mac for veth in plan_of(federation).veths}
    assert macs == {
        name: port_mac(site, name) for name in ("socksifier", "server", "wan-up1", "wan-up2")
    }


def test_veths_follow_the_bridge() -> None:
    facts = BridgeFacts(checksum_offload=False, mtu=1450, uplink_mtus={"up1": 9000})
    veths = {veth.name: veth for veth in plan_of(two_sites(), facts=facts).veths}
    assert {name: veth.mtu for name, veth in veths.items()} == {
        "socksifier": 1450,
        "server": 1450,
        "wan-up1": 9000,
        "wan-up2": 1500,
    }
    assert not any(veth.checksum_offload for veth in veths.values())
    assert str(veths["server"]).endswith("mtu 1450 tx-checksum off tso off up")


def test_super_frames_stay_off_uplinks_that_cut_them_up_wrongly() -> None:
    facts = BridgeFacts(uplink_segmentation=False)
    tso = {veth.name: veth.segmentation_offload for veth in plan_of(two_sites(), facts=facts).veths}
    assert tso == {"socksifier": True, "server": True, "wan-up1": False, "wan-up2": False}


def test_addresses() -> None:
    assert texts(plan_of(two_sites()).addresses) == [
        "10.1.0.2/24 dev socksifier",
        "10.1.0.2/24 dev server",
        "fd00:1::2/64 dev socksifier",
        "192.0.2.1/24 dev wan-up1",
        "2001:db8:2::1/64 dev wan-up2",
    ]


def test_routes_print_as_iproute2_takes_them() -> None:
    assert texts(plan_of(two_sites()).routes) == [
        "table 100: local 0.0.0.0/0 dev lo",
        "table 100: local ::/0 dev lo",
        "table 101: 10.1.0.0/24 dev socksifier",
        "table 101: fd00:1::/64 dev socksifier",
        "table 101: local 10.2.0.0/24 dev lo",
        "table 101: local fd00:2::/64 dev lo",
        "table 101: unreachable 0.0.0.0/0",
        "table 101: unreachable ::/0",
        "table 102: 10.1.0.0/24 dev server",
        "table 102: fd00:1::/64 dev server",
        "table 102: local 10.2.0.0/24 dev lo",
        "table 102: local fd00:2::/64 dev lo",
        "table 102: unreachable 0.0.0.0/0",
        "table 102: unreachable ::/0",
        "table 201: 192.0.2.0/24 dev wan-up1 src 192.0.2.1",
        "table 201: unreachable 0.0.0.0/0",
        "table 202: 2001:db8:2::/64 dev wan-up2 src 2001:db8:2::1",
        "table 202: unreachable ::/0",
    ]


def test_rules_look_into_each_uplinks_own_table() -> None:
    assert texts(plan_of(two_sites()).rules) == [
        "100: from all fwmark 0x1 lookup 100 (IPv4)",
        "101: from all fwmark 0x2 lookup 101 (IPv4)",
        "102: from all fwmark 0x3 lookup 102 (IPv4)",
        "100: from all fwmark 0x1 lookup 100 (IPv6)",
        "101: from all fwmark 0x2 lookup 101 (IPv6)",
        "102: from all fwmark 0x3 lookup 102 (IPv6)",
        "201: from 192.0.2.1 lookup 201 (IPv4)",
        "202: from 2001:db8:2::1 lookup 202 (IPv6)",
    ]


def test_an_uplink_with_a_gateway_reaches_everything_through_it() -> None:
    federation = with_uplinks(two_sites(), "a", uplink("x", "198.51.100.2/30", "198.51.100.1"))
    federation = with_uplinks(federation, "b", uplink("y", "203.0.113.2/30", "203.0.113.1"))
    routes = texts(plan_of(federation).routes)
    assert "table 201: 0.0.0.0/0 via 198.51.100.1 dev wan-x src 198.51.100.2" in routes


def test_every_route_of_a_table_has_its_own_destination() -> None:
    for federation in (two_sites(), three_sites()):
        for site in federation.sites:
            routes = plan_of(federation, site.name).routes
            keys = [(route.table, route.destination) for route in routes]
            assert len(keys) == len(set(keys))
