"""Sources restored by the bridge, or by nobody, on a model of the tables."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsdn.config.model import Address, Federation
from fedsdn.pipeline.build import pipeline_flows
from fedsdn.pipeline.declarations import SERVER_PORT, CtMark, Table, port_mac
from fedsdn.pipeline.flows import tcp
from fedsdn.pipeline.restore import Restoration, restoring_flows
from fedsdn.socket_address import SocketAddress
from tests.unit.federations import (
    tenants,
    three_sites,
    two_sites,
    with_foreign_proxy,
    with_source_restore,
)
from tests.unit.table_model import NORMAL, Delivery, Packet, TableModel

FEDERATION = with_source_restore(two_sites(), "nat")
SITE = FEDERATION.site("a")
VM_PORT = "tap-vm1"
FLOWS = pipeline_flows(FEDERATION, "a", tenants(VM_PORT))


def restoration(
    family: int, client: int = 11, client_port: int = 40000, own_port: int = 40000
) -> Restoration:
    near, far = ("10.1.0.", "10.2.0.") if family == 4 else ("fd00:1::", "fd00:2::")
    return Restoration(
        own=SocketAddress(ip_address(f"{near}2"), own_port),
        client=SocketAddress(ip_address(f"{far}{client}"), client_port),
        destination=SocketAddress(ip_address(f"{near}11"), 80),
    )


def bridge_for(*restorations: Restoration) -> TableModel:
    flows = [flow for one in restorations for flow in restoring_flows(FEDERATION, SITE, one)]
    # A flow replaces one of the same table, priority and match (OpenFlow 1.3.5, section 6.4).
    last = {(flow.table, flow.priority, flow.match): flow for flow in [*FLOWS, *flows]}
    return TableModel(last.values())


def to_vm(wanted: Restoration, *, syn: bool = False) -> Packet:
    return _segment(SERVER_PORT, wanted.own, wanted.destination, syn=syn, ack=not syn)


def from_vm(wanted: Restoration, *, syn: bool = False) -> Packet:
    return _segment(VM_PORT, wanted.destination, wanted.client, syn=syn, ack=True)


def _segment(
    in_port: str, source: SocketAddress, destination: SocketAddress, *, syn: bool, ack: bool
) -> Packet:
    return Packet(
        in_port=in_port,
        protocol=tcp(source.address),
        source=source.address,
        destination=destination.address,
        source_port=source.port,
        destination_port=destination.port,
        syn=syn,
        ack=ack,
    )


def source_of(deliveries: list[Delivery]) -> tuple[str, Address | None, int]:
    [one] = deliveries
    return one.port, one.packet.source, one.packet.source_port


@pytest.mark.parametrize("family", [4, 6])
def test_a_connection_has_its_clients_address_from_the_first_segment_on(family: int) -> None:
    wanted = restoration(family, own_port=50000)
    bridge = bridge_for(wanted)
    seen = (NORMAL, wanted.client.address, wanted.client.port)
    assert source_of(bridge.push(to_vm(wanted, syn=True))) == seen
    assert set(bridge.connections.values()) == {CtMark.INBOUND}
    [answer] = bridge.push(from_vm(wanted, syn=True))
    assert answer.port == SERVER_PORT
    assert answer.packet.mac == port_mac(SITE, SERVER_PORT)
    assert (answer.packet.destination, answer.packet.destination_port) == (
        wanted.own.address,
        50000,
    )
    assert source_of(bridge.push(to_vm(wanted))) == seen


@pytest.mark.parametrize("family", [4, 6])
def test_an_open_connection_needs_no_flow_of_its_own(family: int) -> None:
    wanted = restoration(family)
    before = bridge_for(wanted)
    before.push(to_vm(wanted, syn=True))
    bridge = TableModel(FLOWS)
    bridge.connections, bridge.translated = before.connections, before.translated
    assert source_of(bridge.push(to_vm(wanted))) == (NORMAL, wanted.client.address, 40000)
    [answer] = bridge.push(from_vm(wanted))
    assert answer.packet.destination == wanted.own.address


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("syn", [True, False])
def test_nothing_leaves_from_the_proxys_own_address(family: int, syn: bool) -> None:
    wanted = restoration(family)
    bridge = bridge_for(restoration(family, client=12, own_port=40001))
    assert bridge.push(to_vm(wanted, syn=syn)) == []


@pytest.mark.parametrize("family", [4, 6])
def test_what_conntrack_still_knows_of_another_client_is_not_delivered(family: int) -> None:
    """The sockets of an older connection, used again for another client."""
    old = restoration(family, client=12)
    bridge = bridge_for(old)
    bridge.push(to_vm(old, syn=True))
    new = restoration(family, client=11)
    again = bridge_for(new)
    again.connections, again.translated = bridge.connections, bridge.translated
    assert again.push(to_vm(new, syn=True)) == []


@given(st.data())
def test_every_client_is_seen_as_itself(data: st.DataObject) -> None:
    """Any connections, opened in any order, some after their flows are gone."""
    picked = data.draw(
        st.lists(
            st.builds(
                restoration,
                st.sampled_from([4, 6]),
                st.integers(11, 13),
                st.integers(40000, 40002),
                st.integers(50000, 50002),
            ),
            min_size=1,
            max_size=8,
        )
    )
    bridge = TableModel(FLOWS)
    for wanted in picked:
        opened = bridge_for(wanted)
        opened.connections, opened.translated = bridge.connections, bridge.translated
        bridge = opened
        for delivery in bridge.push(to_vm(wanted, syn=True)):
            assert source_of([delivery]) == (NORMAL, wanted.client.address, wanted.client.port)


@given(st.integers(1, 65535), st.sampled_from([4, 6]))
def test_flows_of_single_connections_go_by_themselves(port: int, family: int) -> None:
    for flow in restoring_flows(FEDERATION, SITE, restoration(family, own_port=port)):
        assert flow.hard_timeout > 0
        assert f" hard_timeout={flow.hard_timeout}, " in str(flow)


def test_other_sites_have_no_such_flows() -> None:
    flows = pipeline_flows(two_sites(), "a")
    assert not {Table.RESTORE, Table.RESTORED} & {flow.table for flow in flows}
    assert "nat" not in "".join(map(str, flows))


def test_own_address_to_somewhere_else_is_dropped() -> None:
    bridge = TableModel(FLOWS)
    for destination in (ip_address("10.2.0.11"), ip_address("192.0.2.2")):
        packet = replace(to_vm(restoration(4), syn=True), destination=destination)
        assert bridge.push(packet) == []


UNRESTORED = pytest.mark.parametrize(
    "federation",
    [with_source_restore(two_sites(), "none"), with_foreign_proxy(three_sites(), "c")],
    ids=["source_restore: none", "another's proxy"],
)


@UNRESTORED
@pytest.mark.parametrize("family", [4, 6])
def test_what_nobody_restores_goes_out_as_it_is_and_comes_back(
    federation: Federation, family: int
) -> None:
    bridge = TableModel(pipeline_flows(federation, "a", tenants(VM_PORT)))
    wanted = restoration(family, own_port=50000)
    as_proxy = replace(wanted, client=wanted.own)
    for syn in (True, False):
        assert source_of(bridge.push(to_vm(wanted, syn=syn))) == (NORMAL, wanted.own.address, 50000)
        [answer] = bridge.push(from_vm(as_proxy, syn=syn))
        assert (answer.port, answer.packet.mac) == (SERVER_PORT, port_mac(SITE, SERVER_PORT))
        assert answer.packet.destination == wanted.own.address


@UNRESTORED
@pytest.mark.parametrize("family", [4, 6])
def test_the_server_is_itself_towards_vms_only(federation: Federation, family: int) -> None:
    bridge = TableModel(pipeline_flows(federation, "a", tenants(VM_PORT)))
    wanted = restoration(family)
    astray = replace(wanted, destination=wanted.client)
    assert bridge.push(to_vm(astray, syn=True)) == []


@pytest.mark.parametrize("family", [4, 6])
def test_where_all_are_restored_the_server_has_no_address_of_its_own(family: int) -> None:
    bridge = TableModel(pipeline_flows(two_sites(), "a"))
    assert bridge.push(to_vm(restoration(family), syn=True)) == []
