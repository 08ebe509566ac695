"""Connections over loopback, and what tests of the proxy's event loop share."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
import random
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from fedsdn.proxy.relay.poller import Poller

LIMIT_SECONDS = 60.0


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test in an event loop of its own, to an end within ``LIMIT_SECONDS``."""

    async def limited(*arguments: object, **named: object) -> None:
        async with asyncio.timeout(LIMIT_SECONDS):
            await test(*arguments, **named)

    @functools.wraps(test)
    def run(*arguments: object, **named: object) -> None:
        asyncio.run(limited(*arguments, **named))

    return run


@contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        listener.setblocking(False)
        yield listener


def tcp_pair(buffer: int | None = None) -> tuple[socket.socket, socket.socket]:
    """Return a connection's two ends, not blocking; ``buffer`` is asked for on both, each way."""
    with socket.socket() as listener:
        sockets = [listener]
        opener = socket.socket()
        sockets.append(opener)
        if buffer is not None:
            for sock in sockets:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        opener.connect(listener.getsockname())
        accepted, _ = listener.accept()
    for sock in (opener, accepted):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return opener, accepted


async def send(sock: socket.socket, size: int, seed: int) -> str:
    """Send random bytes and the end of the stream; return their hash."""
    source, digest = random.Random(seed), hashlib.sha256()  # noqa: S311 -- no secrets
    while size:
        data = source.randbytes(min(size, 1 << 16))
        size -= len(data)
        digest.update(data)
        await asyncio.get_running_loop().sock_sendall(sock, data)
    sock.shutdown(socket.SHUT_WR)
    return digest.hexdigest()


async def receive(sock: socket.socket) -> tuple[int, str]:
    """Read to the end of the stream; return size and hash."""
    size, digest = 0, hashlib.sha256()
    while data := await asyncio.get_running_loop().sock_recv(sock, 1 << 16):
        size += len(data)
        digest.update(data)
    return size, digest.hexdigest()


@contextmanager
def polling() -> Iterator[Poller]:
    """Run a poller during the block."""
    poller = Poller(lambda task, _error: task.cancel())
    run = asyncio.get_running_loop().create_task(poller.run())
    try:
        yield poller
    finally:
        run.cancel()
        poller.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition; the test's own limit ends it."""
    while not condition():
        await asyncio.sleep(0.005)


def descriptors() -> list[str]:
    """What every open descriptor of this process is."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:  # the one of listdir itself
            continue
    return found


def pipe_ends() -> int:
    """How many of this process's descriptors are pipes."""
    return sum(name.startswith("pipe:") for name in descriptors())
