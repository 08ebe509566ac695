"""Packets pushed through the pipeline's flows, in both directions, on a model of the tables."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsdn.bench import scale
from fedsdn.config.model import Address, ProviderNetwork
from fedsdn.pipeline.build import pipeline_flows
from fedsdn.pipeline.declarations import (
    LOCAL_PORT,
    SERVER_PORT,
    SOCKSIFIER_PORT,
    CtMark,
    Table,
    group_mac,
    port_mac,
)
from fedsdn.pipeline.flows import Protocol, icmp, tcp, udp
from fedsdn.pipeline.link_local import link_local
from fedsdn.pipeline.network import TenantPort
from tests.unit.federations import (
    tenants,
    three_sites,
    two_sites,
    with_foreign_proxy,
    with_provider_network,
    with_source_restore,
)
from tests.unit.table_model import NORMAL, Delivery, Packet, TableModel

TENANT = "tap-vm1"
PORTS = tenants(TENANT, LOCAL_PORT)
SITE_A = two_sites().site("a")


class Ends(NamedTuple):
    """A VM of site a, one of site b, and the peer's and the own uplink in one family."""

    near: Address
    far: Address


V4 = Ends(ip_address("10.1.0.11"), ip_address("10.2.0.11"))
V6 = Ends(ip_address("fd00:1::11"), ip_address("fd00:2::11"))
FAMILIES = pytest.mark.parametrize("ends", [V4, V6], ids=["v4", "v6"])


@pytest.fixture
def bridge() -> TableModel:
    return TableModel(pipeline_flows(two_sites(), "a", PORTS))


def from_near(ends: Ends, *, syn: bool = False, in_port: str = TENANT) -> Packet:
    return Packet(
        in_port=in_port,
        protocol=tcp(ends.near),
        source=ends.near,
        destination=ends.far,
        source_port=40000,
        destination_port=80,
        syn=syn,
        ack=not syn,
    )


def from_far(ends: Ends, in_port: str, *, syn: bool = False, ack: bool = True) -> Packet:
    return Packet(
        in_port=in_port,
        protocol=tcp(ends.near),
        source=ends.far,
        destination=ends.near,
        source_port=80,
        destination_port=40000,
        syn=syn,
        ack=ack,
    )


def ports(deliveries: list[Delivery]) -> list[str]:
    return [delivery.port for delivery in deliveries]


@FAMILIES
def test_connection_opened_by_a_vm_belongs_to_the_socksifier(
    bridge: TableModel, ends: Ends
) -> None:
    [opening] = bridge.push(from_near(ends, syn=True))
    assert opening.port == SOCKSIFIER_PORT
    assert opening.packet.mac == port_mac(SITE_A, SOCKSIFIER_PORT)
    assert ports(bridge.push(from_far(ends, SOCKSIFIER_PORT, syn=True))) == [NORMAL]
    assert ports(bridge.push(from_near(ends))) == [SOCKSIFIER_PORT]
    assert ports(bridge.push(from_far(ends, SOCKSIFIER_PORT))) == [NORMAL]


@FAMILIES
def test_connection_opened_by_a_peer_belongs_to_the_server(bridge: TableModel, ends: Ends) -> None:
    assert ports(bridge.push(from_far(ends, SERVER_PORT, syn=True, ack=False))) == [NORMAL]
    [answer] = bridge.push(replace(from_near(ends), syn=True))
    assert answer.port == SERVER_PORT
    assert answer.packet.mac == port_mac(SITE_A, SERVER_PORT)
    assert ports(bridge.push(from_far(ends, SERVER_PORT))) == [NORMAL]
    assert ports(bridge.push(from_near(ends))) == [SERVER_PORT]


@FAMILIES
def test_sockets_used_again_from_the_other_end_change_direction_with_the_owners_word(
    bridge: TableModel, ends: Ends
) -> None:
    bridge.push(from_far(ends, SERVER_PORT, syn=True, ack=False))
    assert ports(bridge.push(from_near(ends))) == [SERVER_PORT]
    assert sorted(ports(bridge.push(from_near(ends, syn=True)))) == [SERVER_PORT, SOCKSIFIER_PORT]
    assert ports(bridge.push(from_near(ends))) == [SERVER_PORT], "a VM's SYN turns nothing round"
    bridge.push(from_far(ends, SOCKSIFIER_PORT, syn=True))
    assert ports(bridge.push(from_near(ends))) == [SOCKSIFIER_PORT]
    bridge.push(from_far(ends, SERVER_PORT, syn=True, ack=False))
    assert ports(bridge.push(from_near(ends))) == [SERVER_PORT]


@FAMILIES
def test_nothing_that_a_vm_sends_gives_a_connection_its_direction(
    bridge: TableModel, ends: Ends
) -> None:
    for packet in (from_near(ends, syn=True), from_near(ends), from_near(ends, syn=True)):
        bridge.push(packet)
    assert set(bridge.connections.values()) == {None}


@FAMILIES
@pytest.mark.parametrize("port", [SOCKSIFIER_PORT, SERVER_PORT])
def test_a_reset_makes_nobody_the_owner(bridge: TableModel, ends: Ends, port: str) -> None:
    """The namespace resets what has no socket, at whichever port it came."""
    bridge.push(from_far(ends, SERVER_PORT, syn=True, ack=False))
    assert ports(bridge.push(replace(from_far(ends, port), rst=True))) == [NORMAL]
    assert ports(bridge.push(from_near(ends))) == [SERVER_PORT]


@FAMILIES
@pytest.mark.parametrize(
    ("port", "mark"), [(SOCKSIFIER_PORT, CtMark.OUTBOUND), (SERVER_PORT, CtMark.INBOUND)]
)
def test_lost_conntrack_is_found_again_from_the_owner(
    bridge: TableModel, ends: Ends, port: str, mark: CtMark
) -> None:
    """Before the owner's next packet both ports get a copy; after it, only the owner."""
    assert sorted(ports(bridge.push(from_near(ends)))) == [SERVER_PORT, SOCKSIFIER_PORT]
    assert bridge.connections == {}
    assert ports(bridge.push(from_far(ends, port))) == [NORMAL]
    assert list(bridge.connections.values()) == [mark]
    assert ports(bridge.push(from_near(ends))) == [port]


@FAMILIES
def test_both_copies_carry_the_right_mac_and_no_tag(ends: Ends) -> None:
    network = ProviderNetwork("br-provider", segmentation_id=101)
    trunk = TenantPort(TENANT, untagged=False, tagged=True)
    federation = with_provider_network(two_sites(), network)
    bridge = TableModel(pipeline_flows(federation, "a", [trunk]))
    deliveries = bridge.push(replace(from_near(ends), tag=101))
    assert {delivery.port: delivery.packet.mac for delivery in deliveries} == {
        port: group_mac(SITE_A, port) for port in (SOCKSIFIER_PORT, SERVER_PORT)
    }
    assert {delivery.packet.tag for delivery in deliveries} == {None}


@FAMILIES
def test_bridge_learns_where_a_steered_vm_is(bridge: TableModel, ends: Ends) -> None:
    """Else it forgets the VM after a while and floods what the proxy sends to it."""
    for packet in (from_near(ends, syn=True), from_near(ends)):
        bridge.learned.clear()
        bridge.push(packet)
        assert (packet.source_mac, TENANT) in bridge.learned


@FAMILIES
def test_icmp_error_about_a_connection_reaches_its_proxy_port(
    bridge: TableModel, ends: Ends
) -> None:
    opening = from_far(ends, SERVER_PORT, syn=True, ack=False)
    error = Packet(
        in_port=TENANT,
        protocol=icmp(ends.near),
        source=ends.near,
        destination=ends.far,
        error_about=opening.connection,
    )
    assert ports(bridge.push(error)) == [NORMAL], "no connection: not ours"
    bridge.push(opening)
    assert ports(bridge.push(error)) == [SERVER_PORT]
    assert ports(bridge.push(replace(error, error_about=None))) == [NORMAL], "a ping is not ours"


@FAMILIES
def test_what_is_not_federated_stays_normal(bridge: TableModel, ends: Ends) -> None:
    stranger = ip_address("10.9.0.1" if ends is V4 else "fd00:9::1")
    elsewhere = replace(from_near(ends, syn=True), destination=stranger)
    foreign = replace(from_near(ends, syn=True), source=stranger)
    datagram = replace(from_near(ends), protocol=Protocol.IPV4 if ends is V4 else Protocol.IPV6)
    for packet in (elsewhere, foreign, datagram):
        assert bridge.push(packet) == [Delivery(NORMAL, packet)]
    assert bridge.connections == {}


@FAMILIES
@pytest.mark.parametrize("port", [SOCKSIFIER_PORT, SERVER_PORT])
def test_proxy_port_may_not_pretend(bridge: TableModel, ends: Ends, port: str) -> None:
    """No source outside the peers' prefixes, no destination outside our own, nothing but TCP."""
    honest = from_far(ends, port)
    for packet in (
        replace(honest, source=ip_address("8.8.8.8" if ends is V4 else "2001:4860::1")),
        replace(honest, source=ends.near),
        replace(honest, destination=ip_address("10.9.0.1" if ends is V4 else "fd00:9::1")),
        replace(honest, protocol=icmp(ends.near)),
        replace(honest, protocol=Protocol.IPV4 if ends is V4 else Protocol.IPV6),
    ):
        assert bridge.push(packet) == [], packet
    assert bridge.connections == {}


@FAMILIES
def test_socksifier_may_answer_but_not_open(bridge: TableModel, ends: Ends) -> None:
    assert bridge.push(from_far(ends, SOCKSIFIER_PORT, syn=True, ack=False)) == []
    assert bridge.connections == {}


@pytest.mark.parametrize("port", [SOCKSIFIER_PORT, SERVER_PORT])
def test_proxy_port_resolves_neighbours_as_itself_only(bridge: TableModel, port: str) -> None:
    mac = port_mac(SITE_A, port)
    arp = Packet(
        in_port=port,
        protocol=Protocol.ARP,
        arp_source=ip_address("10.1.0.2"),
        arp_target=V4.near,
        source_mac=mac,
    )
    assert ports(bridge.push(arp)) == [NORMAL]
    assert bridge.push(replace(arp, arp_source=ip_address("10.1.0.1"))) == []
    assert bridge.push(replace(arp, source_mac="another's")) == []
    solicitation = Packet(
        in_port=port, protocol=Protocol.ICMP6, source=link_local(mac), icmp_type=135
    )
    assert ports(bridge.push(solicitation)) == [NORMAL]
    assert bridge.push(replace(solicitation, source=V6.far)) == []
    assert bridge.push(replace(solicitation, icmp_type=134)) == [], "no router advertisements"


@FAMILIES
def test_socksifier_tells_its_own_vms_what_they_cannot_reach(
    bridge: TableModel, ends: Ends
) -> None:
    error = Packet(
        in_port=SOCKSIFIER_PORT,
        protocol=icmp(ends.near),
        source=ip_address("10.1.0.2" if ends is V4 else "fd00:1::2"),
        destination=ends.near,
        icmp_type=3 if ends is V4 else 1,
    )
    assert ports(bridge.push(error)) == [NORMAL]
    for packet in (
        replace(error, in_port=SERVER_PORT),
        replace(error, source=ends.far),
        replace(error, destination=ip_address("10.9.0.1" if ends is V4 else "fd00:9::1")),
        replace(error, icmp_type=5 if ends is V4 else 137),
    ):
        assert bridge.push(packet) == [], packet


PEER_4, OWN_4 = ip_address("192.0.2.2"), ip_address("192.0.2.1")
PEER_6, OWN_6 = ip_address("2001:db8:2::2"), ip_address("2001:db8:2::1")
UPLINKS = pytest.mark.parametrize(
    ("uplink", "peer", "own"), [("up1", PEER_4, OWN_4), ("up2", PEER_6, OWN_6)], ids=["v4", "v6"]
)


def on_uplink(in_port: str, source: Address, destination: Address) -> Packet:
    return Packet(in_port=in_port, protocol=tcp(own := source), source=own, destination=destination)


@UPLINKS
def test_peer_reaches_the_proxy_and_nobody_else_does(
    bridge: TableModel, uplink: str, peer: Address, own: Address
) -> None:
    packet = on_uplink(uplink, peer, own)
    assert ports(bridge.push(packet)) == [f"wan-{uplink}"]
    assert ports(bridge.push(replace(packet, protocol=icmp(own)))) == [f"wan-{uplink}"]
    assert bridge.push(replace(packet, source=peer + 7)) == [], "TCP from a stranger"
    other = Protocol.IPV4 if own.version == 4 else Protocol.IPV6
    assert bridge.push(replace(packet, protocol=other)) == [], "GRE even from a peer"
    probe = replace(packet, protocol=udp(own))
    assert ports(bridge.push(probe)) == [f"wan-{uplink}"]
    assert bridge.push(replace(probe, source=peer + 7)) == [], "a probe from a stranger"
    unprobed = TableModel(pipeline_flows(replace(two_sites(), probes=None), "a"))
    assert unprobed.push(probe) == [], "a probe where nobody wants one"


@UPLINKS
def test_uplinks_do_not_leak(bridge: TableModel, uplink: str, peer: Address, own: Address) -> None:
    """Another uplink's traffic, and what is not the proxy's, never comes to the proxy."""
    wrong = "up2" if uplink == "up1" else "up1"
    assert bridge.push(on_uplink(wrong, peer, own)) == []
    assert ports(bridge.push(on_uplink(f"wan-{uplink}", own, peer))) == [uplink]
    assert bridge.push(on_uplink(f"wan-{uplink}", own + 1, peer)) == []
    ends = V4 if own.version == 4 else V6
    assert bridge.push(from_near(ends, syn=True, in_port=uplink)) == [], (
        "a tenant's address on an uplink is not steered"
    )


@UPLINKS
def test_the_host_is_served_by_the_uplink_of_its_address(
    bridge: TableModel, uplink: str, peer: Address, own: Address
) -> None:
    host = own + 100
    assert ports(bridge.push(on_uplink(uplink, peer, host))) == [LOCAL_PORT]
    assert ports(bridge.push(on_uplink(LOCAL_PORT, host, peer))) == [uplink]
    gateway = ip_address("10.1.0.1" if own.version == 4 else "fd00:1::1")
    assert ports(bridge.push(on_uplink(LOCAL_PORT, gateway, V4.near))) == [NORMAL]
    if own.version == 4:
        asked = Packet(in_port=uplink, protocol=Protocol.ARP, arp_source=peer, arp_target=host)
        assert ports(bridge.push(asked)) == [LOCAL_PORT]
        asks = Packet(in_port=LOCAL_PORT, protocol=Protocol.ARP, arp_source=host, arp_target=peer)
        assert ports(bridge.push(asks)) == [uplink]
    else:
        own_ll, all_nodes = ip_address("fe80::100"), ip_address("ff02::1")
        asked = replace(on_uplink(uplink, peer, all_nodes), protocol=Protocol.ICMP6)
        assert ports(bridge.push(asked)) == [LOCAL_PORT]
        asks = replace(on_uplink(LOCAL_PORT, own_ll, all_nodes), protocol=Protocol.ICMP6)
        assert ports(bridge.push(asks)) == [uplink, NORMAL]


def test_neighbours_on_uplinks(bridge: TableModel) -> None:
    arp = Packet(in_port="up1", protocol=Protocol.ARP, arp_source=PEER_4, arp_target=OWN_4)
    assert ports(bridge.push(arp)) == ["wan-up1"]
    assert bridge.push(replace(arp, arp_target=V4.near)) == []
    own = link_local(port_mac(SITE_A, "wan-up2"))
    for target in (OWN_6, own):
        solicitation = Packet(
            in_port="up2", protocol=Protocol.ICMP6, icmp_type=135, nd_target=target
        )
        assert ports(bridge.push(solicitation)) == ["wan-up2"]
    sent = Packet(in_port="wan-up2", protocol=Protocol.ICMP6, source=own, icmp_type=135)
    assert ports(bridge.push(sent)) == ["up2"]
    assert ports(bridge.push(replace(arp, in_port="wan-up1", arp_source=OWN_4))) == ["up1"]
    assert bridge.push(replace(arp, in_port="wan-up1", arp_source=PEER_4)) == []


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    addresses = [*V4, *V6, PEER_4, OWN_4, PEER_6, OWN_6, ip_address("8.8.8.8")]
    source = draw(st.sampled_from(addresses))
    destination = draw(
        st.sampled_from([other for other in addresses if other.version == source.version])
    )
    return Packet(
        in_port=draw(
            st.sampled_from(
                [TENANT, LOCAL_PORT, "up1", "up2", "wan-up1", "wan-up2", "socksifier", "server"]
            )
        ),
        protocol=draw(st.sampled_from([tcp(source), icmp(source)])),
        source=source,
        destination=destination,
        source_port=draw(st.integers(1, 3)),
        destination_port=draw(st.integers(1, 3)),
        syn=draw(st.booleans()),
        ack=draw(st.booleans()),
        tag=draw(st.sampled_from([None, 0, 101])),
    )


@given(st.lists(packets(), max_size=30))
def test_no_sequence_of_packets_breaks_the_rules(sequence: list[Packet]) -> None:
    """Whatever comes: no leak between uplinks, no foreign source but through the proxy's ports."""
    bridge = TableModel(pipeline_flows(two_sites(), "a", PORTS))
    for packet in sequence:
        for delivery in bridge.push(packet):
            if packet.in_port in {"up1", "up2"}:
                assert delivery.port in {f"wan-{packet.in_port}", LOCAL_PORT}
            if delivery.port in {"up1", "up2"} and packet.in_port != LOCAL_PORT:
                assert packet.in_port == f"wan-{delivery.port}"
                assert packet.source in {OWN_4, OWN_6}
            if delivery.port.startswith("wan-"):
                assert f"wan-{packet.in_port}" == delivery.port
                assert packet.destination in {OWN_4, OWN_6}
            if delivery.port in {SOCKSIFIER_PORT, SERVER_PORT}:
                assert packet.in_port in {TENANT, LOCAL_PORT}
                assert not packet.tag, "another network's"
                assert delivery.packet.tag is None
            if packet.in_port in {SOCKSIFIER_PORT, SERVER_PORT}:
                assert packet.source in {V4.far, V6.far}
                assert packet.destination in {V4.near, V6.near}


def test_flows_are_distinct_and_reachable() -> None:
    """No two flows of one table, priority and match; no table of ours that nothing leads to."""
    for federation in (
        two_sites(),
        three_sites(),
        with_source_restore(two_sites(), "nat"),
        with_source_restore(two_sites(), "none"),
        with_foreign_proxy(three_sites(), "b"),
    ):
        flows = pipeline_flows(federation, "a", PORTS)
        keys = {(flow.table, flow.priority, flow.match) for flow in flows}
        assert len(keys) == len(flows)
        text = "\n".join(str(flow) for flow in flows)
        # To the last of these lead only the flows of single connections.
        for table in {flow.table for flow in flows} - {Table.HOOK, Table.RESTORED}:
            assert f"resubmit(,{table.value})" in text or f"ct(table={table.value}," in text
        if federation.site("a").source_restore == "nat":
            assert {flow.table for flow in flows} == set(Table)


def test_only_the_hook_is_outside_our_own_tables() -> None:
    assert {flow.table for flow in pipeline_flows(two_sites(), "a") if flow.table < 100} == {
        Table.HOOK
    }


def test_the_hook_does_not_grow_with_the_federation() -> None:
    """What others' agents clear out of table 0 is to be put back at once, at any size."""
    small, large = (
        sum(flow.table is Table.HOOK for flow in pipeline_flows(scale.federation(sites), "site-0"))
        for sites in (2, 20)
    )
    assert small == large < 25


def test_table_miss_flow_is_left_to_another_owner() -> None:
    network = ProviderNetwork("br-provider", table_miss="none")
    flows = pipeline_flows(with_provider_network(two_sites(), network), "a")
    assert not [flow for flow in flows if flow.table is Table.HOOK and flow.priority == 0]


def test_peers_of_peers_are_apart() -> None:
    """With three sites, each peer's prefixes and uplinks count, the own ones never do."""
    bridge = TableModel(pipeline_flows(three_sites(), "b", PORTS))
    to_c = Packet(
        in_port=TENANT,
        protocol=Protocol.TCP,
        source=ip_address("10.2.0.11"),
        destination=ip_address("10.3.0.11"),
        syn=True,
        ack=False,
    )
    assert ports(bridge.push(to_c)) == [SOCKSIFIER_PORT]
    home = replace(to_c, destination=ip_address("10.2.0.12"))
    assert ports(bridge.push(home)) == [NORMAL]
    for number in (1, 3):
        peer = ip_address(f"192.0.2.{number}")
        assert ports(bridge.push(on_uplink("up1", peer, ip_address("192.0.2.2")))) == ["wan-up1"]
