"""Clients' addresses restored by a bridge that takes its time, refuses, or goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from os_ken.ofproto import ofproto_v1_3_parser as parser

from fedsdn.openflow.restorer import Restorer
from fedsdn.openflow.session import ANSWER_SECONDS, Session
from fedsdn.pipeline.restore import Restoration, restoring_flows
from tests.unit.fake_bridge import FakeBridge
from tests.unit.test_restore import FEDERATION, SITE, restoration

GONE = "the bridge closed the connection"


class Application:
    """The restorer over a connection that may be none."""

    def __init__(self) -> None:
        self.bridge = FakeBridge()
        self.session: Session | None = Session(self.bridge)
        self.bridge.tell = self.session.deliver
        self.restorer = Restorer(lambda: self.session, self._flows)

    def _flows(self, wanted: Restoration) -> tuple[Any, ...]:
        return restoring_flows(FEDERATION, SITE, wanted)

    def count(self, kind: type) -> int:
        return sum(isinstance(message, kind) for message in self.bridge.received)


def run(scenario: Callable[[Application], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        application = Application()
        running = asyncio.create_task(application.restorer.run())
        async with asyncio.timeout(60):
            await scenario(application)
        running.cancel()

    asyncio.run(main())


def test_connections_that_open_at_once_share_a_barrier() -> None:
    async def scenario(application: Application) -> None:
        asked = [
            application.restorer.restore([restoration(4, client_port=port), restoration(6)])
            for port in range(40000, 40010)
        ]
        assert await asyncio.gather(*asked) == [[None, None]] * 10
        assert application.count(parser.OFPBarrierRequest) == 1
        assert {flow.hard_timeout for flow in application.bridge.flows.values()} != {0}

    run(scenario)


def test_one_that_the_bridge_refuses_fails_alone() -> None:
    async def scenario(application: Application) -> None:
        application.bridge.refuses = lambda mod: (
            "10.2.0.12" in repr(mod.match) + repr(mod.instructions)
        )
        wanted = [restoration(4, client=11), restoration(4, client=12, own_port=50000)]
        good, bad = await application.restorer.restore(wanted)
        assert good is None
        assert bad is not None
        assert "refused" in bad

    run(scenario)


def test_conntrack_forgets_an_own_address_before_it_is_used_again() -> None:
    async def scenario(application: Application) -> None:
        await application.restorer.restore([restoration(4)])
        assert application.count(parser.OFPExperimenter) == 0
        await application.restorer.restore([restoration(4)])
        assert application.count(parser.OFPExperimenter) == 1

    run(scenario)


def test_without_a_bridge_it_is_said_at_once() -> None:
    async def scenario(application: Application) -> None:
        application.session = None
        [error] = await application.restorer.restore([restoration(4)])
        assert error == "the bridge is not connected to the application"

    run(scenario)


def test_when_the_bridge_goes_those_that_wait_and_those_behind_them_fail_at_once() -> None:
    async def scenario(application: Application) -> None:
        application.bridge.hangs = True
        first = asyncio.create_task(application.restorer.restore([restoration(4)]))
        while not application.bridge.received:
            await asyncio.sleep(0)
        behind = asyncio.create_task(application.restorer.restore([restoration(6)]))
        await asyncio.sleep(0)
        assert application.session is not None
        application.session.end()
        async with asyncio.timeout(ANSWER_SECONDS / 2):
            assert [await first, await behind] == [[GONE], [GONE]]

    run(scenario)


def test_who_asks_and_goes_keeps_nobody_from_an_answer() -> None:
    async def scenario(application: Application) -> None:
        leaving = asyncio.create_task(application.restorer.restore([restoration(4)]))
        await asyncio.sleep(0)
        leaving.cancel()
        assert await application.restorer.restore([restoration(6)]) == [None]

    run(scenario)
