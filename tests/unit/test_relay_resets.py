"""How a relay ends otherwise than in order: resets are passed on behind the data,
and nothing is left open."""

from __future__ import annotations

import asyncio
import socket

import pytest

from fedsdn.proxy.ended.record import Who
from fedsdn.proxy.sockets import tcp
from tests.unit.loopback import asynchronous, descriptors, receive, tcp_pair, until
from tests.unit.relays import (
    both_kinds,
    fill,
    ground,
    has_something,
    is_reset,
    receive_until_reset,
    wait_for_nobody,
)


@both_kinds
@pytest.mark.parametrize("who", [0, 1])
@asynchronous
async def test_a_reset_is_passed_on(who: int, records: bool) -> None:
    with ground(records=records) as g:
        running = g.start()
        tcp.reset(g.sides[who])
        assert await is_reset(g.sides[1 - who])
        await running
        if records:  # that counts, whatever breaks after it
            said = [half.ended[0] for half in g.halves]
            assert said[who] == (None, Who.VM_HERE)
            assert said[1 - who] == (None, Who.VM_THERE)


@both_kinds
@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize("writer", [0, 1])
@asynchronous
async def test_a_reset_is_passed_on_while_a_direction_is_held_up(
    who: int, writer: int, records: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_nobody(monkeypatch)
    with ground(1 << 14, records=records) as g:
        running = g.start()
        await fill(g.sides[writer])
        tcp.reset(g.sides[who])
        await running
        assert await is_reset(g.sides[1 - who])


@both_kinds
@pytest.mark.parametrize("who", [0, 1])
@asynchronous
async def test_a_reset_after_the_half_close_is_passed_on(who: int, records: bool) -> None:
    with ground(records=records) as g:
        running = g.start()
        g.client.shutdown(socket.SHUT_WR)
        assert (await receive(g.server))[0] == 0
        tcp.reset(g.sides[who])
        await running


@both_kinds
@asynchronous
async def test_cancelled_it_resets_both_sides(records: bool) -> None:
    with ground(records=records) as g:
        running = g.start()
        g.client.send(b"x")
        await until(lambda: g.sent == 1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await is_reset(g.client)
        assert await is_reset(g.server)


@asynchronous
async def test_a_connection_that_nobody_ended_in_order_is_reset_when_closed() -> None:
    client, near = tcp_pair()
    with client:
        tcp.prepare(near)
        near.close()
        assert await is_reset(client)


@asynchronous
async def test_a_connection_told_to_end_in_order_gets_everything_out() -> None:
    client, near = tcp_pair()
    with client:
        tcp.prepare(near)
        filled = await fill(near)
        tcp.end_in_order(near)
        near.close()
        assert (await receive(client))[0] == filled


@both_kinds
@pytest.mark.parametrize("size", [1, 60_000])
@pytest.mark.parametrize("who", [0, 1])
@asynchronous
async def test_what_was_sent_before_a_reset_arrives(who: int, size: int, records: bool) -> None:
    with ground(records=records) as g:
        one, other = g.sides[who], g.sides[1 - who]
        running = g.start()
        other.send(b"not read")
        await until(lambda: has_something(one))
        await asyncio.get_running_loop().sock_sendall(one, bytes(size))
        await until(lambda: tcp.unacknowledged(one) == 0)
        one.close()  # with unread data: a reset
        got, reset = await receive_until_reset(other)
        assert (got, reset) == (size, True)
        await running


@both_kinds
@asynchronous
async def test_nothing_of_what_may_not_be_used_is_passed_on(records: bool) -> None:
    with ground(records=records) as g:
        running = g.start()
        g.halves[0].trusted = False
        g.server.send(b"of a connection that fell back")
        assert await is_reset(g.client)
        assert g.received == 0
        await running


@pytest.mark.parametrize(
    ("end", "records"),
    [(end, records) for end in ("order", "reset", "cancel") for records in (False, True)],
)
@asynchronous
async def test_nothing_is_left_open(
    end: str, records: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_nobody(monkeypatch)
    before = len(descriptors())
    with ground(records=records) as g:
        running = g.start()
        await fill(g.client)
        if end == "order":
            g.client.close()
            await receive(g.server)
            g.server.close()
        elif end == "cancel":
            running.cancel()
        else:
            tcp.reset(g.client)
        await asyncio.wait([running])
    assert len(descriptors()) == before
