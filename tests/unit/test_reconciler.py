"""Flows of a bridge that connects, changes, refuses and goes away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from os_ken.ofproto import ofproto_v1_3 as ofproto
from os_ken.ofproto import ofproto_v1_3_parser as parser

from fedsdn.openflow import reconciler as reconciler_module
from fedsdn.openflow.difference import TABLE_MISS
from fedsdn.openflow.ports import Port
from fedsdn.openflow.reconciler import Reconciler
from fedsdn.openflow.wire import Key, WireFlow
from fedsdn.pipeline.build import pipeline_flows
from fedsdn.pipeline.declarations import HookPriority, Table
from tests.unit.fake_bridge import DOWN, UP, FakeBridge
from tests.unit.federations import two_sites

FLOWS = pipeline_flows(two_sites(), "a")
BRIDGE = "br-provider"
FOREIGN = 0x1234
LOW_IN_TABLE_0 = WireFlow(0, 4, b"", FOREIGN, b"")
PORTS = {port: (number, UP) for number, port in enumerate({p for f in FLOWS for p in f.ports}, 1)}


class Site:
    """The reconciler, with what it has been told of ports, and whether it may steer."""

    def __init__(self) -> None:
        self.ports: list[dict[str, Port] | None] = []
        self.steered: str | None = BRIDGE
        self.reconciler = Reconciler(self.ports.append, self._steering)

    @contextmanager
    def _steering(self, bridge: str) -> Iterator[bool]:
        yield bridge == self.steered

    def connect(self, bridge: FakeBridge | None = None) -> FakeBridge:
        fake = bridge or FakeBridge()
        fake.ports = fake.ports or dict(PORTS)

        def tell(message: object) -> None:
            if isinstance(message, parser.OFPPortStatus):
                self.reconciler.port_changed(message)
            else:
                self.reconciler.deliver(message)

        fake.tell = tell
        self.reconciler.connect(fake)
        return fake


def run(scenario: Callable[[Site], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        site = Site()
        site.reconciler.want(BRIDGE, {"": FLOWS})
        running = asyncio.create_task(site.reconciler.run())
        async with asyncio.timeout(60):
            await scenario(site)
        running.cancel()

    asyncio.run(main())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.001)


def complete(bridge: FakeBridge) -> Callable[[], bool]:
    return lambda: len(bridge.flows) == len(FLOWS)


def test_a_bridge_gets_its_flows_and_again_what_others_delete_or_change() -> None:
    """At once, without a question: it tells of every change."""

    async def scenario(site: Site) -> None:
        bridge = site.connect()
        await until(complete(bridge))
        before = dict(bridge.flows)
        gone, changed, stolen = list(before)[:3]
        bridge.delete(gone)
        await until(lambda: bridge.flows == before)
        bridge.put(before[changed]._replace(instructions=b""))
        await until(lambda: bridge.flows == before)
        bridge.put(before[stolen]._replace(cookie=FOREIGN))
        await until(lambda: bridge.flows == before)
        for key in before:
            bridge.delete(key)
        await until(lambda: bridge.flows == before)

    run(scenario)


def test_nothing_is_asked_while_nothing_changes() -> None:
    async def scenario(site: Site) -> None:
        bridge = site.connect()
        await until(complete(bridge))
        bridge.delete(next(iter(bridge.flows)))
        await until(complete(bridge))
        said = len(bridge.received)
        bridge.put(LOW_IN_TABLE_0)
        await asyncio.sleep(5 * reconciler_module.REST_SECONDS)
        assert len(bridge.received) == said

    run(scenario)


def test_what_the_bridge_holds_back_is_waited_for() -> None:
    async def scenario(site: Site) -> None:
        bridge = site.connect()
        await until(complete(bridge))
        before = dict(bridge.flows)
        gone, changed = list(before)[:2]
        bridge.pause()
        bridge.delete(gone)
        bridge.put(before[changed]._replace(instructions=b""))
        await asyncio.sleep(5 * reconciler_module.REST_SECONDS)
        assert gone not in bridge.flows, "nobody knows what else has changed"
        bridge.resume()
        await until(lambda: bridge.flows == before)

    run(scenario)


def test_flows_of_others_stay_and_are_told_of_if_they_are_in_the_way(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario(site: Site) -> None:
        bridge = site.connect()
        await until(complete(bridge))
        bridge.put(LOW_IN_TABLE_0)
        hook = next(flow for flow in bridge.flows.values() if flow[:2] == (0, HookPriority.TENANT))
        remote = next(flow for flow in bridge.flows.values() if flow.table == Table.REMOTE)
        for other in (
            WireFlow(Table.TENANT, 1, hook.match, FOREIGN, b""),
            hook._replace(priority=40000, cookie=FOREIGN),
            remote._replace(table=0, priority=40000, cookie=FOREIGN),
        ):
            caplog.clear()
            bridge.put(other)
            await until(lambda: "in our tables or hide" in caplog.text)
            assert bridge.flows[other.key] == other
            bridge.delete(other.key)
            await until(lambda: "in the way of ours any more" in caplog.text)
            site.reconciler._log._said.clear()  # a minute later

    caplog.set_level(logging.INFO)
    run(scenario)


def misses(bridge: FakeBridge) -> set[Key]:
    return {key for key in bridge.flows if key[:2] == TABLE_MISS[:2]}


def test_the_table_miss_flow_is_whoever_has_it() -> None:
    """Another owner's stays; once he has taken it away, ours is there, and goes when he is back."""
    theirs = WireFlow(0, 0, b"", FOREIGN, b"")

    async def scenario(site: Site) -> None:
        bridge = FakeBridge()
        bridge.put(theirs)
        site.connect(bridge)
        await until(lambda: len(bridge.flows) == len(FLOWS) - 1)
        assert misses(bridge) == {TABLE_MISS}
        assert bridge.flows[TABLE_MISS] == theirs
        bridge.delete(TABLE_MISS)
        await until(lambda: len(misses(bridge)) == 2)
        without = tuple(flow for flow in FLOWS if flow.table or flow.priority)
        site.reconciler.want(BRIDGE, {"": without})
        bridge.delete(next(key for key in bridge.flows if key not in misses(bridge)))
        await until(complete(bridge))
        assert len(misses(bridge)) == 2, "the only ones"
        bridge.put(theirs)
        await until(lambda: misses(bridge) == {TABLE_MISS})

    run(scenario)


def test_a_group_of_flows_comes_and_goes_by_itself() -> None:
    *others, one, two = sorted(FLOWS, key=lambda flow: (flow.table == 0, flow.priority == 0))
    mine, peers = (*others[::2], one, two), tuple(others[1::2])

    async def scenario(site: Site) -> None:
        bridge = site.connect()
        await until(complete(bridge))
        for groups in (
            {"": mine, "b": peers},
            {"": mine},
            {"": mine, "b": FLOWS, "c": peers},
            {"": mine, "c": peers},
            {"": mine, "c": peers[1:]},
        ):
            site.reconciler.want(BRIDGE, groups)
            count = len({flow for group in groups.values() for flow in group})
            await until(lambda count=count: len(bridge.flows) == count)  # type: ignore[misc]

    run(scenario)


def test_ports_are_unknown_while_the_bridge_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that stands still closes no connection."""
    monkeypatch.setattr(reconciler_module, "PULSE_SECONDS", 0.02)

    async def scenario(site: Site) -> None:
        watching = asyncio.create_task(site.reconciler.watch())
        bridge = site.connect()
        await until(complete(bridge))
        await until(lambda: site.ports[-1] is not None)
        bridge.hangs = True
        await until(lambda: site.ports[-1] is None)
        bridge.hangs = False
        await until(lambda: site.ports[-1] is not None)
        watching.cancel()

    run(scenario)


def test_a_bridge_that_connects_while_another_connection_is_asked_gets_its_flows() -> None:
    """Two threads rewrote the list of connections, and could lose one."""

    async def scenario(site: Site) -> None:
        old = site.connect(FakeBridge(hangs=True))
        await until(lambda: old.received)
        new = site.connect()
        await until(complete(new))
        assert old.flows == {}
        site.reconciler.disconnect(old)
        assert site.reconciler.session is not None, "the old one's end is nothing to the new one"

    run(scenario)


def test_ports_of_a_bridge_that_has_disconnected_are_unknown() -> None:
    async def scenario(site: Site) -> None:
        bridge = site.connect()
        await until(complete(bridge))
        assert site.ports[-1] is not None
        site.reconciler.disconnect(bridge)
        assert site.ports[-1] is None
        again = site.connect()
        await until(complete(again))
        assert site.ports[-1] is not None

    run(scenario)


def test_a_port_that_goes_down_is_told_at_once() -> None:
    async def scenario(site: Site) -> None:
        bridge = site.connect()
        await until(complete(bridge))
        number = bridge.ports["up1"][0]
        bridge.set_port("up1", number, DOWN)
        await until(lambda: site.ports[-1] and site.ports[-1]["up1"] == Port(number, live=False))

    run(scenario)


def test_flows_of_a_port_that_is_missing_come_with_it() -> None:
    async def scenario(site: Site) -> None:
        bridge = site.connect(
            FakeBridge(ports={name: at for name, at in PORTS.items() if name != "up1"})
        )
        without = sum("up1" not in flow.ports for flow in FLOWS)
        await until(lambda: len(bridge.flows) == without)
        bridge.set_port("up1", 99, UP)
        await until(complete(bridge))

    run(scenario)


def test_what_the_bridge_refuses_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler_module, "RETRY_SECONDS", 0.01)

    async def scenario(site: Site) -> None:
        bridge = site.connect(FakeBridge(refuses=lambda mod: mod.command == ofproto.OFPFC_ADD))
        await until(lambda: len(bridge.received) > 200)
        assert bridge.flows == {}
        bridge.refuses = lambda _mod: False
        await until(complete(bridge))

    run(scenario)


def test_a_host_that_is_not_set_up_keeps_its_flows_as_they_are() -> None:
    async def scenario(site: Site) -> None:
        site.steered = None
        bridge = site.connect()
        await until(lambda: site.ports)
        site.steered = BRIDGE
        assert bridge.flows == {}
        site.reconciler.wake()
        await until(complete(bridge))

    run(scenario)


def test_the_site_goes_over_to_another_bridge() -> None:
    async def scenario(site: Site) -> None:
        old = site.connect()
        await until(complete(old))
        site.reconciler.disconnect(old)
        new = site.connect(FakeBridge(bridge="br-new"))
        site.steered = "br-new"
        for _ in range(10):
            await asyncio.sleep(0)
        assert new.received == [], "not before it is wanted"
        site.reconciler.want("br-new", {"": FLOWS})
        await until(complete(new))

    run(scenario)
