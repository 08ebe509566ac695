"""Workers and the application on a real channel: what they tell each other."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Set
from contextlib import suppress
from pathlib import Path

import pytest
from msgspec.structs import replace as altered

from fedsdn.channel.connection import Direction
from fedsdn.channel.messages import (
    LONGEST_LINE,
    VERSION,
    Answer,
    Call,
    ChannelError,
    ConnectionMessage,
    Hello,
    List,
    Page,
    PathsMessage,
    Welcome,
    decode,
    encode_answer,
)
from fedsdn.channel.server import Channel
from fedsdn.pipeline.restore import Restoration
from fedsdn.uplinks.news import PathNews, ToldPath
from fedsdn.uplinks.status import PathState
from tests.unit.channel_ends import LIMIT, Bridge, Worker, application, at, run, until, worker


async def listed(path: Path) -> list[ConnectionMessage]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(Call(List(skip=0), 1).encode())
    answer = decode(await reader.readline())
    writer.close()
    assert isinstance(answer, Answer)
    return answer.read(Page).connections


def up(number: int, state: PathState = PathState.UP) -> ToldPath:
    return ToldPath("up1", f"site-{number}", "up1", state, 30.5, current=False)


def test_connections_that_open_at_once_share_a_message(tmp_path: Path) -> None:
    async def scenario(path: Path) -> None:
        _, bridge = application(path)
        async with worker(path) as one:
            asked = [
                one.client.restore(Restoration(at(port), at(port), at(80)))
                for port in range(2, 102)
            ]
            await asyncio.gather(*asked)
        assert [len(batch) for batch in bridge.batches] == [100]

    run(scenario, tmp_path / "channel")


def test_one_that_the_bridge_refuses_fails_alone(tmp_path: Path) -> None:
    async def scenario(path: Path) -> None:
        application(path)
        async with worker(path) as one:
            outcome = await asyncio.gather(
                *(one.client.restore(Restoration(at(port), at(9), at(80))) for port in (1, 2)),
                return_exceptions=True,
            )
        assert isinstance(outcome[0], ChannelError)
        assert outcome[1] is None

    run(scenario, tmp_path / "channel")


def test_an_application_that_comes_later_answers_what_was_asked_before(tmp_path: Path) -> None:
    async def scenario(path: Path) -> None:
        async with worker(path) as one:
            asked = asyncio.create_task(one.client.restore(Restoration(at(5), at(5), at(80))))
            await asyncio.sleep(0)
            assert not asked.done()
            _, bridge = application(path)
            await asked
        assert len(bridge.batches) == 1

    run(scenario, tmp_path / "channel")


def test_the_application_knows_what_is_open_and_what_it_has_moved(tmp_path: Path) -> None:
    async def until_listed(path: Path, sent: list[int]) -> None:
        async with asyncio.timeout(LIMIT):
            while [one.sent for one in await listed(path)] != sent:
                await asyncio.sleep(0.01)

    async def scenario(path: Path) -> None:
        application(path)
        async with worker(path) as one:
            with one.report.carried(Direction.INBOUND, "b", at(1), at(2), at(1), 7) as connection:
                connection.sent = 7
                await until_listed(path, [7])
                connection.sent = 9
                await until_listed(path, [9])
                async with worker(path) as other:
                    with other.report.carried(Direction.OUTBOUND, "b", at(3), at(4), at(3), 0):
                        await until_listed(path, [9, 0])
                    await until_listed(path, [9])
            await until_listed(path, [])

    run(scenario, tmp_path / "channel")


def test_changes_of_paths_are_told_and_everything_to_whoever_comes_later(tmp_path: Path) -> None:
    async def scenario(path: Path) -> None:
        channel, _ = application(path)
        async with worker(path) as early:
            await until(lambda: early.reloads)
            channel.tell_paths(PathNews((up(1), up(2)), (), ("up1",)))
            await until(lambda: early.told)
            channel.tell_paths(PathNews((up(2, PathState.DOWN),), (up(1).key,), ("up1",)))
            channel.tell_paths(PathNews((), (), ("up1",)))
            await until(lambda: len(early.told) == 3)
            async with worker(path) as late:
                await until(lambda: late.told)
        first, change, nothing = early.told
        assert first.paths == [up(1), up(2)]
        assert change.paths == [up(2, PathState.DOWN)]
        assert change.gone == [up(1).key]
        assert not nothing.paths
        assert not nothing.gone
        (whole,) = late.told
        assert whole == altered(first, anew=True, paths=[up(2, PathState.DOWN)])

    run(scenario, tmp_path / "channel")


def test_thousands_of_paths_are_told_in_lines_that_are_short_enough(tmp_path: Path) -> None:
    async def scenario(path: Path) -> None:
        channel, _ = application(path)
        many = tuple(up(number) for number in range(20_000))
        channel.tell_paths(PathNews(many, (), ("up1",)))
        async with worker(path) as one:
            await until(lambda: one.told and not one.told[-1].more)
        assert [path for message in one.told for path in message.paths] == list(many)
        assert [message.anew for message in one.told] == [True] + [False] * (len(one.told) - 1)

    run(scenario, tmp_path / "channel")


def test_a_worker_that_does_not_read_is_told_everything_once_when_it_does(tmp_path: Path) -> None:
    async def scenario(path: Path) -> None:
        channel, _ = application(path)
        reader, writer = await asyncio.open_unix_connection(str(path), limit=LONGEST_LINE)
        writer.write(Call(Hello(VERSION, 0, 1), 1).encode())
        await reader.readline()
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        many = tuple(up(number) for number in range(1000))
        for _ in range(200):
            channel.tell_paths(PathNews(many, (), ("up1",)))
            await asyncio.sleep(0)
        reader._transport.resume_reading()  # type: ignore[attr-defined]
        channel.tell_paths(PathNews((up(0, PathState.DOWN),), (), ("up1",)))
        messages: list[PathsMessage] = []
        while not any(message.anew for message in messages):
            line = asyncio.ensure_future(reader.readline())
            while not line.done():
                channel.tell_paths(PathNews((), (), ("up1",)))
                await asyncio.sleep(0.01)
            call = decode(await line)
            assert isinstance(call, Call)
            assert isinstance(call.params, PathsMessage)
            messages.append(call.params)
        assert len(messages) < 20
        assert messages[-1].paths == [up(0, PathState.DOWN), *many[1:]]
        writer.close()

    run(scenario, tmp_path / "channel")


def test_peers_that_connections_depend_on_are_told_at_once_and_again(tmp_path: Path) -> None:
    async def scenario(path: Path) -> None:
        needed: list[Set[str]] = []
        bridge = Bridge()
        for _ in range(2):
            channel = Channel(path, "a", bridge.restore, needed.append)
            running = asyncio.create_task(channel.run())
            async with worker(path) as one, worker(path) as other:
                one.needed = {"b"}
                await until(lambda: one.reloads and other.reloads)
                other.client.need("c")
                await until(lambda: needed and needed[-1] == {"b", "c"})
                other.needed = {"d"}
                await until(lambda: needed[-1] == {"b", "d"})
            await until(lambda: needed[-1] == set())
            running.cancel()
            needed.clear()

    run(scenario, tmp_path / "channel")


@pytest.mark.parametrize("turns", range(10))
def test_a_worker_can_be_ended_while_the_application_ends(tmp_path: Path, turns: int) -> None:
    async def scenario(path: Path) -> None:
        peers: list[asyncio.StreamWriter] = []

        async def welcome(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            hello = decode(await reader.readline())
            assert isinstance(hello, Call)
            assert hello.number is not None
            writer.write(encode_answer(hello.number, Welcome(VERSION, "a")))
            peers.append(writer)
            with suppress(OSError):
                while await reader.readline():
                    pass

        async with await asyncio.start_unix_server(welcome, str(path)):
            client = Worker(path).client
            running = asyncio.create_task(client.run())
            await until(lambda: peers and client._writer is not None)
            peers[0].transport.abort()
            for _ in range(turns):
                await asyncio.sleep(0)
            running.cancel()
            await asyncio.wait([running], timeout=LIMIT)
            assert running.cancelled()

    run(scenario, tmp_path / "channel.sock")


def test_another_version_is_turned_away_with_the_reason(tmp_path: Path) -> None:
    async def scenario(path: Path) -> None:
        application(path)
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(Call(Hello(version=VERSION + 1, worker=0, pid=1), 1).encode())
        said = f"version {VERSION + 1} of the channel; the application has {VERSION}"
        assert said.encode() in await reader.readline()
        writer.close()

    run(scenario, tmp_path / "channel")


@pytest.mark.parametrize(
    "garbage", [b"x" * (LONGEST_LINE + 2), b"\0" * 100 + b"\n", b"{}\n" * 1000]
)
def test_garbage_ends_at_most_the_channel_it_came_by(tmp_path: Path, garbage: bytes) -> None:
    async def scenario(path: Path) -> None:
        _, bridge = application(path)
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(str(path))
            await asyncio.get_running_loop().run_in_executor(None, _send_all, stranger, garbage)
            async with worker(path) as one:
                await one.client.restore(Restoration(at(5), at(5), at(80)))
        assert len(bridge.batches) == 1

    run(scenario, tmp_path / "channel")


def _send_all(stranger: socket.socket, garbage: bytes) -> None:
    with suppress(OSError):  # the application has had enough of it
        stranger.sendall(garbage)
