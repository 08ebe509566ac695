"""Relays between real TCP connections over loopback, for tests."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from fedsdn.proxy.ended.record import Reason, Who
from fedsdn.proxy.relay import from_peer
from fedsdn.proxy.relay import relay as relay_module
from fedsdn.proxy.relay.buffers import BufferPool
from fedsdn.proxy.relay.from_peer import FromPeer
from fedsdn.proxy.relay.poller import Poller
from fedsdn.proxy.relay.relay import Relay
from fedsdn.proxy.relay.stream import Stream, StreamRelay
from fedsdn.proxy.relay.to_peer import ToPeer
from fedsdn.proxy.relay.vm_watch import VmWatch
from fedsdn.proxy.relay.window import Budget, Window
from fedsdn.proxy.sockets import tcp
from tests.unit.loopback import polling, receive, tcp_pair


class Half:
    """A relay between ``near`` and ``far``, and what it has passed on."""

    def __init__(
        self,
        near: socket.socket,
        far: socket.socket,
        poller: Poller,
        buffers: BufferPool,
        *,
        records: bool,
    ) -> None:
        for sock in (near, far):
            tcp.prepare(sock)
        self.near, self.far = near, far
        self.sent = 0
        self.received = 0
        self.trusted = True
        self.window = Window(Budget(), "vm")
        self.watch = VmWatch(near)
        self.records = records
        self.ended: list[tuple[Reason | None, Who]] = []
        """What the relay says of the end of the connection."""
        self.relay = Relay(near, far, poller, buffers, self._streams, self._note_end)

    def _note_end(self, _task: object, reason: Reason | None, who: Who, _detail: str) -> None:
        self.ended.append((reason, who))

    def _streams(self, relay: StreamRelay) -> tuple[Stream, Stream]:
        near, far = self.near, self.far
        if not self.records:
            out = Stream(relay, near, far, self.count_sent)
            return out, Stream(relay, far, near, self.count_received, self.may_be_used)
        to_peer = ToPeer(relay, near, far, self.count_sent, self.window)
        self.watch.tell = to_peer.say_silence
        return to_peer, FromPeer(
            *(relay, far, near, self.count_received, to_peer, self.may_be_used, self.watch)
        )

    def may_be_used(self) -> bool:
        return self.trusted

    def count_sent(self, moved: int) -> None:
        self.sent += moved

    def count_received(self, moved: int) -> None:
        self.received += moved

    async def run(self) -> None:
        """Do as the proxy does: close the sockets when the relay is over."""
        with self.near, self.far:
            await self.relay.run()


class Ground:
    """client <-> near, far <-> server, and a relay between near and far.

    With records there are two relays, and records between them.
    """

    def __init__(
        self, poller: Poller, buffers: BufferPool, *, records: bool, buffer: int | None = None
    ) -> None:
        self.client, near = tcp_pair(buffer)
        far, self.server = tcp_pair(buffer)
        self.halves = []
        if records:
            middle, other = tcp_pair(buffer)
            self.halves.append(Half(far, other, poller, buffers, records=True))
            far = middle
        self.halves.insert(0, Half(near, far, poller, buffers, records=records))

    @property
    def near(self) -> socket.socket:
        return self.halves[0].near

    @property
    def far(self) -> socket.socket:
        return self.halves[0].far

    @property
    def sent(self) -> int:
        return self.halves[-1].received if len(self.halves) > 1 else self.halves[0].sent

    @property
    def received(self) -> int:
        return self.halves[0].received

    @property
    def sides(self) -> tuple[socket.socket, socket.socket]:
        return self.client, self.server

    def start(self) -> asyncio.Task[None]:
        return asyncio.create_task(self.run())

    async def run(self) -> None:
        others = [asyncio.create_task(half.run()) for half in self.halves[1:]]
        try:
            await self.halves[0].run()
        finally:
            if others:
                await asyncio.wait(others)

    def close(self) -> None:
        for sock in self.sides:
            sock.close()
        for half in self.halves:
            half.near.close()
            half.far.close()


@contextmanager
def ground(buffer: int | None = None, *, records: bool = False) -> Iterator[Ground]:
    with polling() as poller:
        made = Ground(poller, BufferPool(), records=records, buffer=buffer)
        try:
            yield made
        finally:
            made.close()


@contextmanager
def half_ground(
    buffer: int | None = None,
) -> Iterator[tuple[socket.socket, socket.socket, asyncio.Task[None]]]:
    """A VM's socket and a peer's, and the relay that runs between them."""
    with polling() as poller:
        client, near = tcp_pair(buffer)
        far, peer = tcp_pair(buffer)
        half = Half(near, far, poller, BufferPool(), records=True)
        try:
            yield client, peer, asyncio.create_task(half.run())
        finally:
            for sock in (client, near, far, peer):
                sock.close()


def wait_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have resets wait for data that nobody takes for a moment only."""
    monkeypatch.setattr(relay_module, "PEER_SECONDS", 0.1)
    for module in (relay_module, from_peer):
        monkeypatch.setattr(module, "VM_SECONDS", 0.1)


both_kinds = pytest.mark.parametrize("records", [False, True], ids=["bytes", "records"])


async def is_reset(sock: socket.socket) -> bool:
    """Read until the end; whether it is a reset."""
    try:
        await receive(sock)
    except ConnectionResetError:
        return True
    return False


def has_something(sock: socket.socket) -> bool:
    """Whether there is something to read."""
    return bool(select.select([sock], [], [], 0)[0])


async def receive_until_reset(sock: socket.socket) -> tuple[int, bool]:
    """Read to the end; how much came, and whether the end was a reset."""
    got = 0
    try:
        while data := await asyncio.get_running_loop().sock_recv(sock, 1 << 16):
            got += len(data)
    except ConnectionResetError:
        return got, True
    return got, False


async def fill(sock: socket.socket) -> int:
    """Send until nothing more is taken; return how much was."""
    filled, quiet = 0, 0
    while quiet < 20:
        with suppress(BlockingIOError):
            filled += sock.send(bytes(1 << 16))
            quiet = 0
            continue
        quiet += 1
        await asyncio.sleep(0.005)
    return filled


async def nothing_comes(g: Ground) -> None:
    await asyncio.get_running_loop().sock_recv(g.far, 1)
    raise AssertionError
