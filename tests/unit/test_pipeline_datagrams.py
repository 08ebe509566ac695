"""What is IP and not TCP, pushed through the pipeline's flows, on a model of the tables."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from fedsdn.config.model import Address, ProviderNetwork
from fedsdn.pipeline.build import pipeline_flows
from fedsdn.pipeline.datagrams import ICMP_ERRORS
from fedsdn.pipeline.declarations import ROUTER_PORT, SERVER_PORT, SOCKSIFIER_PORT, port_mac
from fedsdn.pipeline.flows import Protocol, icmp, ip, udp
from fedsdn.pipeline.network import TenantPort
from tests.unit.bridge_packets import (
    FAMILIES,
    PORTS,
    SITE_A,
    TENANT,
    V4,
    Ends,
    from_far,
    from_near,
    ports,
)
from tests.unit.federations import (
    three_sites,
    two_sites,
    with_foreign_proxy,
    with_provider_network,
    with_source_restore,
)
from tests.unit.table_model import NORMAL, Delivery, Packet, TableModel


@pytest.fixture
def bridge() -> TableModel:
    return TableModel(pipeline_flows(two_sites(), "a", PORTS))


def kinds(of: Address) -> tuple[Protocol, ...]:
    """UDP, ICMP, and what has no name here, later fragments among it."""
    return udp(of), icmp(of), ip(of)


def own_address(ends: Ends) -> Address:
    return ip_address("10.1.0.2" if ends is V4 else "fd00:1::2")


@FAMILIES
def test_a_vms_datagrams_go_to_the_router(bridge: TableModel, ends: Ends) -> None:
    for protocol in kinds(ends.near):
        packet = replace(from_near(ends), protocol=protocol, icmp_type=8 if ends is V4 else 128)
        [routed] = bridge.push(packet)
        assert (routed.port, routed.packet.mac) == (ROUTER_PORT, port_mac(SITE_A, ROUTER_PORT))
        assert (packet.source_mac, TENANT) in bridge.learned
    assert bridge.connections == {}


@FAMILIES
@pytest.mark.parametrize("restored", [False, True], ids=["transparent", "nat"])
def test_icmp_errors_about_datagrams_go_to_the_router(ends: Ends, restored: bool) -> None:
    federation = with_source_restore(two_sites(), "nat") if restored else two_sites()
    bridge = TableModel(pipeline_flows(federation, "a", PORTS))
    bridge.push(from_far(ends, SOCKSIFIER_PORT))
    for kind in ICMP_ERRORS[ends.near.version]:
        error = replace(from_near(ends), protocol=icmp(ends.near), icmp_type=kind)
        about = replace(from_near(ends), protocol=udp(ends.near), source_port=1).connection
        assert ports(bridge.push(replace(error, error_about=about))) == [ROUTER_PORT]


@FAMILIES
def test_what_comes_from_the_router_is_a_peers_and_never_tcp(
    bridge: TableModel, ends: Ends
) -> None:
    stranger = ip_address("10.9.0.1" if ends is V4 else "fd00:9::1")
    for protocol in kinds(ends.near):
        packet = replace(from_far(ends, ROUTER_PORT), protocol=protocol)
        assert ports(bridge.push(packet)) == [NORMAL]
        for source in (stranger, own_address(ends), ends.near):
            assert bridge.push(replace(packet, source=source)) == []
        for destination in (stranger, ends.far):
            assert bridge.push(replace(packet, destination=destination)) == []
    for source in (ends.far, own_address(ends)):
        segment = replace(from_far(ends, ROUTER_PORT, syn=True, ack=False), source=source)
        assert bridge.push(segment) == []
    assert bridge.connections == {}


@FAMILIES
def test_the_router_tells_vms_in_the_proxys_name_of_errors_alone(
    bridge: TableModel, ends: Ends
) -> None:
    error = replace(from_far(ends, ROUTER_PORT), source=own_address(ends), protocol=icmp(ends.near))
    neighbours = set() if ends is V4 else {135, 136}
    for kind in set(range(256)) - neighbours:
        allowed = [NORMAL] if kind in ICMP_ERRORS[ends.near.version] else []
        assert ports(bridge.push(replace(error, icmp_type=kind))) == allowed
        assert bridge.push(replace(error, icmp_type=kind, destination=ends.far)) == []


@FAMILIES
@pytest.mark.parametrize("port", [SOCKSIFIER_PORT, SERVER_PORT])
def test_datagrams_come_from_the_router_alone(bridge: TableModel, ends: Ends, port: str) -> None:
    for protocol in kinds(ends.near):
        assert bridge.push(replace(from_far(ends, port), protocol=protocol)) == []


@FAMILIES
def test_a_peer_with_anothers_proxy_carries_tcp_alone(ends: Ends) -> None:
    flows = pipeline_flows(with_foreign_proxy(three_sites(), "b"), "a", PORTS)
    bridge = TableModel(flows)
    assert ports(bridge.push(from_near(ends, syn=True))) == [SOCKSIFIER_PORT]
    third = ip_address("10.3.0.11" if ends is V4 else "fd00:3::11")
    for protocol in kinds(ends.near):
        packet = replace(from_near(ends), protocol=protocol)
        assert bridge.push(packet) == [Delivery(NORMAL, packet)]
        assert bridge.push(replace(from_far(ends, ROUTER_PORT), protocol=protocol)) == []
        assert ports(bridge.push(replace(packet, destination=third))) == [ROUTER_PORT]


@FAMILIES
def test_another_networks_datagrams_are_handed_back(ends: Ends) -> None:
    federation = with_provider_network(two_sites(), ProviderNetwork("br-provider", 101))
    trunk = TenantPort(TENANT, untagged=False, tagged=True)
    bridge = TableModel(pipeline_flows(federation, "a", [trunk]))
    for protocol in kinds(ends.near):
        packet = replace(from_near(ends), protocol=protocol)
        for tag in (None, 102):
            frame = replace(packet, tag=tag)
            assert ports(bridge.push(frame)) in ([], [NORMAL])
        [routed] = bridge.push(replace(packet, tag=101))
        assert (routed.port, routed.packet.tag) == (ROUTER_PORT, None)


@FAMILIES
def test_multicast_and_broadcast_stay_in_their_network(bridge: TableModel, ends: Ends) -> None:
    for group in ("239.1.1.1", "255.255.255.255") if ends is V4 else ("ff05::1", "ff02::1"):
        packet = replace(from_near(ends), protocol=udp(ends.near), destination=ip_address(group))
        assert bridge.push(packet) == [Delivery(NORMAL, packet)]


def test_the_router_asks_for_vms_as_itself(bridge: TableModel) -> None:
    own, mac = own_address(V4), port_mac(SITE_A, ROUTER_PORT)
    asks = Packet(in_port=ROUTER_PORT, protocol=Protocol.ARP, arp_source=own, source_mac=mac)
    assert ports(bridge.push(asks)) == [NORMAL]
    assert bridge.push(replace(asks, arp_source=V4.far)) == []
    assert bridge.push(replace(asks, source_mac="another's")) == []
