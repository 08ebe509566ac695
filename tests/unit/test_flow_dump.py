"""Dumps of flows are read flow by flow, or refused in one line that says which flow and why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedsdn.config.model import ProviderNetwork
from fedsdn.inspect.flows.names import named_actions, named_match, table_name
from fedsdn.inspect.flows.page import page
from fedsdn.inspect.flows.purpose import flow_purpose, table_purpose
from fedsdn.inspect.flows.report import document, finding_text, rates, source, tables, text, why
from fedsdn.lab.topology import load_topology
from fedsdn.ovs.comparison import Fault, compare, shadows
from fedsdn.ovs.flows import DumpedFlow, DumpError, concerns_us, parse_dump, parse_flow
from fedsdn.pipeline.build import pipeline_flows
from fedsdn.pipeline.cookie import origin
from fedsdn.pipeline.declarations import LOCAL_PORT, Table
from fedsdn.pipeline.flows import Flow
from fedsdn.pipeline.network import TenantPort
from tests.unit.federations import (
    tenants,
    three_sites,
    two_sites,
    with_foreign_proxy,
    with_provider_network,
    with_source_restore,
)

ROOT = Path(__file__).parents[2]
HEADING = "OFPST_FLOW reply (OF1.3) (xid=0x2):"
OURS = f"0x{0xFED57C87_00010019:x}"
NEUTRON = (
    " cookie=0xa3d1, duration=7.2s, table=60, n_packets=2, n_bytes=84, idle_age=3, "
    "priority=90,vlan_tci=0x0000/0x1fff,ct_mark=0x1 actions=resubmit(,110),ct(commit,zone=5)"
)
EVERY_KIND = (
    two_sites(),
    three_sites(),
    with_source_restore(two_sites(), "nat"),
    with_source_restore(two_sites(), "none"),
    with_foreign_proxy(three_sites(), "b"),
    with_provider_network(two_sites(), ProviderNetwork("br-provider", segmentation_id=7)),
)
BOTH = TenantPort("bond0", untagged=True, tagged=True)


def flows_of(site: str = "a") -> tuple[Flow, ...]:
    return pipeline_flows(two_sites(), site)


def dumped(flows: tuple[Flow, ...] = flows_of()) -> list[DumpedFlow]:
    return parse_dump([HEADING, *map(str, flows)], "a dump")


def test_a_flow_is_read_with_its_counters() -> None:
    [flow] = parse_dump([HEADING, NEUTRON, ""], "a dump")
    assert (flow.table, flow.priority, flow.cookie) == (60, 90, 0xA3D1)
    assert (flow.packets, flow.bytes, flow.seconds) == (2, 84, 7.2)
    assert flow.match == "vlan_tci=0x0000/0x1fff,ct_mark=0x1"
    assert not flow.ours
    assert flow.origin is None


def test_a_flow_that_matches_everything_has_the_default_priority() -> None:
    flow = parse_flow("cookie=0x0, duration=1s, table=3, n_packets=0, n_bytes=0, actions=drop")
    assert (flow.table, flow.priority, flow.match, flow.actions) == (3, 0x8000, "", "drop")


def test_an_empty_dump_is_one() -> None:
    assert parse_dump([HEADING], "a dump") == []


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "a dump: no flows in it; write it with 'ovs-ofctl"),
        (["hello"], "a dump, line 1: half a flow, 'hello': dump the flows again"),
        ([HEADING, NEUTRON[:60]], "a dump, line 2: half a flow, 'cookie=0xa3d1, "),
        ([HEADING, NEUTRON, NEUTRON[:120]], "a dump, line 3: half a flow"),
        (["cookie=0x0, priority=1,flux=3 actions=drop"], "line 1: .*flux.* no newer than"),
        (["cookie=0x0, priority=1 actions=teleport(3)"], "line 1: .*teleport"),
        (["cookie=0x0, priority=1,nw_dst=10.0.0.0/33 actions=drop"], "line 1: .*10.0.0.0/33"),
    ],
    ids=["empty", "no dump", "first half", "cut off", "field", "action", "value"],
)
def test_what_cannot_be_read_is_one_clear_line(lines: list[str], message: str) -> None:
    with pytest.raises(DumpError, match=message) as raised:
        parse_dump(lines, "a dump")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("federation", EVERY_KIND)
def test_every_flow_says_what_it_is_for_and_the_source_says_the_same(federation: object) -> None:
    ports = tenants("tap") if federation is not EVERY_KIND[-1] else [BOTH]
    for flow in pipeline_flows(federation, "a", ports):  # type: ignore[arg-type]
        made_by = origin(flow.cookie)
        assert made_by is not None
        assert flow_purpose(made_by) == flow.why != ""


def test_every_table_says_what_it_is_for() -> None:
    assert all(table_purpose(table) for table in Table)


def test_numbers_have_names_with_the_number_in_brackets() -> None:
    [opening] = [
        flow
        for flow in dumped()
        if flow.table == Table.SOCKSIFIER_STATE and flow.match == "tcp,nw_dst=10.1.0.0/24"
    ]
    assert named_actions(opening) == (
        "ct(commit,zone=FEDERATION [65237],exec(set_field:OUTBOUND [0x1]->ct_mark)),NORMAL"
    )
    marked = next(flow for flow in dumped() if "ct_mark=0x2" in flow.match)
    assert "ct_mark=INBOUND [0x2]" in named_match(marked)
    tracked = next(flow for flow in dumped() if flow.table == Table.TENANT and flow.match)
    assert named_actions(tracked) == "ct(table=TENANT_STATE [115],zone=FEDERATION [65237])"


def test_others_marks_are_not_ours() -> None:
    flow = parse_flow(NEUTRON)
    assert named_match(flow) == "vlan_tci=0x0000/0x1fff,ct_mark=0x1"
    assert named_actions(flow) == "resubmit(,TENANT [110]),ct(commit,zone=5)"
    assert (table_name(60), why(flow), source(flow)) == ("table 60", "", "another owner")


@pytest.mark.parametrize(
    "dumps", sorted({dump.parent for dump in ROOT.glob("flows/*/*.flows")}), ids=lambda p: p.name
)
def test_reference_dumps_are_what_their_sites_are_to_have(dumps: Path) -> None:
    lab = load_topology(ROOT / "topo" / f"{dumps.name}.yaml")
    for site in lab.sites:
        ports = tenants(LOCAL_PORT, *(vm.name for vm in site.vms))
        file = dumps / f"{site.name}.flows"
        present = parse_dump(file.read_text().splitlines(), str(file))
        assert compare(pipeline_flows(lab.federation, site.name, ports), present) == []


def faults(present: list[DumpedFlow]) -> list[Fault]:
    return [finding.fault for finding in compare(flows_of(), present)]


def test_every_fault_is_found() -> None:
    flows = dumped()
    assert faults(flows) == []
    assert faults(flows[1:]) == [Fault.MISSING]
    assert faults([*flows, parse_flow("cookie=0x1, table=110, priority=5,arp actions=drop")]) == [
        Fault.FOREIGN
    ]
    assert faults([*flows, parse_flow("cookie=0x1, table=0, priority=5,arp actions=drop")]) == []
    last = next(flow for flow in flows_of("b") if flow.table is Table.TO_SERVER)
    stale = parse_flow(str(last).replace("table=145", "table=146"))
    assert faults([*flows, stale]) == [Fault.UNKNOWN]
    changed = parse_flow(str(flows_of()[-1]).split("actions=")[0] + "actions=drop")
    assert faults([*(flow for flow in flows if flow.key != changed.key), changed]) == [
        Fault.CHANGED
    ]
    above = parse_flow("cookie=0x1, table=0, priority=65000,ip actions=NORMAL")
    found = [one for one in compare(flows_of(), [*flows, above]) if one.other == above]
    assert {one.fault for one in found} == {Fault.SHADOWED}
    assert {one.flow.match.split(",")[0] for one in found} == {"ip"}


def test_one_remote_prefix_that_is_hidden_above_the_hook_is_found() -> None:
    """The hook is met by the packets of all others."""
    taken = parse_flow("cookie=0x1, table=0, priority=40000,tcp,nw_dst=10.2.0.0/24 actions=drop")
    [found] = compare(flows_of(), [*dumped(), taken])
    assert (found.fault, found.flow.table, found.other) == (Fault.SHADOWED, Table.REMOTE, taken)
    assert found.flow.match == "tcp,nw_dst=10.2.0.0/24"
    assert "behind table 0, priority 40000 tcp,nw_dst=10.2.0.0/24 → drop" in "\n".join(
        finding_text(found)
    ).replace(table_name(0), "table 0")


@pytest.mark.parametrize(
    "match",
    [
        "priority=40000,tcp,nw_dst=10.2.0.128/25",
        "priority=40000,udp,nw_dst=10.2.0.0/24",
        "priority=40000,tcp,in_port=7,nw_dst=10.2.0.0/24",
        "priority=19999,tcp,nw_dst=10.2.0.0/24",
    ],
)
def test_what_leaves_packets_of_a_remote_prefix_to_the_hook_hides_nothing(match: str) -> None:
    assert faults([*dumped(), parse_flow(f"cookie=0x1, table=0, {match} actions=drop")]) == []


def test_our_table_miss_flow_stays_as_long_as_it_is_the_only_one() -> None:
    wanted = [flow for flow in flows_of() if flow.table or flow.priority]
    assert len(wanted) == len(flows_of()) - 2
    assert compare(wanted, dumped()) == []
    theirs = parse_flow("cookie=0x1, table=0, priority=0 actions=NORMAL")
    both = compare(wanted, [*dumped(), theirs])
    assert [finding.fault for finding in both] == [Fault.UNKNOWN] * 2


def test_flows_that_go_by_themselves_are_no_difference() -> None:
    ours = f"cookie={flows_of()[0].cookie:#x}"
    passing = f"{ours}, table=132, hard_timeout=3, priority=10,tcp actions=drop"
    assert faults([*dumped(), parse_flow(passing)]) == []


@pytest.mark.parametrize(
    ("above", "flow", "hides"),
    [
        ("priority=2", "priority=1,tcp", True),
        ("priority=1", "priority=1,tcp", False),
        ("priority=2,ip", "priority=1,tcp", True),
        ("priority=2,ip", "priority=1,tcp6", False),
        ("priority=2,ipv6", "priority=1,tcp6,ipv6_dst=fd00::1", True),
        ("priority=2,tcp,nw_dst=10.0.0.0/8", "priority=1,tcp,nw_dst=10.2.0.0/24", True),
        ("priority=2,tcp,nw_dst=10.2.0.0/24", "priority=1,tcp,nw_dst=10.0.0.0/8", False),
        ("priority=2,in_port=up1", "priority=1,in_port=up10", False),
        ("priority=2,ct_state=+trk", "priority=1,ct_state=+new+trk", True),
        ("priority=2,ct_state=+new+trk", "priority=1,ct_state=+trk", False),
        ("priority=2,ct_state=-new+trk", "priority=1,ct_state=+new+trk", False),
        ("priority=2,vlan_tci=0x1000/0x1000", "priority=1,vlan_tci=0x1065/0x1fff", True),
        ("priority=2,vlan_tci=0x1065/0x1fff", "priority=1,vlan_tci=0x1000/0x1000", False),
        ("priority=2,ct_mark=0x1", "priority=1,ct_mark=0x2", False),
        ("priority=2,ct_mark=0x1", "priority=1,tcp", False),
    ],
)
def test_what_hides_a_flow(above: str, flow: str, hides: bool) -> None:
    parsed = [parse_flow(f"cookie=0x0, table=0, {one} actions=drop") for one in (above, flow)]
    assert shadows(*parsed) is hides


def test_views_are_by_table_and_leave_out_what_nobody_asked_for() -> None:
    flows = [*dumped(), parse_flow(NEUTRON)]
    assert [view.number for view in tables(flows, others=False, nonzero=False)] == sorted(
        {flow.table for flow in flows if flow.ours}
    )
    [view] = tables(flows, others=True, nonzero=True)
    assert (view.number, view.purpose) == (60, "")
    [view] = tables(flows, Table.WAN, others=False, nonzero=False)
    assert view.flows[-1].priority == 0
    lines = "\n".join(text([view]))
    assert lines.startswith("WAN [105]  Frames from the proxy to an uplink")
    assert "# drop foreign source addresses (pipeline/uplinks.py:" in lines


def test_rates_are_what_counters_have_grown_by() -> None:
    before = parse_flow(NEUTRON)
    after = parse_flow(NEUTRON.replace("n_packets=2, n_bytes=84", "n_packets=12, n_bytes=1084"))
    assert rates([before], [after], 2.0) == {after.key: (5.0, 500.0)}
    assert rates([after], [before], 2.0) == {before.key: (1.0, 42.0)}, "made anew"


def test_the_document_is_json() -> None:
    [view] = tables(dumped(), Table.SERVER, others=False, nonzero=False)
    [shown] = json.loads(json.dumps(document([view])))
    assert (shown["name"], shown["table"]) == ("SERVER [130]", 130)
    assert {flow["feature"] for flow in shown["flows"]} == {"proxy_ports"}


def test_the_page_has_every_flow_and_a_link_to_every_table() -> None:
    views = tables(dumped(), others=False, nonzero=False)
    html = page("bridge <br>", views)
    assert "<title>bridge &lt;br&gt;</title>" in html
    for view in views:
        assert f'href="#t{view.number}"' in html
        assert f'id="t{view.number}"' in html
    assert html.count('class="flow idle"') == len(dumped())
    assert "http" not in html.replace("http-equiv", "")


@pytest.mark.parametrize(
    ("line", "concerned"),
    [
        (" cookie=0x1, duration=5.1s, table=20, n_packets=0, n_bytes=0, flux=1 actions=?", False),
        (" cookie=0x1, table=20, priority=0 actions=resubmit(,table=110)", False),
        (" cookie=0x1, duration=5.1s, table=110, n_packets=0, n_bytes=0, ip actions=drop", True),
        (" cookie=0x1, priority=7,ip actions=drop", True),  # --no-stats leaves table 0 out
        (
            f" cookie={flows_of()[0].cookie:#x}, duration=5.1s, table=20, n_packets=0, priority=1",
            True,
        ),
        ("half a li", True),
    ],
)
def test_other_owners_tables_are_left_out_of_a_comparison(line: str, *, concerned: bool) -> None:
    assert concerns_us(line) is concerned
