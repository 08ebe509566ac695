"""What the benchmark of a shared bridge calls broken, and the connections that talk beside it."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from fedsdn.bench import repair_agent
from fedsdn.bench.reconnects import Held, Reconnects
from fedsdn.bench.reconnects import table as table_of
from fedsdn.bench.repair import BOUNDS_MS, Harm, RepairResults, Talked, table
from fedsdn.bench.talk import Talk
from fedsdn.openflow.mirror import Mirror


def results(ms: float, errors: dict[str, int]) -> RepairResults:
    return RepairResults(
        connections=200,
        flows=109,
        load=1.5,
        times_ms={harm: [1.0, ms] for harm in Harm},
        talked={harm: Talked(10, 0.25, errors) for harm in Harm},
    )


def test_connections_that_ended_and_late_flows_are_broken() -> None:
    assert results(50.0, {}).broken == []
    found = results(51.0, {"ConnectionResetError": 3}).broken
    assert sum("ended by ConnectionResetError" in one for one in found) == len(Harm)
    late = [harm for harm, bound in BOUNDS_MS.items() if bound < 51]
    assert sum("99th percentile" in one for one in found) == len(late) == 2


def test_the_longest_time_without_all_flows_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    states = {100.0: True, 100.5: False, 100.7: True, 101.0: False, 101.1: False, 101.5: True}
    gaps = repair_agent._Gaps(lambda _mirror: states[now[0]])
    for now[0] in states:
        assert not gaps.look(Mirror())
        assert not gaps.are_over()
    now[0] = 103.0
    assert gaps.are_over()
    assert gaps.longest == pytest.approx(0.5)


def test_what_the_application_keeps_of_ended_connections_is_broken() -> None:
    before = Held(9, 30, 60_000)
    assert Reconnects(500, before, Held(9, 29, 60_500)).broken == []
    more = (Held(11, 30, 60_000), Held(9, 40, 60_000), Held(9, 30, 90_000))
    assert [len(Reconnects(500, before, after).broken) for after in more] == [1, 1, 1]
    assert len(table_of(Reconnects(500, before, before))[2]) == 2


def test_the_table_says_resets_and_the_longest_answer() -> None:
    title, headings, rows = table(results(2.0, {"ConnectionResetError": 3}))
    assert "109 flows" in title
    assert "load average 1.5" in title
    assert len(rows) == len(Harm)
    assert all(len(row) == len(headings) and row[-2:] == ("3", "250") for row in rows)
    assert len(table(RepairResults())[2]) == 0


def test_what_is_not_answered_yet_counts_as_long_as_it_waits() -> None:
    async def main() -> None:
        connected: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readexactly(64))  # once, and no more
            await reader.readexactly(64)
            connected.put_nowait(writer)

        talk = Talk()
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            talking = asyncio.create_task(
                talk.talk(*await asyncio.open_connection("127.0.0.1", port))
            )
            writer = await connected.get()
            waiting = json.loads(talk.told())
            assert (waiting["exchanged"], waiting["errors"]) == (1, {})
            assert waiting["longest"] > 0
            writer.transport.abort()
            await talking
            assert sum(json.loads(talk.told())["errors"].values()) == 1

    asyncio.run(main())
