"""A VM that is silent has the other muted, over real connections."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from fedsdn.mptcp.connection import tcp_info, unanswered
from fedsdn.proxy.relay import vm_watch
from fedsdn.proxy.relay.buffers import BufferPool
from fedsdn.proxy.relay.records import Kind, record
from fedsdn.proxy.relay.vm_watch import Sweep, VmWatch
from fedsdn.proxy.sockets import tcp, vm_liveness
from tests.unit.loopback import asynchronous, polling, tcp_pair
from tests.unit.relays import (
    Half,
    fill,
    ground,
    half_ground,
    has_something,
    is_reset,
    receive_until_reset,
)

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    vm, near = tcp_pair()
    with closing(vm), closing(near):
        vm_liveness.watch(near)
        yield vm, near


async def until_unanswered(vm: socket.socket) -> None:
    """Wait until a segment of the VM has been sent again in vain."""
    while not unanswered(vm):
        await asyncio.sleep(0.01)


async def until_acknowledged(vm: socket.socket) -> None:
    while tcp_info(vm).unacked:
        await asyncio.sleep(0.01)


@asynchronous
async def test_what_a_muted_vm_sends_waits_with_it(pair: Pair) -> None:
    vm, near = pair
    watch = VmWatch(near)
    watch.peer_says(silent=True)
    vm.send(b"hello")
    await until_unanswered(vm)
    assert not has_something(near)
    watch.peer_says(silent=False)
    await until_acknowledged(vm)
    assert near.recv(100) == b"hello"


@asynchronous
async def test_a_muted_vms_probes_end_its_connection_and_ours(pair: Pair) -> None:
    vm, near = pair
    for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT):
        vm.setsockopt(socket.IPPROTO_TCP, option, 1)
    vm.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    VmWatch(near).peer_says(silent=True)
    with pytest.raises(TimeoutError):
        await asyncio.get_running_loop().sock_recv(vm, 1)
    assert await is_reset(near), "its kernel has said so"


@asynchronous
async def test_a_vm_is_muted_when_it_has_what_was_under_way(pair: Pair) -> None:
    vm, near = pair
    watch = VmWatch(near)
    VmWatch(vm).peer_says(silent=True)  # so that it does not acknowledge
    near.send(b"answer")
    watch.peer_says(silent=True)
    vm_liveness.unmute(vm)
    await until_acknowledged(near)
    assert vm.recv(100) == b"answer"
    vm.send(b"x")
    await asyncio.get_running_loop().sock_recv(near, 1)
    watch.look()
    vm.send(b"y")
    await until_unanswered(vm)
    assert not has_something(near)


@asynchronous
async def test_a_silent_vm_is_told_of_again_and_again_and_its_return_once(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vm_watch, "SWEEP_SECONDS", 0.02)
    monkeypatch.setattr(vm_watch, "is_silent", lambda unanswered, _: unanswered >= 2)
    vm, near = pair
    told: list[bool] = []
    sweep = Sweep(lambda task, _error: task.cancel())
    with sweep.watching(near) as watch:
        watch.tell = told.append
        sweeping = asyncio.create_task(sweep.run())
        vm_liveness.mute(vm)  # it stands still
        near.send(b"?")
        while len(told) < 3:
            await asyncio.sleep(0.01)
        assert all(told)
        vm_liveness.unmute(vm)
        while told[-1]:
            await asyncio.sleep(0.01)
        told.clear()
        await asyncio.sleep(0.1)
        assert told == []
        sweeping.cancel()


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> list[socket.socket]:
    """Sockets whose VMs are taken for silent."""
    found: list[socket.socket] = []
    monkeypatch.setattr(vm_watch, "unanswered", lambda vm: 2 * (vm in found))
    monkeypatch.setattr(vm_watch, "is_silent", lambda unanswered, _: unanswered >= 2)
    return found


@asynchronous
async def test_data_that_are_read_late_hide_a_silence_for_a_moment_only(
    still: list[socket.socket],
) -> None:
    with ground(1 << 15, records=True) as g:
        running = g.start()
        here, there = (half.watch for half in g.halves)
        sent = await fill(g.server)
        still.append(g.halves[1].near)
        there.look()
        while not here.other_is_silent:
            await asyncio.sleep(0.01)
        while sent:
            sent -= len(await asyncio.get_running_loop().sock_recv(g.client, 1 << 16))
        assert not here.other_is_silent
        there.look()
        while not here.other_is_silent:
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.wait([running])


@asynchronous
async def test_nothing_is_said_of_silence_behind_a_reset(still: list[socket.socket]) -> None:
    with polling() as poller:
        client, near = tcp_pair()
        far, peer = tcp_pair()
        half = Half(near, far, poller, BufferPool(), records=True)
        running = asyncio.create_task(half.run())
        still.append(near)
        half.watch.look()
        await asyncio.sleep(0)
        vm_liveness.mute(peer)  # it does not acknowledge the reset yet
        tcp.reset(client)
        while not unanswered(far):
            await asyncio.sleep(0.01)
        still.clear()
        half.watch.look()
        vm_liveness.unmute(peer)
        with closing(client), closing(peer):
            got, reset = await receive_until_reset(peer)
        assert reset
        assert got == len(record(Kind.SILENT, 1) + record(Kind.RESET))
        await running


@asynchronous
async def test_a_fault_in_one_watch_resets_its_connection_alone(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: socket.socket) -> int:
        raise RuntimeError

    monkeypatch.setattr(vm_watch, "unanswered", fail)
    sweep = Sweep(lambda task, _error: task.cancel())

    async def connection() -> None:
        with sweep.watching(pair[1]):
            await asyncio.sleep(60)

    connected = asyncio.create_task(connection())
    sweeping = asyncio.create_task(sweep.run())
    with pytest.raises(asyncio.CancelledError):
        await connected
    assert not sweeping.done()
    sweeping.cancel()


@pytest.mark.parametrize(
    "sign_of_life",
    [record(Kind.SILENT, 0), record(Kind.DATA, 1) + b"!", record(Kind.END)],
    ids=["record", "data", "end of stream"],
)
@asynchronous
async def test_the_peers_records_mute_a_vm_and_end_that(sign_of_life: bytes) -> None:
    with half_ground() as (client, peer, running):
        peer.send(record(Kind.SILENT, 1))
        await asyncio.sleep(0)
        while not unanswered(client):
            client.send(b"x")
            await asyncio.sleep(0.1)
        peer.send(sign_of_life)
        await until_acknowledged(client)
        running.cancel()
        await asyncio.wait([running])
