"""Questions to a bridge that is slow, refuses, or goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from os_ken.ofproto import ofproto_v1_3 as ofproto

from fedsdn.openflow import session as session_module
from fedsdn.openflow.mirror import TABLES
from fedsdn.openflow.ports import Port, port_of
from fedsdn.openflow.session import Session, SessionError
from fedsdn.openflow.wire import FlowMod, FlowWriter
from fedsdn.pipeline.build import pipeline_flows
from tests.unit.fake_bridge import DOWN, UP, FakeBridge
from tests.unit.federations import two_sites

FLOWS = pipeline_flows(two_sites(), "a")
PORTS = {port: number for number, port in enumerate({p for f in FLOWS for p in f.ports}, 1)}


def connect(bridge: FakeBridge) -> tuple[Session, FakeBridge]:
    session = Session(bridge)
    bridge.tell = session.deliver
    return session, bridge


ADDS = [FlowWriter(PORTS).write(flow) for flow in FLOWS]


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 60))


def test_ports_have_numbers_and_may_be_down() -> None:
    async def scenario() -> None:
        session, _ = connect(FakeBridge(ports={"up1": (1, UP), "up2": (2, DOWN)}))
        assert await session.ports() == {"up1": Port(1, live=True), "up2": Port(2, live=False)}

    run(scenario())


def test_a_bundle_is_all_or_nothing() -> None:
    async def scenario() -> None:
        session, bridge = connect(FakeBridge(refuses=lambda mod: mod.table_id == FLOWS[-1].table))
        with pytest.raises(SessionError, match="TABLE_FULL"):
            await session.commit((), ADDS)
        assert bridge.flows == {}
        bridge.refuses = lambda _mod: False
        await session.commit((), ADDS)
        assert len(bridge.flows) == len(FLOWS)
        await session.monitor_flows(TABLES)
        assert session.mirror.flows == bridge.flows

    run(scenario())


def test_a_refused_commit_says_why() -> None:
    """Open vSwitch looks at a table's limit only then, and tells of it in two messages."""

    async def scenario() -> None:
        session, bridge = connect(
            FakeBridge(refuses_commit=lambda mod: mod.table_id == FLOWS[-1].table)
        )
        with pytest.raises(SessionError, match="TABLE_FULL"):
            await session.commit((), ADDS)
        assert bridge.flows == {}
        bridge.refuses_commit = lambda _mod: False
        await session.commit((), ADDS)
        assert len(bridge.flows) == len(FLOWS)

    run(scenario())


def test_a_bridge_that_drops_fragments_is_asked_for_news() -> None:
    """OFPC_FRAG_DROP is the bit that means "more follows" in other answers."""

    async def scenario() -> None:
        session, bridge = connect(FakeBridge(config_flags=ofproto.OFPC_FRAG_DROP))
        await session.ask_for_news()
        assert bridge.received[-1].flags == ofproto.OFPC_FRAG_DROP

    run(scenario())


def test_a_name_that_is_cut_within_a_character_is_a_name() -> None:
    """OpenFlow has room for 15 bytes; the port is another owner's."""
    port = SimpleNamespace(name="zu-den-netzenxü".encode()[:15], port_no=7, config=0, state=0)
    assert port_of(port) == ("zu-den-netzenx\ufffd", Port(7, live=True))


def test_of_single_flow_mods_only_the_refused_are_missing() -> None:
    async def scenario() -> None:
        session, bridge = connect(FakeBridge())
        table = FLOWS[-1].table
        bridge.refuses = lambda mod: mod.table_id == table
        refused = await session.send([FlowMod(bridge, flow) for flow in ADDS])
        assert refused.keys() == {at for at, flow in enumerate(FLOWS) if flow.table == table}
        assert len(bridge.flows) == len(FLOWS) - len(refused)

    run(scenario())


def test_whoever_waits_fails_at_once_when_the_connection_ends() -> None:
    """Not after ``ANSWER_SECONDS``."""

    async def scenario() -> None:
        session, _ = connect(FakeBridge(hangs=True))
        waiting = [
            asyncio.create_task(session.monitor_flows(TABLES)),
            asyncio.create_task(session.commit((), ADDS)),
            asyncio.create_task(session.ports()),
        ]
        await asyncio.sleep(0)
        session.end()
        done, pending = await asyncio.wait(waiting, timeout=session_module.ANSWER_SECONDS / 2)
        assert not pending
        assert [str(one.exception()) for one in done] == ["the bridge closed the connection"] * 3
        with pytest.raises(SessionError, match="closed"):
            await session.ports()

    run(scenario())


def test_a_bridge_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "ANSWER_SECONDS", 0.01)

    async def scenario() -> None:
        session, _ = connect(FakeBridge(hangs=True))
        with pytest.raises(SessionError, match="no answer to OFPPortDescStatsRequest"):
            await session.ports()

    run(scenario())


def test_a_message_that_nobody_asked_for_is_left_out() -> None:
    async def scenario() -> None:
        session, bridge = connect(FakeBridge(ports={"up1": (1, UP)}))
        await session.ask_for_news()
        bridge.set_port("up1", 1, DOWN)
        assert await session.ports() == {"up1": Port(1, live=False)}

    run(scenario())
