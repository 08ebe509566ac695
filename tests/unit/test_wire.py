"""Flows as bytes: os-ken, which writes and reads them by other code, finds the same in them."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

import pytest
from os_ken.ofproto import ofproto_v1_3 as ofproto

from fedsdn.openflow.flow_monitor import Change, Update, updates
from fedsdn.openflow.messages import action_message, match_fields
from fedsdn.openflow.wire import FlowWriter, WireFlow, read_match, written_match
from fedsdn.pipeline.build import pipeline_flows
from fedsdn.pipeline.flows import Flow, Match, Protocol
from tests.unit.fake_bridge import FakeBridge, read_flow_mod, written_update
from tests.unit.federations import tenants, three_sites, two_sites, with_source_restore

FLOWS = [
    *pipeline_flows(two_sites(), "a", tenants("tap", "LOCAL")),
    *pipeline_flows(three_sites(), "b"),
    *pipeline_flows(with_source_restore(two_sites(), "nat"), "a"),
]
PORTS = {port: number for number, port in enumerate({p for f in FLOWS for p in f.ports}, 1)}


def in_words(value: Any) -> Any:  # noqa: ANN401 - any field's
    """Return a field's value as os-ken reads it."""
    if hasattr(value, "netmask"):
        single = value.prefixlen == value.max_prefixlen
        address = str(value.network_address)
        return address if single else (address, str(value.netmask))
    return value if isinstance(value, int | tuple) else str(value)


def read(flow: Flow) -> Any:  # noqa: ANN401 - os-ken's
    return read_flow_mod(FakeBridge(), FlowWriter(PORTS).write(flow).add(7))


def tlvs(match: bytes) -> Iterator[bytes]:
    while match:
        length = 4 + match[3]
        yield match[:length]
        match = match[length:]


def test_os_ken_reads_what_is_written() -> None:
    for flow in FLOWS:
        mod = read(flow)
        assert (mod.table_id, mod.priority, mod.cookie) == (flow.table, flow.priority, flow.cookie)
        assert (mod.command, mod.xid) == (ofproto.OFPFC_ADD, 7)
        fields = {name: in_words(value) for name, value in match_fields(flow.match, PORTS)}
        assert dict(mod.match.items()) == fields, flow
        actions = [one for instruction in mod.instructions for one in instruction.actions]
        assert [type(one) for one in actions] == [
            type(action_message(action, PORTS)) for action in flow.actions
        ]


def test_what_is_told_is_what_was_written_in_whatever_order_its_fields_come() -> None:
    for flow in FLOWS:
        written = FlowWriter(PORTS).write(flow)
        [told] = updates(written_update(Change.ADDED, written))
        assert told == Update(Change.ADDED, written)
        fields = [*tlvs(written.match)]
        assert read_match(written_match(b"".join(reversed(fields))), 0)[0] == written.match


def test_a_network_of_all_addresses_is_no_field() -> None:
    everything = Match(protocol=Protocol.IPV4, destination=ip_network("0.0.0.0/0"))
    flow = next(iter(FLOWS))
    one = FlowWriter({}).write(Flow(flow.table, 1, everything, (), 1, ""))
    other = FlowWriter({}).write(Flow(flow.table, 1, Match(protocol=Protocol.IPV4), (), 1, ""))
    assert one == other


def test_a_port_that_the_bridge_lacks_is_an_error() -> None:
    flow = next(flow for flow in FLOWS if flow.match.in_port == "up1")
    with pytest.raises(KeyError):
        FlowWriter({}).write(flow)


def test_a_deletion_is_of_what_was_there() -> None:
    flow = WireFlow(100, 5, b"", cookie=0xFF, instructions=b"\0")
    mod = read_flow_mod(FakeBridge(), flow.delete(1))
    assert mod.command == ofproto.OFPFC_DELETE_STRICT
    assert (mod.table_id, mod.priority, mod.cookie, mod.instructions) == (100, 5, 0xFF, [])
    assert mod.cookie_mask not in {0, (1 << 64) - 1}
