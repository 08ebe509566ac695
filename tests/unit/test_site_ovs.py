"""What is read out of Open vSwitch: whose the table-miss flow is, and which ports NORMAL joins."""

from __future__ import annotations

import pytest

from fedsdn.pipeline.build import pipeline_flows
from fedsdn.pipeline.table_miss import is_table_miss
from fedsdn.site.database import BridgePort, sharing_vlan
from fedsdn.site.flows import TableMiss, whose_table_miss
from fedsdn.site.values import Port
from tests.unit.federations import two_sites

HEADING = "NXST_FLOW reply (xid=0x8):\n"


def ours() -> str:
    flows = [
        flow
        for flow in pipeline_flows(two_sites(), "a")
        if is_table_miss(flow.table, flow.priority)
    ]
    return "".join(
        f" cookie={flow.cookie:#x}, duration=5.1s, table=0, n_packets=0, n_bytes=0, "
        f"priority=0,{flow.match} actions=NORMAL\n"
        for flow in flows
    )


NORMAL = " cookie=0x0, duration=1s, table=0, n_packets=1, priority=0 actions=NORMAL\n"
NONE, OURS, OTHERS = TableMiss


@pytest.mark.parametrize(
    ("flows", "whose"),
    [
        ("", NONE),
        (ours(), OURS),
        (NORMAL, OTHERS),
        (ours() + NORMAL, OTHERS),
        (NORMAL + ours(), OTHERS),
        (" cookie=0x0, duration=1s, table=0, n_packets=1, priority=10 actions=NORMAL\n", NONE),
        (" cookie=0x0, duration=1s, table=0, n_packets=1, priority=0,ip actions=NORMAL\n", NONE),
        (" cookie=0xbeef, idle_timeout=5, send_flow_rem priority=0 actions=resubmit(,2)\n", OTHERS),
        (" priority=0 actions=NORMAL\n", OTHERS),
        (f" cookie=0x7, priority=5,ip actions=drop\n{ours()}", OURS),
    ],
)
def test_whose_the_table_miss_flow_is(flows: str, whose: TableMiss) -> None:
    assert whose_table_miss(HEADING + flows) is whose


def port(name: str, tag: int | None = None, trunks: tuple[int, ...] = ()) -> BridgePort:
    return BridgePort(Port(name, tag, trunks), "br", None, 1500, 1, None)


@pytest.mark.parametrize(
    ("ports", "joined"),
    [
        ((port("up1"), port("up2")), "up1 up2"),
        ((port("up1", 4001), port("up2", 4002)), ""),
        ((port("up1", 4001), port("up2", 4001)), "up1 up2"),
        ((port("up1", 4001), port("up2"), port("up3", 4003)), "up1 up2 up3"),
        ((port("up1", trunks=(7, 8)), port("up2", 8), port("up3", 9)), "up1 up2"),
        ((port("up1"),), ""),
    ],
)
def test_ports_that_share_a_vlan(ports: tuple[BridgePort, ...], joined: str) -> None:
    assert " ".join(port.port.name for port in sharing_vlan(ports)) == joined
