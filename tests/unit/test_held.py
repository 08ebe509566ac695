"""Connections that VMs are opening: how many there may be, and what ends them."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address

import pytest

from fedsdn.proxy.opening import held as module
from fedsdn.proxy.opening.held import (
    MOST_EARLY,
    MOST_FORGOTTEN,
    MOST_HELD,
    MOST_OF_PEER,
    Opening,
    Openings,
)
from fedsdn.proxy.opening.segments import RST, SYN, Segment
from fedsdn.proxy.opening.tables import HeldTuples
from fedsdn.socket_address import SocketAddress
from tests.unit.loopback import asynchronous, until

WEB = SocketAddress(ip_address("10.2.0.11"), 80)


def segment(port: int, vm: str = "10.1.0.11", flags: int = SYN, sequence: int = 100) -> Segment:
    client = SocketAddress(ip_address(vm), port)
    return Segment(b"", client, WEB, flags, sequence, int(flags == SYN), 0)


class Worker:
    """What is held, and what was handed in."""

    def __init__(self) -> None:
        self.tuples = HeldTuples(1)
        self.count = 0
        self.openings = Openings(0, self.tuples, self._count)
        self.handed_in: list[Segment] = []

    def _count(self, change: int) -> None:
        self.count += change

    def hold(self, syn: Segment, peer: str = "b", *, early: bool = False) -> Opening:
        opening = Opening(syn, peer, early=early, hand_in=self.handed_in.append)
        self.openings.add(opening)
        return opening


@asynchronous
async def test_one_vm_takes_half_and_leaves_the_rest_to_others() -> None:
    worker = Worker()
    port = 1024
    while worker.openings.allow(segment(port).client, "b"):
        worker.hold(segment(port))
        port += 1
    assert worker.count == MOST_HELD // 2
    assert worker.openings.allow(segment(1, "10.1.0.12").client, "b")


@asynchronous
async def test_all_vms_together_have_no_more_than_there_are() -> None:
    worker = Worker()
    for number in range(4000):
        syn = segment(1024 + number // 250, f"10.1.1.{number % 250}")
        if worker.openings.allow(syn.client, peer := "bc"[number % 2]):
            worker.hold(syn, peer)
    assert worker.count == MOST_HELD


@asynchronous
async def test_what_came_to_nothing_counts_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AFTERMATH_SECONDS", 0.05)
    worker = Worker()
    held = [worker.hold(segment(1024 + number)) for number in range(MOST_HELD // 2)]
    for opening in held:
        worker.openings.end(opening)
        worker.openings.end(opening)
    assert worker.count == 0
    client = segment(1).client
    assert not worker.openings.allow(client, "b")
    await until(lambda: worker.openings.allow(client, "b"))


@asynchronous
async def test_what_is_accepted_counts_no_more() -> None:
    worker = Worker()
    held = [worker.hold(segment(1024 + number)) for number in range(MOST_HELD // 2)]
    near, other = socket.socketpair()
    with near, other:
        letting_in = asyncio.create_task(held[0].let_in())
        await asyncio.sleep(0)
        worker.openings.accept(held[0], near)
        assert await letting_in is near
        assert worker.openings.allow(segment(1).client, "b")
        worker.openings.end(held[0])
        assert near.fileno() == -1


@asynchronous
async def test_few_handshakes_may_be_unfinished_before_destinations_are_asked() -> None:
    worker = Worker()
    held = [worker.hold(segment(1024 + n), early=True) for n in range(MOST_EARLY)]
    assert not worker.openings.allow_early(segment(1).client)
    assert worker.openings.allow_early(segment(1, "10.1.0.12").client)
    worker.openings.end(held[0])
    assert worker.openings.allow_early(segment(1).client)


@asynchronous
async def test_a_repeated_syn_is_handed_in_again_once_the_first_was() -> None:
    worker = Worker()
    opening = worker.hold(segment(1024))
    newer = segment(1024, sequence=200)
    opening.repeated(newer)
    assert worker.handed_in == []
    letting_in = asyncio.create_task(opening.let_in())
    await asyncio.sleep(0)
    assert worker.handed_in == [newer]
    opening.repeated(newer)
    assert worker.handed_in == [newer, newer]
    worker.openings.end(opening)
    with pytest.raises(asyncio.CancelledError):
        await letting_in


@pytest.mark.parametrize(("sequence", "believed"), [(100, True), (101, True), (102, False)])
@asynchronous
async def test_only_a_reset_with_the_right_number_is_believed(
    sequence: int, believed: bool
) -> None:
    opening = Worker().hold(segment(1024))
    assert opening.is_reset_by(segment(1024, flags=RST, sequence=sequence)) is believed


@asynchronous
async def test_a_repeated_syn_that_was_read_late_is_known_as_such() -> None:
    worker = Worker()
    opening = worker.hold(segment(1024))
    near, other = socket.socketpair()
    with near, other:
        letting_in = asyncio.create_task(opening.let_in())
        await asyncio.sleep(0)
        worker.openings.accept(opening, near)
        await letting_in
        assert worker.openings.is_late(segment(1024))
        assert not worker.openings.is_late(segment(1024, sequence=101)), "a new connection"
        assert not worker.openings.is_late(segment(1025))
        worker.openings.end(opening)
        assert not worker.openings.is_late(segment(1024))


@asynchronous
async def test_others_see_what_is_held() -> None:
    worker = Worker()
    opening = worker.hold(segment(1024))
    assert worker.tuples.is_held(segment(1024).client, WEB)
    worker.openings.end(opening)
    assert not worker.tuples.is_held(segment(1024).client, WEB)


@asynchronous
async def test_others_find_room_when_many_sources_fill_every_place() -> None:
    """Those sources may be forged: nobody is behind them."""
    worker = Worker()
    given_up: list[int] = []
    for number in range(4 * MOST_HELD):
        syn = segment(1024 + number, f"10.1.{number % 1000 // 250}.{number % 250}")
        if worker.openings.allow(syn.client, "b"):
            worker.hold(syn).give_up = lambda *_, number=number: given_up.append(number)
    assert worker.count <= MOST_HELD
    assert given_up == sorted(given_up)
    assert len(given_up) <= MOST_FORGOTTEN
    given_up.clear()
    worker.openings._forgotten = 0  # a second later
    assert worker.openings.allow(segment(1, "10.1.9.12").client, "b")
    assert len(given_up) == 1


@asynchronous
async def test_what_was_handed_in_is_not_forgotten() -> None:
    worker = Worker()
    for number in range(MOST_HELD):
        syn = segment(1024, f"10.1.{number // 250}.{number % 250}")
        if worker.openings.allow(syn.client, "b"):
            worker.hold(syn).handed_in = True
    assert not worker.openings.allow(segment(1, "10.1.9.12").client, "b")


@asynchronous
async def test_a_peer_that_does_not_answer_leaves_places_to_others() -> None:
    worker = Worker()
    for number in range(MOST_HELD):
        syn = segment(1024 + number, f"10.1.1.{number % 99}")
        if worker.openings.allow(syn.client, "b"):
            worker.hold(syn, "b")
    assert worker.count == MOST_OF_PEER
    assert worker.openings.allow(segment(1, "10.1.1.1").client, "c")


@asynchronous
async def test_a_vm_that_was_answered_gets_its_place_back_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ANSWERED_SECONDS", 0.05)
    worker = Worker()
    client = segment(1).client
    for number in range(MOST_HELD // 2):
        opening = worker.hold(segment(1024 + number))
        opening.answered = True
        worker.openings.end(opening)
    assert not worker.openings.allow(client, "b")
    await until(lambda: worker.openings.allow(client, "b"))


@asynchronous
async def test_what_is_prohibited_counts_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWERED_SECONDS", 0.05)
    worker = Worker()
    client = segment(1).client
    told = 0
    while worker.openings.allow(client, ""):
        worker.openings.prohibit(client, "")
        told += 1
    assert told == MOST_HELD // 2
    await until(lambda: worker.openings.allow(client, ""))
