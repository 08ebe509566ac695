"""Flows of a bridge that connects, changes, refuses and goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from os_ken.ofproto import ofproto_v1_3 as ofproto
from os_ken.ofproto import ofproto_v1_3_parser as parser

from fedsdn.openflow import reconciler as reconciler_module
from fedsdn.openflow.ports import Port
from fedsdn.openflow.reconciler import Reconciler
from fedsdn.pipeline.build import pipeline_flows
from tests.unit.fake_bridge import DOWN, UP, FakeBridge
from tests.unit.federations import two_sites

FLOWS = pipeline_flows(two_sites(), "a")
BRIDGE = "br-provider"
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
        site.reconciler.want(BRIDGE, FLOWS)
        running = asyncio.create_task(site.reconciler.run())
        async with asyncio.timeout(20):
            await scenario(site)
        running.cancel()

    asyncio.run(main())


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def complete(bridge: FakeBridge) -> Callable[[], bool]:
    return lambda: len(bridge.flows) == len(FLOWS)


def test_a_bridge_gets_its_flows_and_again_what_is_deleted_or_changed() -> None:
    async def scenario(site: Site) -> None:
        bridge = site.connect()
        await until(complete(bridge))
        before = dict(bridge.flows)
        gone, changed = list(before)[:2]
        del bridge.flows[gone]
        bridge.flows[changed].instructions = []
        site.reconciler.wake()
        await until(complete(bridge))
        await until(lambda: bridge.flows[changed].instructions)

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
        site.reconciler.want("br-new", FLOWS)
        await until(complete(new))

    run(scenario)
