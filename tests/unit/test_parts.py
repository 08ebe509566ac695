"""The parts of a worker: one that fails, wherever in the event loop, ends them all."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, NoReturn

import pytest

from fedsdn.channel.client import ChannelClient
from fedsdn.channel.messages import VERSION
from fedsdn.channel.report import Report
from fedsdn.proxy.process.parts import PartFailedError, Parts, callbacks_failing
from fedsdn.proxy.sockets.readable import when_readable
from tests.unit.loopback import asynchronous, tcp_pair, until


def broken(*_: object) -> NoReturn:
    raise RuntimeError("broken")


async def failing() -> NoReturn:
    broken()


class Lasting:
    """A part that lasts, and knows whether it was ended."""

    ended = False

    async def run(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.ended = True


async def failure_of(start: Callable[[Parts], Awaitable[object]]) -> PartFailedError:
    """Run parts beside one that lasts; return why they ended."""
    other = Lasting()

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            parts = Parts(group)
            parts.last("other", other.run())
            await start(parts)
            await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup) as caught:
        await run()
    assert other.ended
    (failure,) = caught.value.exceptions
    assert isinstance(failure, PartFailedError)
    return failure


def lasting(name: str, work: Callable[[], Coroutine[Any, Any, object]]) -> Any:  # noqa: ANN401
    async def start(parts: Parts) -> None:
        parts.last(name, work())

    return start


async def failing_in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(failing())


async def failing_as_a_callback() -> None:
    asyncio.get_running_loop().call_later(0.01, broken)
    await callbacks_failing()


async def failing_as_a_reader() -> None:
    one, other = tcp_pair()
    with one, other:
        one.send(b"x")
        await when_readable(other.fileno(), broken)


@pytest.mark.parametrize(
    "work", [failing, failing_in_a_group, failing_as_a_callback, failing_as_a_reader]
)
@asynchronous
async def test_a_part_that_fails_ends_the_others_with_its_reason(
    work: Callable[[], Coroutine[Any, Any, object]],
) -> None:
    failure = await failure_of(lasting("part", work))
    assert str(failure) == "its part failed: RuntimeError: broken"


@asynchronous
async def test_a_part_that_returns_has_failed() -> None:
    failure = await failure_of(lasting("part", lambda: asyncio.sleep(0)))
    assert str(failure) == "its part ended"


@asynchronous
async def test_what_runs_once_may_return_but_not_fail() -> None:
    async def start(parts: Parts) -> None:
        parts.once("reload", asyncio.sleep(0))
        await asyncio.sleep(0.01)
        parts.once("reload", failing())

    assert str(await failure_of(start)) == "its reload failed: RuntimeError: broken"


@asynchronous
async def test_parts_end_when_they_are_told_to() -> None:
    one, two = Lasting(), Lasting()
    async with asyncio.TaskGroup() as group:
        parts = Parts(group)
        first = parts.last("one", one.run())
        parts.last("two", two.run())
        await asyncio.sleep(0)
        await parts.end(first)
        assert (one.ended, two.ended) == (True, False)
        await parts.end_all()
        assert two.ended


@asynchronous
async def test_a_reader_acts_each_time_until_it_is_cancelled() -> None:
    one, other = tcp_pair()
    with one, other:
        seen: list[bytes] = []
        reading = asyncio.create_task(
            when_readable(other.fileno(), lambda: seen.append(other.recv(1)))
        )
        for sent in (b"a", b"b"):
            one.send(sent)
            await until(lambda sent=sent: seen[-1:] == [sent])  # type: ignore[misc]
        reading.cancel()
        await asyncio.wait([reading])
        assert not asyncio.get_running_loop().remove_reader(other.fileno())


@asynchronous
async def test_a_reload_that_fails_ends_the_channel(tmp_path: Path) -> None:
    """The application here says hello, and no more."""
    path = tmp_path / "channel"
    with socket.socket(socket.AF_UNIX) as application:
        application.bind(str(path))
        application.listen()
        application.setblocking(False)

        async def failing_reload() -> int:
            broken()

        client = ChannelClient(path, 0, Report(), lambda _: None, failing_reload)
        running = asyncio.create_task(client.run())
        loop = asyncio.get_running_loop()
        accepted, _ = await loop.sock_accept(application)
        with accepted:
            hello = json.loads(await loop.sock_recv(accepted, 1 << 16))
            result = {"version": VERSION, "site": "a"}
            answer = {"jsonrpc": "2.0", "id": hello["id"], "result": result}
            await loop.sock_sendall(accepted, json.dumps(answer).encode() + b"\n")
            with pytest.raises(ExceptionGroup) as caught:
                await running
    assert caught.group_contains(RuntimeError, match="broken")
