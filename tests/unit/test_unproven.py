"""Callers before they have proved who they are: few, for a short time, and the peer among them."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from ipaddress import ip_address
from unittest.mock import MagicMock

import pytest

from fedsdn.config.model import Address, Site
from fedsdn.proxy.admission import unproven as module
from fedsdn.proxy.admission.policy import NOT_A_PEER, Refusal
from fedsdn.proxy.admission.unproven import NotProvenError, Unproven, _Caller
from fedsdn.proxy.ended import summed
from fedsdn.proxy.ended.record import Ended, Reason
from fedsdn.socket_address import SocketAddress
from tests.unit.federations import two_sites
from tests.unit.loopback import asynchronous, tcp_pair, until

PEER = two_sites().sites[1]
ONE, OTHER, NOBODY = (ip_address(text) for text in ("192.0.2.2", "192.0.2.3", "192.0.2.9"))
MOST = 8


def peer_behind(address: Address) -> Site | Refusal:
    return NOT_A_PEER if address == NOBODY else PEER


class Door:
    """Lets callers in who say ``!``; who says ``?`` may say more, anything else is wrong."""

    def __init__(
        self, stack: ExitStack, any_of: Callable[[Sequence[_Caller]], _Caller] = secrets.choice
    ) -> None:
        self.stack = stack
        self.kept: list[Ended] = []
        self.in_: list[tuple[SocketAddress, socket.socket]] = []
        self.asked = 0
        self.unproven = Unproven(MOST, peer_behind, self.meet, self.kept.append, any_of)

    async def meet(self, far: socket.socket, name: SocketAddress) -> Callable[[], object]:
        self.asked += 1
        said = b"?"
        while said == b"?":
            said = await asyncio.get_running_loop().sock_recv(far, 1)
        if said == b"x":
            raise RuntimeError("broken")
        if said == b"-":
            raise ConnectionResetError
        if said != b"!":
            raise NotProvenError(Reason.GARBLED, "not the word")
        return lambda: self.in_.append((name, far))

    def call(self, address: Address = ONE, say: bytes = b"") -> socket.socket:
        near, far = tcp_pair()
        self.stack.callback(near.close)
        self.unproven.take(far, SocketAddress(address, near.getsockname()[1]))
        if say:
            near.send(say)
        return near

    @property
    def counted(self) -> Counter[Reason]:
        found: Counter[Reason] = Counter()
        for one in self.kept:
            found[one.reason] += one.count
        return found


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[ExitStack]:
    monkeypatch.setattr(summed, "_EVERY_SECONDS", 0.01)
    with ExitStack() as opened:
        yield opened


def is_open(near: socket.socket) -> bool:
    try:
        return near.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


def close_all(door: Door) -> None:
    for _, far in door.in_:
        far.close()


@asynchronous
async def test_who_proves_it_is_let_in_and_leaves_no_record(stack: ExitStack) -> None:
    door = Door(stack)
    near = door.call(say=b"!")
    await until(lambda: bool(door.in_))
    assert [name for name, _ in door.in_] == [SocketAddress(ONE, near.getsockname()[1])]
    assert is_open(near)
    close_all(door)
    assert len(door.unproven) == 0
    await door.unproven.wind_up()
    assert door.kept == []


@asynchronous
async def test_who_is_no_peer_or_says_something_else_is_closed_and_counted(
    stack: ExitStack,
) -> None:
    door = Door(stack)
    nears = [door.call(NOBODY), door.call(say=b"G"), door.call(say=b"G")]
    await until(lambda: door.counted.total() == 3)
    assert door.counted == {Reason.NOT_A_PEER: 1, Reason.GARBLED: 2}
    assert {one.reason: (one.peer, one.detail, one.count) for one in door.kept} == {
        Reason.NOT_A_PEER: ("", f"from {NOBODY}", 1),
        Reason.GARBLED: (PEER.name, f"from {ONE}: not the word", 2),
    }
    assert not any(is_open(near) for near in nears)
    assert len(door.unproven) == 0


@asynchronous
async def test_the_silent_cost_no_task_and_end_in_time(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PROOF_SECONDS", 0.5)
    door = Door(stack)
    silent, slow = door.call(), door.call(say=b"?")
    await until(lambda: door.counted[Reason.SILENT_CALLER] == 2)
    assert door.asked == 1
    await until(lambda: not is_open(silent) and not is_open(slow))
    assert len(door.unproven) == 0


@asynchronous
async def test_of_many_of_one_address_the_oldest_are_shed_and_others_keep_theirs(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once they have had the time that the peer needs."""
    monkeypatch.setattr(module, "_TURNS_SECONDS", -1000.0)
    door = Door(stack)
    other = door.call(OTHER)
    many = [door.call(say=b"?" * (number % 2)) for number in range(100)]
    assert len(door.unproven) == MOST // 2 + 1
    await until(lambda: door.counted[Reason.CROWDED] == 100 - MOST // 2)
    assert [is_open(near) for near in many] == [False] * (100 - MOST // 2) + [True] * (MOST // 2)
    for near in (other, many[-1], door.call()):
        near.send(b"!")
    await until(lambda: len(door.in_) == 3)
    await door.unproven.wind_up(0)
    close_all(door)


@asynchronous
async def test_who_has_said_nothing_is_shed_before_who_has(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer needs a round trip more, and is the oldest soon; but it has spoken at once."""
    monkeypatch.setattr(module, "_TURNS_SECONDS", 1000.0)
    monkeypatch.setattr(module, "_SPEAKS_SECONDS", 0.0)
    door = Door(stack)
    peer = door.call(say=b"?")
    await until(lambda: door.asked == 1)
    silent = [door.call() for _ in range(100)]
    await until(lambda: door.counted[Reason.CROWDED] == 101 - MOST // 2)
    assert [is_open(near) for near in silent[-(MOST // 2) :]] == [False] + [True] * (MOST // 2 - 1)
    peer.send(b"!")
    await until(lambda: len(door.in_) == 1)
    await door.unproven.wind_up(0)
    close_all(door)


@asynchronous
async def test_who_is_only_about_to_speak_is_not_shed_before_others(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SPEAKS_SECONDS", 1000.0)
    monkeypatch.setattr(module, "_TURNS_SECONDS", -1000.0)
    door = Door(stack)
    strangers = [door.call(say=b"?") for _ in range(MOST // 2)]
    await until(lambda: door.asked == MOST // 2)
    peers = [door.call() for _ in range(2)]
    await until(lambda: door.counted[Reason.CROWDED] == 2)
    assert [is_open(near) for near in strangers] == [False, False, True, True]
    assert all(is_open(near) for near in peers)
    await door.unproven.wind_up(0)


@asynchronous
async def test_of_many_that_have_not_had_their_time_any_is_shed(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest of them would be the peer, whose round trips are longer than its neighbours'."""
    monkeypatch.setattr(module, "_SPEAKS_SECONDS", 1000.0)
    monkeypatch.setattr(module, "_TURNS_SECONDS", 1000.0)
    shed_at: list[int] = []

    def last(crowd: Sequence[_Caller]) -> _Caller:
        shed_at.append(len(crowd))
        return crowd[-1]

    door = Door(stack, last)
    peer = door.call(say=b"?")
    strangers = [door.call(say=b"?") for _ in range(20)]
    assert shed_at == [MOST // 2] * (21 - MOST // 2)
    await until(lambda: door.asked == MOST // 2)
    assert [is_open(near) for near in strangers] == [True, True, *[False] * 17, True]
    peer.send(b"!")
    await until(lambda: len(door.in_) == 1)
    await door.unproven.wind_up(0)
    close_all(door)


@asynchronous
async def test_of_those_who_have_not_had_their_time_and_others_the_others_are_shed(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time is counted in round trips: somebody far away has more of it."""
    monkeypatch.setattr(module, "_SPEAKS_SECONDS", 1000.0)
    monkeypatch.setattr(module, "_TURNS_SECONDS", 0.0)
    monkeypatch.setattr(module, "_round_trip_seconds", lambda _: 1000.0)
    door = Door(stack)
    peer = door.call(say=b"?")
    monkeypatch.setattr(module, "_round_trip_seconds", lambda _: 0.0)
    strangers = [door.call(say=b"?") for _ in range(20)]
    await until(lambda: door.asked == MOST // 2)
    kept = MOST // 2 - 1
    assert [is_open(near) for near in strangers] == [False] * (20 - kept) + [True] * kept
    peer.send(b"!")
    await until(lambda: len(door.in_) == 1)
    await door.unproven.wind_up(0)
    close_all(door)


def test_a_caller_that_acknowledges_late_gets_no_more_time_than_the_longest_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    far = MagicMock(spec=socket.socket)
    for microseconds, seconds in ((20_000, 0.02), (60_000_000, 0.3)):
        info = MagicMock(return_value=MagicMock(rtt=microseconds))
        monkeypatch.setattr(module, "tcp_info", info)
        assert module._round_trip_seconds(far) == pytest.approx(seconds)


@asynchronous
async def test_of_many_addresses_the_one_with_most_gives_way(stack: ExitStack) -> None:
    door = Door(stack)
    crowd = [door.call() for _ in range(3)]
    others = [door.call(ip_address(f"198.51.100.{number}")) for number in range(MOST - 2)]
    assert len(door.unproven) == MOST
    await until(lambda: bool(door.kept))
    assert sum(is_open(near) for near in crowd) == len(crowd) - 1
    assert all(is_open(near) for near in others)
    await door.unproven.wind_up(0)


@asynchronous
async def test_a_fault_is_recorded_and_who_has_gone_is_not(
    stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    door = Door(stack)
    door.call().close()
    door.call(say=b"-")
    near = door.call(say=b"x")
    await until(lambda: bool(door.kept) and not is_open(near))
    assert [(one.reason, one.detail) for one in door.kept] == [
        (Reason.FAULT, "RuntimeError: broken")
    ]
    assert "RuntimeError: broken" in caplog.text
    await until(lambda: len(door.unproven) == 0)
    assert door.asked == 2


@asynchronous
async def test_at_the_end_who_proves_it_is_let_in_and_nobody_is_left(stack: ExitStack) -> None:
    door = Door(stack)
    late, silent = door.call(say=b"?"), door.call()
    await until(lambda: door.asked == 1)
    ending = asyncio.create_task(door.unproven.wind_up(2.0))
    await asyncio.sleep(0)
    late.send(b"!")
    await ending
    assert len(door.in_) == 1
    assert len(door.unproven) == 0
    assert not is_open(silent)
    close_all(door)
