"""What is sent arrives, whatever ends a connection: between two sites as between neighbours.

Also while the application is stopped: it may lose nothing that would arrive without it.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from fedsdn.bench.cases import Control
from fedsdn.bench.rig import Rig
from fedsdn.cli.views import lab_views
from fedsdn.lab.lab import Lab
from tests.real.test_proxy_lab import Vm, connections, wait_until_all_ended

pytestmark = pytest.mark.real

ANSWERS = 100
STALLED = 40
_STALLED_SECONDS = 1.0
MOST_KILOBYTES = 2700
"""For each stalled connection, on both hosts and in both VMs; 0.7 MB between neighbours."""


@pytest.fixture(scope="module", params=["near", "far", "far, application stopped"])
def far_site(request: pytest.FixtureRequest, lab: Lab) -> Iterator[str]:
    """Return the site of the VM that answers one of site a: the same must be true of all."""
    if request.param != "far, application stopped":
        yield {"near": "a", "far": "b"}[request.param]
        return
    rig = Rig(lab, lab_views(lab))
    rig.put(Control.KERNEL)
    try:
        yield "b"
    finally:
        rig.put(Control.APPLICATION)


@pytest.fixture
def ends(lab: Lab, far_site: str, family: int) -> Iterator[tuple[Vm, Vm]]:
    """Return the VM that opens connections, and the one that answers."""
    yield Vm(lab, "a", "vm1", family), Vm(lab, far_site, "vm2", family)
    wait_until_all_ended(lab)


def test_an_answer_arrives_though_its_server_closes_with_unread_input(
    ends: tuple[Vm, Vm],
) -> None:
    """As HTTP 413, SMTP and Redis do: the answer, then a reset."""
    answer = b"413 Payload Too Large".ljust(3000)
    lost = 0
    for _ in range(ANSWERS):
        with connections(*ends) as [(client, server)]:
            client.sendall(b"POST" + bytes(20_000))
            assert server.recv(4) == b"POST"
            server.sendall(answer)
            server.close()
            lost += read(client)[0] != answer
    assert lost == 0


@pytest.mark.parametrize("who", [0, 1])
def test_what_follows_an_urgent_byte_arrives(ends: tuple[Vm, Vm], who: int) -> None:
    with connections(*ends) as [pair]:
        sender, receiver = pair[who], pair[1 - who]
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        sender.sendall(b"abc")
        sender.send(b"!", socket.MSG_OOB)
        sender.sendall(b"def")
        sender.shutdown(socket.SHUT_WR)
        assert read(receiver) == (b"abc!def", False)


def test_a_reset_after_data_is_seen_after_them(ends: tuple[Vm, Vm]) -> None:
    for _ in range(ANSWERS // 5):
        with connections(*ends) as [(client, server)]:
            server.sendall(b"not read")
            client.recv(1, socket.MSG_PEEK)
            client.sendall(bytes(10_000))
            client.close()
            assert read(server) == (bytes(10_000), True)


def test_readers_who_do_not_read_hold_little_memory(ends: tuple[Vm, Vm]) -> None:
    before = tcp_kilobytes()
    with connections(*ends, STALLED) as pairs:
        fill([client for client, _ in pairs])
        held = tcp_kilobytes() - before
    assert held < STALLED * MOST_KILOBYTES, f"{held // STALLED} KiB each"


def read(sock: socket.socket) -> tuple[bytes, bool]:
    """Read to the end: what came, and whether the end was a reset."""
    received = bytearray()
    try:
        while data := sock.recv(1 << 16):
            received += data
    except ConnectionResetError:
        return bytes(received), True
    return bytes(received), False


def fill(senders: list[socket.socket]) -> None:
    """Send on all until for a moment none takes more."""
    for sock in senders:
        sock.setblocking(False)
    while select.select([], senders, [], _STALLED_SECONDS)[1]:
        for sock in senders:
            with suppress(BlockingIOError):
                while True:
                    sock.send(bytes(1 << 16))


def tcp_kilobytes() -> int:
    """Memory of all TCP sockets of this machine (proc(5))."""
    lines = Path("/proc/net/sockstat").read_text().splitlines()
    (fields,) = [line.split() for line in lines if line.startswith("TCP:")]
    return int(fields[fields.index("mem") + 1]) * 4
