"""Events of many sockets in one loop: a fault in handling one connection harms no other."""

from __future__ import annotations

import asyncio
import select
import socket
from contextlib import ExitStack

import pytest

from fedsdn.proxy.relay.buffers import BufferPool
from fedsdn.proxy.relay.poller import Poller
from tests.unit.loopback import asynchronous, polling, receive, send, tcp_pair, until
from tests.unit.relays import Ground, is_reset

FAULT = "a connection is reset: handling it failed"


def fail(*_: object) -> None:
    raise RuntimeError("broken")


@asynchronous
async def test_one_callback_that_raises_takes_no_event_of_the_others_along(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All sockets are readable in one batch: what is not handled then is never reported again."""
    served: list[int] = []

    async def watch(poller: Poller, sock: socket.socket, number: int) -> None:
        def on_events(events: int) -> None:
            if events & select.EPOLLIN:
                if number == 0:
                    fail()
                served.append(number)

        with sock, poller.watch(sock, on_events):
            await asyncio.Event().wait()

    with polling() as poller, ExitStack() as stack:
        pairs = [tcp_pair() for _ in range(20)]
        tasks = [
            asyncio.create_task(watch(poller, near, number))
            for number, (_, near) in enumerate(pairs)
        ]
        await asyncio.sleep(0)
        for vm, _ in pairs:
            stack.enter_context(vm).send(b"x")
        await until(tasks[0].done)
        assert tasks[0].cancelled()
        assert sorted(served) == [*range(1, 20)]
        for task in tasks[1:]:
            task.cancel()
        await asyncio.wait(tasks)
    assert [record.getMessage().splitlines()[0] for record in caplog.records] == [FAULT]


@pytest.mark.parametrize("records", [False, True], ids=["bytes", "records"])
@asynchronous
async def test_a_relay_that_fails_is_reset_at_both_ends_and_the_others_go_on(
    records: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with polling() as poller, ExitStack() as stack:
        grounds = [Ground(poller, BufferPool(), records=records) for _ in range(10)]
        for ground in grounds:
            stack.callback(ground.close)
        running = [ground.start() for ground in grounds]
        await asyncio.sleep(0)
        broken = grounds[3].halves[0].relay
        monkeypatch.setattr(broken._outward, "source_has_news", fail)
        for ground in grounds:
            ground.client.send(b"x")
        assert await is_reset(grounds[3].client)
        assert await is_reset(grounds[3].server)
        for ground in grounds[:3] + grounds[4:]:
            assert await asyncio.get_running_loop().sock_recv(ground.server, 10) == b"x"
            sent, received = await asyncio.gather(
                send(ground.client, 100_000, 1), receive(ground.server)
            )
            assert received == (100_000, sent)
            ground.server.shutdown(socket.SHUT_WR)
        await asyncio.wait(running)
    assert [record.getMessage().splitlines()[0] for record in caplog.records] == [FAULT]


@asynchronous
async def test_a_relay_that_fails_later_is_reset_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with polling() as poller:
        ground = Ground(poller, BufferPool(), records=False)
        running = ground.start()
        await asyncio.sleep(0)
        ground.halves[0].relay.soon(fail)
        assert await is_reset(ground.client)
        assert await is_reset(ground.server)
        await asyncio.wait([running])
        ground.close()
    assert [record.getMessage().splitlines()[0] for record in caplog.records] == [FAULT]
