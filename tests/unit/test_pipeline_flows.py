"""The pipeline's flows as a whole: none stands for another, and what stays out of table 0."""

from __future__ import annotations

from fedsdn.bench import scale
from fedsdn.config.model import ProviderNetwork
from fedsdn.pipeline.build import pipeline_flows
from fedsdn.pipeline.declarations import Table
from tests.unit.bridge_packets import PORTS
from tests.unit.federations import (
    three_sites,
    two_sites,
    with_foreign_proxy,
    with_provider_network,
    with_source_restore,
)


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
