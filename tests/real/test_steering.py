"""The queue of a TUN device that a packet comes to."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from fedsdn.lab.namespaces import Namespace
from fedsdn.site import steering, tun

pytestmark = pytest.mark.real

QUEUES = 4
DEVICE = "tun-test"


@pytest.fixture(scope="module")
def inside() -> Iterator[tuple[Namespace, list[int]]]:
    """A namespace that routes everything into a device with four queues."""
    name = f"test-{os.getpid()}-steering"

    def ip(words: str) -> None:
        subprocess.run(["ip", "-n", name, *words.split()], check=True)

    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        namespace = Namespace(Path("/run/netns") / name)
        namespace.call(lambda: tun.make(DEVICE))
        queues = namespace.call(lambda: [_queue() for _ in range(QUEUES)])
        loaded = steering.load()
        steering.steer(queues[0], loaded)
        os.close(loaded)
        ip(f"link set {DEVICE} up")
        for address, route in (("10.1.0.11/24", "10.2.0.0/24"), ("fd00:1::11/64", "fd00:2::/64")):
            ip(f"address add {address} dev {DEVICE}" + (" nodad" if ":" in address else ""))
            ip(f"route add {route} dev {DEVICE}")
        yield namespace, queues
        for queue in queues:
            os.close(queue)
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def _queue() -> int:
    queue = tun.open_queue()
    tun.attach(queue, DEVICE)
    return queue


def arrived(queues: list[int], port: int) -> set[int]:
    """The queues to which SYNs for a port have come."""
    found = set()
    for number, queue in enumerate(queues):
        with suppress(BlockingIOError):
            while packet := os.read(queue, 2000):
                start = 40 if packet[0] >> 4 == 6 else 20
                if int.from_bytes(packet[start + 2 : start + 4], "big") == port:
                    found.add(number)
    return found


def open_to(namespace: Namespace, address: str, port: int, times: int) -> None:
    for _ in range(times):
        with namespace.open(address) as sock:
            sock.setblocking(False)
            with suppress(BlockingIOError):
                sock.connect((address, port))


@pytest.mark.parametrize("address", ["10.2.0.11", "fd00:2::11"])
def test_all_of_a_client_to_one_port_comes_to_one_queue_and_ports_are_spread(
    inside: tuple[Namespace, list[int]], address: str
) -> None:
    namespace, queues = inside
    used = set()
    for port in range(8000, 8030):
        open_to(namespace, address, port, 5)
        one = arrived(queues, port)
        assert len(one) == 1
        used |= one
    assert used == set(range(QUEUES))


def test_what_is_too_short_comes_to_the_first_queue(
    inside: tuple[Namespace, list[int]],
) -> None:
    namespace, queues = inside
    with namespace.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 253)) as raw:
        arrived(queues, 0)
        raw.sendto(b"x", ("10.2.0.11", 0))
    while os.read(queues[0], 2000)[-1:] != b"x":
        pass  # the kernel asks for routers now and then
