"""Connections that wait for a peer's request."""

from __future__ import annotations

import asyncio
from unittest.mock import MagicMock

import pytest

from fedsdn.proxy.admission.carried import Carried
from fedsdn.proxy.socks import parked as module
from fedsdn.proxy.socks.parked import Parked
from fedsdn.proxy.socks.protocol import Reply, encode_reply
from tests.unit.loopback import asynchronous, tcp_pair, until


@asynchronous
async def test_a_fault_closes_the_connection() -> None:
    carried = MagicMock(spec=Carried)
    carried.carrying.side_effect = ValueError
    far, peer = tcp_pair()
    go_on = MagicMock()
    with far, peer:
        Parked(1, carried, MagicMock()).park(far, "b", go_on)
        await until(lambda: far.fileno() == -1)
    assert not go_on.called


@asynchronous
async def test_who_leaves_says_so_on_what_is_parked_and_on_what_comes_later() -> None:
    said = encode_reply(Reply.LEAVING)
    before, later = tcp_pair(), tcp_pair()
    go_on = MagicMock()
    with before[0], before[1], later[0], later[1]:
        parked = Parked(2, Carried(MagicMock()), MagicMock())
        parked.park(before[0], "b", go_on)
        assert len(parked.tasks) == 1
        parked.leave()
        parked.park(later[0], "b", go_on)
        loop = asyncio.get_running_loop()
        for _, peer in (before, later):
            assert await loop.sock_recv(peer, 100) == said
        before[1].send(b"a request that was under way")
        await until(lambda: go_on.called)
        assert before[0].fileno() != -1


@asynchronous
async def test_who_is_dismissed_is_told_so_and_what_is_under_way_is_taken() -> None:
    former, good = tcp_pair(), tcp_pair()
    go_on = MagicMock()
    with former[0], former[1], good[0], good[1]:
        parked = Parked(2, Carried(MagicMock()), MagicMock())
        for far, _ in (former, good):
            parked.park(far, "b", go_on)
        former[1].send(b"a request that was under way")
        for _ in range(2):
            parked.dismiss(lambda far, peer: far is good[0] and peer == "b")
        await until(lambda: go_on.called)
        said = await asyncio.get_running_loop().sock_recv(former[1], 100)
        assert said == encode_reply(Reply.LEAVING)
        assert former[0].fileno() != -1
        with pytest.raises(BlockingIOError):
            good[1].recv(1)


@asynchronous
async def test_who_does_not_end_what_it_is_told_to_is_reset_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LEAVING_SECONDS", 0.01)
    former, good = tcp_pair(), tcp_pair()
    with former[0], former[1], good[0], good[1]:
        parked = Parked(2, Carried(MagicMock()), MagicMock())
        for far, _ in (former, good):
            parked.park(far, "b", MagicMock())
        parked.dismiss(lambda far, _peer: far is good[0])
        await until(lambda: former[0].fileno() == -1)
        assert len(parked.tasks) == 1
        parked.leave()
        await until(lambda: not parked.tasks)


@asynchronous
async def test_who_does_not_read_that_we_leave_is_reset() -> None:
    far, peer = tcp_pair()
    with far, peer:
        with pytest.raises(BlockingIOError):  # noqa: PT012  (until it is full)
            while True:
                far.send(bytes(1 << 16))
        parked = Parked(2, Carried(MagicMock()), MagicMock())
        parked.park(far, "b", MagicMock())
        parked.leave()
        await until(lambda: far.fileno() == -1)
