"""Accepting connections, also when descriptors run out."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from itertools import pairwise

import pytest

from fedsdn.proxy.process.listener import Listener
from fedsdn.socket_address import SocketAddress
from tests.unit.loopback import asynchronous, until


class Doorkeeper(socket.socket):
    """A listening socket that notes when it was asked for a connection."""

    def __init__(self) -> None:
        super().__init__(socket.AF_INET6, socket.SOCK_STREAM)
        self.bind(("::1", 0))
        self.listen(512)
        self.setblocking(False)
        self.asked_at: list[float] = []
        self.errors: list[int] = []
        """What the next calls of accept(2) fail with."""

    def accept(self) -> tuple[socket.socket, tuple[str, int, int, int]]:
        self.asked_at.append(asyncio.get_running_loop().time())
        if self.errors:
            number = self.errors.pop(0)
            raise OSError(number, os.strerror(number))
        return super().accept()


class House:
    """A listener whose visitors stay until they hang up, or are sent away."""

    def __init__(self, stack: ExitStack) -> None:
        self.door = Doorkeeper()
        self.address = self.door.getsockname()
        self.tasks: set[asyncio.Task[None]] = set()
        self.callers: list[SocketAddress] = []
        self.stack = stack

    def listener(self, most: int = 500) -> Listener:
        return Listener(self.door, self.take, lambda: len(self.tasks) >= most)

    @asynccontextmanager
    async def open(self, most: int = 500) -> AsyncIterator[None]:
        """Let visitors in during the block."""
        async with running(self.listener(most)):
            yield

    def take(self, sock: socket.socket, caller: SocketAddress) -> None:
        task = asyncio.get_running_loop().create_task(self.handle(sock, caller))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def handle(self, sock: socket.socket, caller: SocketAddress) -> None:
        with sock:
            self.callers.append(caller)
            await asyncio.get_running_loop().sock_recv(sock, 1)

    def visitors(self, count: int) -> list[socket.socket]:
        return [
            self.stack.enter_context(socket.create_connection(self.address[:2]))
            for _ in range(count)
        ]


@asynccontextmanager
async def running(listener: Listener) -> AsyncIterator[None]:
    """Run a listener during the block, and close it then."""
    run = asyncio.create_task(listener.run())
    try:
        yield
    finally:
        run.cancel()
        await asyncio.wait([run])
        listener.close()


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
        async with h.open():
            visitors = h.visitors(200)
            await until(lambda: len(h.callers) == 200)
            callers = {(str(caller.address), caller.port) for caller in h.callers}
            assert callers == {visitor.getsockname()[:2] for visitor in visitors}
            await hang_up(visitors, h)


@asynchronous
async def test_without_descriptors_it_waits_instead_of_spinning_and_lets_all_in_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with house() as h:
        async with h.open():
            visitors = h.visitors(20)
            with descriptors_limited_to(0):
                await until(lambda: len(h.door.asked_at) >= 4)
                asked = h.door.asked_at[:]
                assert not h.callers
            assert all(later - earlier > 0.09 for earlier, later in pairwise(asked))
            await until(lambda: len(h.callers) == 20)
            warnings = [r.getMessage() for r in caplog.records]
            assert warnings == ["Too many open files: new connections wait"]
            await hang_up(visitors, h)


@asynchronous
async def test_no_more_run_at_once_than_it_was_told_and_the_others_wait(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with house() as h:
        visitors = h.visitors(100)
        async with h.open(most=40):
            await until(lambda: bool(caplog.records))
            assert (len(h.tasks), len(h.door.asked_at)) == (40, 40)
            while visitors:
                visitors.pop(0).close()
                await asyncio.sleep(0)
                assert len(h.tasks) <= 40
            await until(lambda: len(h.callers) == 100 and not h.tasks)
            warnings = [r.getMessage() for r in caplog.records]
            assert warnings == [
                "as many connections as the descriptors allow: new connections wait"
            ]


@asynchronous
async def test_closed_it_lets_in_who_waits_and_nobody_else() -> None:
    with house() as h:
        visitors = h.visitors(100)
        h.listener().close()
        await until(lambda: len(h.callers) == 100)
        with pytest.raises(ConnectionRefusedError):
            h.visitors(1)
        await hang_up(visitors, h)


@asynchronous
async def test_a_connection_that_cannot_be_taken_is_logged_and_the_next_one_is_taken(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with house() as h:
        visitors = h.visitors(3)
        broken = visitors[1].getsockname()[1]

        def take(sock: socket.socket, caller: SocketAddress) -> None:
            if caller.port == broken:
                raise RuntimeError("broken")
            h.take(sock, caller)

        async with running(Listener(h.door, take)):
            await until(lambda: len(h.callers) == 2)
            assert [visitor.getsockname()[1] for visitor in (visitors[0], visitors[2])] == [
                caller.port for caller in h.callers
            ]
            assert visitors[1].recv(1) == b""
        (record,) = caplog.records
        assert record.getMessage().startswith("a new connection is reset: handling it failed\n")


@asynchronous
async def test_an_error_that_may_pass_only_delays(caplog: pytest.LogCaptureFixture) -> None:
    """accept(2) says that kernels may return others than it lists, ETIMEDOUT among them."""
    with house() as h:
        h.door.errors = [errno.ETIMEDOUT, errno.EACCES]  # a kernel that says so is not to be had
        async with h.open():
            visitors = h.visitors(2)
            await until(lambda: len(h.callers) == 2)
            assert not h.door.errors
            assert "Connection timed out" in caplog.text
            await hang_up(visitors, h)


@asynchronous
async def test_a_listening_socket_that_fails_ends_its_listener() -> None:
    with house() as h:
        listener = h.listener()
        h.door.shutdown(socket.SHUT_RDWR)  # it listens no more: accept says EINVAL
        with pytest.raises(OSError, match="Invalid argument"):
            await listener.run()
        listener.close()
