"""Short connections over loopback, to servers that do what they should not."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from fedsdn.bench import short
from fedsdn.bench.short import Clients, Outcome, Way, answer, request

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
COUNT = 30
AT_ONCE = 10


def clients_of(serve: Serve, way: Way) -> Clients:
    """Return the clients of a server when all are done."""

    async def run() -> Clients:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        clients = Clients("127.0.0.1", server.sockets[0].getsockname()[1], way)
        await clients.run(COUNT, AT_ONCE)
        server.close()
        return clients

    return asyncio.run(run())


async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Leave out the first 12 bytes of every answer, and end cleanly."""
    writer.write(answer(await reader.read())[12:])
    writer.close()


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )
    writer.close()


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send the first bytes of the answer, and nothing more."""
    writer.write(answer(await reader.read())[:5])
    while not writer.is_closing():
        await asyncio.sleep(0.01)
    writer.close()


@pytest.mark.parametrize("way", [Way.DOWNLOAD, Way.HALF_CLOSE])
def test_every_connection_gets_its_answer(way: Way) -> None:
    clients = clients_of(short.serve, way)
    assert clients.outcomes == Counter({Outcome.DONE: COUNT})
    assert not clients.examples


def test_answers_of_a_server_that_leaves_its_input_unread_arrive() -> None:
    async def run() -> Clients:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            answering = asyncio.create_task(short.answer_unread(listener))
            clients = Clients("127.0.0.1", listener.getsockname()[1] - 1, Way.UNREAD)
            await clients.run(COUNT, AT_ONCE)
            answering.cancel()
            return clients

    assert asyncio.run(run()).outcomes == Counter({Outcome.DONE: COUNT})


def test_answers_that_lack_something_are_wrong() -> None:
    clients = clients_of(cut, Way.HALF_CLOSE)
    assert clients.outcomes == Counter({Outcome.WRONG: COUNT})
    assert all("not the server's" in example for example in clients.examples)


def test_resets_are_counted() -> None:
    assert clients_of(reset, Way.DOWNLOAD).outcomes == Counter({Outcome.RESET: COUNT})


def test_what_does_not_go_on_is_hung(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(short, "HUNG_SECONDS", 1.0)
    clients = clients_of(hang, Way.HALF_CLOSE)
    assert clients.outcomes == Counter({Outcome.HUNG: COUNT})
    assert all("hung after 5 of " in example for example in clients.examples)
    assert len(clients.examples) < COUNT


def test_refusals_are_counted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    clients = Clients("127.0.0.1", port, Way.DOWNLOAD)
    asyncio.run(clients.run(COUNT, AT_ONCE))
    assert clients.outcomes == Counter({Outcome.REFUSED: COUNT})


def test_requests_and_answers_are_as_long_as_they_say() -> None:
    chance = random.Random(1)  # noqa: S311 -- no secrets
    assert {len(answer(request(Way.DOWNLOAD, chance))) for _ in range(100)} == {100_032}
    sizes = {len(answer(request(Way.HALF_CLOSE, chance))) for _ in range(1000)}
    assert min(sizes) < 100
    assert 1900 < max(sizes) < 2032
