"""Two VMs that connect to each other at once, from the same two ports (RFC 9293, section 3.5)."""

from __future__ import annotations

import errno
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from fedsdn.lab.lab import Lab
from tests.real.test_proxy_lab import (
    LIMIT_SECONDS,
    Vm,
    is_reset,
    receive,
    send,
    wait_until_all_ended,
)

pytestmark = pytest.mark.real

ROUNDS = 20
_FIRST_PORT = 42_000


@pytest.fixture
def vms(lab: Lab, family: int) -> Iterator[tuple[Vm, Vm]]:
    yield Vm(lab, "a", "vm1", family), Vm(lab, "b", "vm2", family)
    wait_until_all_ended(lab)


def opened_by_both(stack: ExitStack, vms: tuple[Vm, Vm], port: int) -> list[socket.socket]:
    """Have both connect at the same moment: one that were far too late would refuse the other."""
    ends = []
    for vm in vms:
        end = stack.enter_context(vm.namespace.open(vm.address))
        end.bind((vm.address, port))
        ends.append(end)
    for end, other in zip(ends, reversed(vms), strict=True):
        end.setblocking(False)
        assert end.connect_ex((other.address, port)) == errno.EINPROGRESS
    for end in ends:
        assert select.select([], [end], [], LIMIT_SECONDS)[1] == [end]
        assert end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        end.settimeout(LIMIT_SECONDS)
    return ends


def test_it_is_one_connection(vms: tuple[Vm, Vm]) -> None:
    for number in range(ROUNDS):
        with ExitStack() as stack:
            one, other = opened_by_both(stack, vms, _FIRST_PORT + number)
            for sender, receiver, said in ((one, other, b"from one"), (other, one, b"from other")):
                sender.sendall(said)
                assert receiver.recv(100) == said
            one.shutdown(socket.SHUT_WR)
            assert other.recv(1) == b""
            other.sendall(b"still")
            assert one.recv(100) == b"still"
            other.close()
            assert one.recv(1) == b""


def test_much_data_go_both_ways(vms: tuple[Vm, Vm]) -> None:
    with ExitStack() as stack:
        ends = opened_by_both(stack, vms, _FIRST_PORT - 1)
        hashes: dict[int, bytes] = {}

        def run(number: int) -> None:
            hashes[number] = send(ends[number], number)

        threads = [threading.Thread(target=run, args=(number,)) for number in (0, 1)]
        readers = [
            threading.Thread(
                target=lambda at=number: hashes.__setitem__(10 + at, receive(ends[at]))
            )
            for number in (0, 1)
        ]
        for thread in (*threads, *readers):
            thread.start()
        for thread in (*threads, *readers):
            thread.join()
        assert (hashes[10], hashes[11]) == (hashes[1], hashes[0])


def test_a_reset_is_passed_on(vms: tuple[Vm, Vm]) -> None:
    with ExitStack() as stack:
        one, other = opened_by_both(stack, vms, _FIRST_PORT - 2)
        other.sendall(b"?")
        assert one.recv(1) == b"?"
        one.sendall(b"said before")
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
        one.close()
        assert other.recv(100) == b"said before"
        assert is_reset(other)
