"""Sockets handed from one worker to another, between real processes."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from multiprocessing.connection import Connection

import pytest

from fedsdn.proxy.sockets import handover
from fedsdn.proxy.sockets.handover import ANSWER_SECONDS, Handover
from fedsdn.socket_address import SocketAddress
from tests.unit.loopback import asynchronous, tcp_pair, until

CLIENT = SocketAddress(ip_address("10.1.0.11"), 4000)
DESTINATION = SocketAddress(ip_address("10.2.0.11"), 5000)


@pytest.fixture(autouse=True)
def own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests, and proxies, may run in the same network namespace."""
    monkeypatch.setattr(handover, "_NAME", f"\0test-handover-{os.getpid()}-{{}}")


@contextmanager
def worker(number: int, workers: int) -> Iterator[Handover]:
    one = Handover(number, workers)
    run = asyncio.get_running_loop().create_task(one.run())
    try:
        yield one
    finally:
        run.cancel()
        one.close()


def _offer(number: int, workers: int, near: socket.socket, control: Connection) -> None:
    """What another worker does, as a process of its own: offer a socket until told to end."""

    async def run() -> None:
        with worker(number, workers) as one, one.offering(CLIENT, DESTINATION, near):
            control.send("ready")
            await asyncio.to_thread(control.recv)

    asyncio.run(run())


@contextmanager
def another_process(number: int, workers: int, near: socket.socket) -> Iterator[None]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(
        target=_offer, args=(number, workers, near, theirs)
    )
    process.start()
    try:
        assert ours.recv() == "ready"
        yield
    finally:
        ours.send("end")
        process.join()


@asynchronous
async def test_a_socket_of_another_process_can_be_written_to() -> None:
    near, vm = tcp_pair()
    with vm, another_process(2, 3, near), worker(0, 3) as one:
        near.close()
        found = await one.taken(CLIENT, DESTINATION)
        assert found is not None
        with found:
            assert not found.getblocking()
            found.send(b"from the peer")
            assert await asyncio.get_running_loop().sock_recv(vm, 100) == b"from the peer"
        assert await one.taken(DESTINATION, CLIENT) is None


@asynchronous
async def test_what_nobody_has_is_said_at_once_although_a_worker_is_missing() -> None:
    with worker(0, 4) as one, worker(1, 4), worker(3, 4):
        async with asyncio.timeout(ANSWER_SECONDS / 2):
            assert await one.taken(CLIENT, DESTINATION) is None


@asynchronous
async def test_the_own_socket_is_found_for_as_long_as_it_is_offered() -> None:
    near, vm = tcp_pair()
    with near, vm, worker(0, 2) as one, worker(1, 2) as other:
        with one.offering(CLIENT, DESTINATION, near):
            for asking in (one, other):
                found = await asking.taken(CLIENT, DESTINATION)
                assert found is not None
                assert found.getsockname() == near.getsockname()
                found.close()
        assert await other.taken(CLIENT, DESTINATION) is None


@asynchronous
async def test_a_worker_that_does_not_answer_is_not_waited_for() -> None:
    with worker(0, 2) as one, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as silent:
        silent.bind(handover._NAME.format(1))
        began = asyncio.get_running_loop().time()
        assert await one.taken(CLIENT, DESTINATION) is None
        assert ANSWER_SECONDS <= asyncio.get_running_loop().time() - began < 4 * ANSWER_SECONDS


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"{",
        b"7",
        b"[1]",
        b'[["x", 1], ["y", 2]]',
        b'[["10.1.0.11", []], ["10.2.0.11", 1]]',
        b"\xff" * 99,
    ],
)
@asynchronous
async def test_garbage_is_answered_with_nothing(garbage: bytes) -> None:
    with worker(0, 1):
        await _nothing_is_answered_to(garbage)


@asynchronous
async def test_who_has_no_name_is_not_answered_and_others_are() -> None:
    """Any process of the namespace can send: that must not end the part, and the worker with it."""
    with worker(0, 1), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nobody:
        nobody.sendto(b"{", handover._NAME.format(0))
        await _nothing_is_answered_to(b"{")


async def _nothing_is_answered_to(question: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        stranger.setblocking(False)
        stranger.bind("")
        stranger.sendto(question, handover._NAME.format(0))
        answers: list[bytes] = []
        asyncio.get_running_loop().add_reader(
            stranger.fileno(), lambda: answers.append(stranger.recv(10))
        )
        await until(lambda: answers == [b"-"])
        asyncio.get_running_loop().remove_reader(stranger.fileno())
