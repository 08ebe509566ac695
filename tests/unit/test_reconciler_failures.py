"""Flows of a bridge that fails at the wrong moment, of one that pauses, and of a quarrel."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from itertools import pairwise

import pytest
from os_ken.ofproto import ofproto_v1_3 as ofproto
from os_ken.ofproto import ofproto_v1_3_parser as parser

from fedsdn.openflow import reconciler as reconciler_module
from fedsdn.openflow import session as session_module
from fedsdn.openflow.in_turns import AT_ONCE
from fedsdn.openflow.intruders import intruders
from fedsdn.openflow.wanted import WantedFlows
from fedsdn.openflow.wire import Key, WireFlow
from fedsdn.pipeline.declarations import Table
from tests.unit.fake_bridge import FakeBridge
from tests.unit.test_reconciler import (
    BRIDGE,
    FLOWS,
    FOREIGN,
    LOW_IN_TABLE_0,
    PORTS,
    Site,
    complete,
    run,
    until,
)

NUMBERS = {name: number for name, (number, _) in PORTS.items()}


class Silent(FakeBridge):
    """A bridge that does not answer the first request of one kind."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self._kind: type | None = kind

    def send_msg(self, message: object) -> bool:
        if self._kind is not None and isinstance(message, self._kind):
            self._kind = None
            return True
        return super().send_msg(message)


@pytest.mark.parametrize(
    "kind", [parser.OFPPortDescStatsRequest, parser.OFPExperimenterStatsRequest]
)
def test_a_connection_that_cannot_be_taken_up_is_made_anew(
    kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bridge refuses the same monitor twice, and what it told the first time may be lost."""

    async def scenario(site: Site) -> None:
        before = site.connect()
        await until(complete(before))
        site.reconciler.disconnect(before)
        with monkeypatch.context() as impatient:
            impatient.setattr(session_module, "ANSWER_SECONDS", 0.05)
            bridge = site.connect(Silent(kind))
            await until(lambda: bridge.closed)
        assert bridge.flows == {}
        site.reconciler.disconnect(bridge)
        again = site.connect()
        await until(complete(again))

    run(scenario)


def test_what_is_wanted_during_a_pause_comes_after_it() -> None:
    """Even if no flow of ours has changed meanwhile."""
    first = tuple(flow for flow in FLOWS if flow.table != Table.REMOTE)

    async def scenario(site: Site) -> None:
        site.reconciler.want(BRIDGE, {"": first})
        bridge = site.connect()
        await until(lambda: len(bridge.flows) == len(first))
        bridge.pause()
        await until(lambda: site.reconciler.session and site.reconciler.session.mirror.paused)
        site.reconciler.want(BRIDGE, {"": FLOWS})
        await until(lambda: site.reconciler._asked_for)
        bridge.resume()
        await until(complete(bridge))

    run(scenario)


@pytest.mark.parametrize("why", ["refused", "not set up"])
def test_nobody_is_blamed_for_flows_that_came_late(
    why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reconciler_module, "RETRY_SECONDS", 0.01)

    async def scenario(site: Site) -> None:
        bridge = FakeBridge()
        if why == "refused":
            bridge.refuses = lambda mod: mod.command == ofproto.OFPFC_ADD
        else:
            site.steered = None
        site.connect(bridge)
        await until(lambda: "no flows, because" in caplog.text or "trying again" in caplog.text)
        bridge.refuses = lambda _mod: False
        site.steered = BRIDGE
        await until(lambda: "flows wanted" in caplog.text)
        assert "somebody" not in caplog.text
        bridge.delete(next(iter(bridge.flows)))
        await until(lambda: "somebody deleted, changed or added 1" in caplog.text)

    caplog.set_level(logging.INFO)
    run(scenario)


def test_an_intruder_is_looked_for_only_if_he_or_our_flows_have_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It takes long with a large federation."""
    looked: list[None] = []

    def counted(
        others: Mapping[Key, WireFlow], wanted: Mapping[Key, WireFlow]
    ) -> Iterator[WireFlow]:
        looked.append(None)
        return intruders(others, wanted)

    monkeypatch.setattr(reconciler_module, "intruders", counted)
    intruder = WireFlow(Table.TENANT, 1, b"", FOREIGN, b"")

    async def scenario(site: Site) -> None:
        bridge = site.connect()
        await until(complete(bridge))
        bridge.put(intruder)
        await until(lambda: site.reconciler._intruders)
        count = len(looked)
        gone = next(iter(bridge.flows))
        bridge.delete(gone)
        await until(lambda: gone in bridge.flows)
        bridge.delete(intruder.key)
        await until(lambda: not site.reconciler._intruders)
        assert len(looked) == count + 1

    run(scenario)


def test_many_small_groups_do_not_keep_the_loop() -> None:
    """A federation of 1,000 sites has 48 flows for each peer."""
    groups = {
        str(number): FLOWS[first : first + 4]
        for number, first in enumerate(list(range(0, len(FLOWS), 4)) * 40)
    }
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def main() -> None:
        counting = asyncio.create_task(count_turns())
        await WantedFlows().take(groups, NUMBERS)
        counting.cancel()

    asyncio.run(main())
    assert turns >= sum(map(len, groups.values())) // AT_ONCE


def test_who_quarrels_with_another_owner_rests_longer_each_time() -> None:
    rests: list[float] = []
    pace = reconciler_module._Pace()
    now = 100.0
    keys = frozenset({LOW_IN_TABLE_0.key})
    for _ in range(10):
        rests.append(pace.rest(keys, now))
        now += rests[-1] + 0.001
    assert rests[0] == reconciler_module.REST_SECONDS
    assert all(later == min(2 * sooner, 1.0) for sooner, later in pairwise(rests))
    assert rests[-1] == reconciler_module.LONGEST_REST_SECONDS
    assert pace.rest(frozenset(), now) == reconciler_module.REST_SECONDS, "another flow"
    pace.rest(keys, now)
    assert pace.rest(keys, now + 2) == reconciler_module.REST_SECONDS, "he has given up"


def test_whoever_harms_the_same_flows_twice_a_second_is_met_at_once() -> None:
    pace = reconciler_module._Pace()
    keys = frozenset({LOW_IN_TABLE_0.key})
    rests = {pace.rest(keys, 100.0 + 0.5 * number) for number in range(20)}
    assert rests == {reconciler_module.REST_SECONDS}


def test_a_quarrel_costs_little() -> None:
    """Another owner changes a flow back as soon as we have put it right."""

    async def scenario(site: Site) -> None:
        bridge = site.connect()
        await until(complete(bridge))
        ours = next(flow for flow in bridge.flows.values() if flow.instructions)

        async def quarrel() -> None:
            while True:
                bridge.put(ours._replace(instructions=b""))
                await until(lambda: bridge.flows[ours.key] == ours)

        other = asyncio.create_task(quarrel())
        longest = reconciler_module.LONGEST_REST_SECONDS
        await until(lambda: site.reconciler._pace._seconds == longest)
        other.cancel()

    run(scenario)


def test_what_we_want_does_not_wait_for_a_quarrel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler_module, "REST_SECONDS", 3600.0)
    fewer = tuple(flow for flow in FLOWS if flow.table != Table.REMOTE)

    async def scenario(site: Site) -> None:
        site.reconciler.want(BRIDGE, {"": fewer})
        bridge = site.connect()
        await until(lambda: len(bridge.flows) == len(fewer))
        gone = next(iter(bridge.flows))
        bridge.delete(gone)
        await asyncio.sleep(0.05)
        assert gone not in bridge.flows
        site.reconciler.want(BRIDGE, {"": FLOWS})
        await until(complete(bridge))

    run(scenario)
