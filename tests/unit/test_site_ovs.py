"""What is read out of Open vSwitch: whose the table-miss flow is, and which ports NORMAL joins."""

from __future__ import annotations

import pytest

from fedsdn.pipeline.build import pipeline_flows
from fedsdn.pipeline.table_miss import is_table_miss
from fedsdn.site.database import BridgePort, sharing_vlan
from fedsdn.site.flows import others_table_miss
from fedsdn.site.plan import Port
from tests.unit.federations import two_sites

HEADING = "NXST_FLOW reply (xid=0x8):\n"


def ours() -> str:
    (flow,) = [
        flow
        for flow in pipeline_flows(two_sites(), "a")
        if is_table_miss(flow.table, flow.priority)
    ]
    return f" cookie={flow.cookie:#x}, duration=5.1s, table=0, n_packets=0, n_bytes=0, "


@pytest.mark.parametrize(
    ("flows", "others"),
    [
        ("", False),
        (f"{ours()}priority=0 actions=NORMAL\n", False),
        (" cookie=0x0, duration=1s, table=0, n_packets=1, priority=0 actions=NORMAL\n", True),
        (" cookie=0x0, duration=1s, table=0, n_packets=1, priority=10 actions=NORMAL\n", False),
        (" cookie=0x0, duration=1s, table=0, n_packets=1, priority=0,ip actions=NORMAL\n", False),
        (" cookie=0xbeef, idle_timeout=5, send_flow_rem priority=0 actions=resubmit(,2)\n", True),
        (" priority=0 actions=NORMAL\n", True),
        (f" cookie=0x7, priority=5,ip actions=drop\n{ours()}priority=0 actions=NORMAL\n", False),
    ],
)
def test_whose_the_table_miss_flow_is(flows: str, *, others: bool) -> None:
    assert others_table_miss(HEADING + flows) is others


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
