"""What may pass at the proxy's ports and at the uplinks, pushed through a model of the tables."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsdn.config.model import Address
from fedsdn.pipeline.build import pipeline_flows
from fedsdn.pipeline.declarations import LOCAL_PORT, SERVER_PORT, SOCKSIFIER_PORT, port_mac
from fedsdn.pipeline.flows import Protocol, icmp, tcp, udp
from fedsdn.pipeline.link_local import link_local
from tests.unit.bridge_packets import (
    FAMILIES,
    OWN_4,
    OWN_6,
    PEER_4,
    PEER_6,
    PORTS,
    SITE_A,
    TENANT,
    UPLINKS,
    V4,
    V6,
    Ends,
    from_far,
    from_near,
    on_uplink,
    ports,
)
from tests.unit.federations import two_sites
from tests.unit.table_model import NORMAL, Packet, TableModel


@pytest.fixture
def bridge() -> TableModel:
    return TableModel(pipeline_flows(two_sites(), "a", PORTS))


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
