"""Accepting connections, also when descriptors run out."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise

import pytest

from fedsdn.proxy.admission.slots import Owner, Slots
from fedsdn.proxy.process.listener import Listener, Name
from tests.unit.loopback import asynchronous, until


class Doorkeeper(socket.socket):
    """A listening socket that notes when it was asked for a connection."""

    def __init__(self) -> None:
        super().__init__(socket.AF_INET6, socket.SOCK_STREAM)
        self.bind(("::1", 0))
        self.listen(512)
        self.setblocking(False)
        self.asked_at: list[float] = []

    def accept(self) -> tuple[socket.socket, Name]:
        self.asked_at.append(asyncio.get_running_loop().time())
        return super().accept()


class House:
    """A listener whose visitors stay until they hang up, or are sent away."""

    def __init__(self, stack: ExitStack) -> None:
        self.door = Doorkeeper()
        self.address = self.door.getsockname()
        self.tasks: dict[asyncio.Task[None], Owner] = {}
        self.names: list[Name] = []
        self.stack = stack

    def open(self, most: int = 500) -> Listener:
        slots = Slots(most)
        self.tasks = slots.tasks
        return Listener(self.door, self.handle, slots)

    async def handle(self, sock: socket.socket, name: Name) -> None:
        with sock:
            self.names.append(name)
            await asyncio.get_running_loop().sock_recv(sock, 1)

    def visitors(self, count: int) -> list[socket.socket]:
        return [
            self.stack.enter_context(socket.create_connection(self.address[:2]))
            for _ in range(count)
        ]


@contextmanager
def house() -> Iterator[House]:
    with ExitStack() as stack:
        yield House(stack)


@contextmanager
def descriptors_limited_to(most: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def hang_up(visitors: list[socket.socket], h: House) -> None:
    for visitor in visitors:
        visitor.close()
    await until(lambda: not h.tasks)


@asynchronous
async def test_everyone_is_let_in_with_their_name() -> None:
    with house() as h:
        listener, visitors = h.open(), h.visitors(200)
        await until(lambda: len(h.names) == 200)
        assert {name[:2] for name in h.names} == {v.getsockname()[:2] for v in visitors}
        await hang_up(visitors, h)
        listener.close()


@asynchronous
async def test_without_descriptors_it_waits_instead_of_spinning_and_lets_all_in_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with house() as h:
        listener, visitors = h.open(), h.visitors(20)
        with descriptors_limited_to(0):
            await until(lambda: len(h.door.asked_at) >= 4)
            asked = h.door.asked_at[:]
            assert not h.names
        assert all(later - earlier > 0.09 for earlier, later in pairwise(asked))
        await until(lambda: len(h.names) == 20)
        warnings = [r.getMessage() for r in caplog.records]
        assert warnings == ["Too many open files: new ones wait until some of 0 end"]
        await hang_up(visitors, h)
        listener.close()


@asynchronous
async def test_no_more_run_at_once_than_it_was_told_and_the_others_wait(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with house() as h:
        visitors = h.visitors(100)
        listener = h.open(most=40)
        await until(lambda: bool(caplog.records))
        assert (len(h.tasks), len(h.door.asked_at)) == (40, 40)
        while visitors:
            visitors.pop(0).close()
            await asyncio.sleep(0)
            assert len(h.tasks) <= 40
        await until(lambda: len(h.names) == 100 and not h.tasks)
        warnings = [r.getMessage() for r in caplog.records]
        assert warnings == [
            "as many connections as the descriptors allow: new ones wait until some of 40 end"
        ]
        listener.close()


@asynchronous
async def test_closed_it_lets_in_who_waits_and_nobody_else() -> None:
    with house() as h:
        visitors = h.visitors(100)
        h.open().close()
        await until(lambda: len(h.names) == 100)
        with pytest.raises(ConnectionRefusedError):
            h.visitors(1)
        await hang_up(visitors, h)


@asynchronous
async def test_a_handler_that_fails_is_logged_and_disturbs_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with house() as h:

        async def fail(sock: socket.socket, name: Name) -> None:
            h.names.append(name)
            with sock:
                raise RuntimeError("broken")

        listener = Listener(h.door, fail, Slots(500))
        h.visitors(2)
        await until(lambda: len(h.names) == 2 and not h.tasks)
        assert [r.getMessage() for r in caplog.records] == ["a connection's handler failed"] * 2
        listener.close()
