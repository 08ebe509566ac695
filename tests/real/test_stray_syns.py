"""SYNs swept over the ports of two busy VMs, by their neighbours: nobody's connection notices.

``FEDSDN_STRAY_SYNS=100000 pytest tests/real/test_stray_syns.py`` sweeps over all that a client's
port may be.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from fedsdn.lab.lab import Lab
from fedsdn.lab.wait import wait_until
from tests.real.test_direction import syn
from tests.real.test_proxy_lab import LIMIT_SECONDS, Pair, Vm, connections

pytestmark = pytest.mark.real

SYNS = int(os.environ.get("FEDSDN_STRAY_SYNS", "2000"))
CONNECTIONS = 100
CLIENT_PORTS = range(32768, 61000)
"""Where Linux takes clients' ports from (ip-sysctl, ``ip_local_port_range``)."""
PER_SECOND = 2000
MESSAGE = 64


def swept(live: set[int], count: int) -> list[int]:
    """Return client ports, those that are in use among them, in any order."""
    draw = random.Random(17)  # noqa: S311 -- to be repeated, not secret
    others = draw.sample([port for port in CLIENT_PORTS if port not in live], count - len(live))
    ports = [*live, *others]
    draw.shuffle(ports)
    return ports


def sweep(pairs: list[Pair], client: Vm, server: Vm, neighbours: tuple[Vm, Vm]) -> int:
    """Send SYNs in both directions, in the names of both VMs; return how many."""
    server_port = pairs[0][1].getsockname()[1]
    live = {end.getsockname()[1] for end, _ in pairs}
    raws = [_raw(neighbour, client.address) for neighbour in neighbours]
    ports = swept(live, SYNS // 4)
    begin = time.monotonic()
    for number, port in enumerate(ports):
        one, other = (client.address, port), (server.address, server_port)
        seq = random.getrandbits(32)
        raws[0].sendto(syn(one, other, seq), (server.address, 0))
        raws[1].sendto(syn(other, one, seq), (client.address, 0))
        time.sleep(max(0.0, begin + 2 * number / PER_SECOND - time.monotonic()))
    for raw in raws:
        raw.close()
    return 2 * len(ports)


def _raw(vm: Vm, address: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return vm.namespace.call(lambda: socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW))


@contextmanager
def busy(pairs: list[Pair]) -> Iterator[list[int]]:
    """Have every connection send to and fro; when it ends, each has done so once more."""
    rounds, over = [0] * len(pairs), threading.Event()

    def play(number: int) -> None:
        pair = pairs[number]
        last = False
        while not last:
            last = over.is_set()
            for sender, receiver in (pair, pair[::-1]):
                message = rounds[number].to_bytes(MESSAGE, "big")
                sender.sendall(message)
                received = b""
                while len(received) < MESSAGE:
                    received += (data := receiver.recv(MESSAGE - len(received)))
                    assert data, "an end of the stream"
                assert received == message
            rounds[number] += 1
            over.wait(0.2)

    with ThreadPoolExecutor(len(pairs)) as threads:
        playing = [threads.submit(play, number) for number in range(len(pairs))]
        try:
            wait_until(
                lambda: min(rounds) > 0 or any(one.done() for one in playing),
                LIMIT_SECONDS,
                lambda: "a connection has not begun",
            )
            yield rounds
        finally:
            over.set()
        broken = [str(one.exception()) for one in playing if one.exception() is not None]
        assert broken == [], f"{len(broken)} of {len(pairs)} connections"


@pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
def test_syns_over_all_ports_disturb_no_connection(lab: Lab, family: int) -> None:
    a, b = (Vm(lab, site, "vm1", family) for site in ("a", "b"))
    at_a, at_b = (Vm(lab, site, "vm2", family) for site in ("a", "b"))
    with connections(a, b, CONNECTIONS) as out, connections(b, a, CONNECTIONS) as back:
        with busy(out + back) as rounds:
            sent = sweep(out, a, b, (at_a, at_b)) + sweep(back, b, a, (at_b, at_a))
        assert sent == SYNS // 4 * 4
        assert min(rounds) > 1
