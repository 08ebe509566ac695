"""The peers that a worker's connections are with, for as long as there is one with each."""

from __future__ import annotations

import asyncio

from fedsdn.channel.connection import Direction
from fedsdn.proxy.admission.carried import Carried, PeerConnection


def test_a_peer_counts_from_its_first_connection_to_its_last() -> None:
    async def carry(peer: str) -> None:
        with (
            carried.carrying(PeerConnection(Direction.OUTBOUND, peer)),
            carried.carrying(PeerConnection(Direction.OUTBOUND, peer)),
        ):
            await asyncio.sleep(3600)

    async def scenario() -> None:
        tasks = [asyncio.create_task(carry(peer)) for peer in "bbc"]
        await asyncio.sleep(0)
        assert begun == ["b", "c"]
        assert carried.peers == {"b", "c"}
        for task, left in zip(tasks, ({"b", "c"}, {"c"}, set()), strict=True):
            task.cancel()
            await asyncio.wait([task])
            assert carried.peers == left

    begun: list[str] = []
    carried = Carried(lambda _: None)
    carried.begun = begun.append
    asyncio.run(scenario())
