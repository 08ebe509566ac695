"""Packets pushed through the pipeline's flows, in both directions, on a model of the tables."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from fedsdn.config.model import ProviderNetwork
from fedsdn.pipeline.build import pipeline_flows
from fedsdn.pipeline.declarations import (
    ROUTER_PORT,
    SERVER_PORT,
    SOCKSIFIER_PORT,
    CtMark,
    group_mac,
    port_mac,
)
from fedsdn.pipeline.flows import Protocol, icmp, ip, tcp
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
    on_uplink,
    ports,
)
from tests.unit.federations import three_sites, two_sites, with_provider_network
from tests.unit.table_model import NORMAL, Delivery, Packet, TableModel


@pytest.fixture
def bridge() -> TableModel:
    return TableModel(pipeline_flows(two_sites(), "a", PORTS))


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
        icmp_type=3 if ends is V4 else 1,
        error_about=opening.connection,
    )
    assert ports(bridge.push(error)) == [ROUTER_PORT], "no connection: perhaps a datagram's"
    bridge.push(opening)
    assert ports(bridge.push(error)) == [SERVER_PORT]
    assert ports(bridge.push(replace(error, error_about=None))) == [ROUTER_PORT]


@FAMILIES
def test_what_is_not_federated_stays_normal(bridge: TableModel, ends: Ends) -> None:
    stranger = ip_address("10.9.0.1" if ends is V4 else "fd00:9::1")
    elsewhere = replace(from_near(ends, syn=True), destination=stranger)
    foreign = replace(from_near(ends, syn=True), source=stranger)
    for packet in (elsewhere, foreign):
        for protocol in (tcp(ends.near), ip(ends.near), icmp(ends.near)):
            frame = replace(packet, protocol=protocol)
            assert bridge.push(frame) == [Delivery(NORMAL, frame)]
    assert bridge.connections == {}


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
