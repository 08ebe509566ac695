"""Connections between VMs through two proxies, for tests."""

from __future__ import annotations

import errno
import random
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

from fedsdn.lab.namespaces import connect
from fedsdn.proxy.ended.record import FAULTS
from tests.real.proxy_net import LIMIT_S, SiteOfNet, proxy_net
from tests.real.site_host import wait_until
from tests.unit.federations import two_sites

BYTES = 8 * 1024 * 1024
RESET = struct.pack("ii", 1, 0)

Net = tuple[SiteOfNet, SiteOfNet]


@contextmanager
def proxies() -> Iterator[Net]:
    """Two sites with running proxies."""
    with proxy_net(two_sites()) as sites:
        for site in sites:
            site.start_proxy()
        yield sites


@contextmanager
def connection(
    near: SiteOfNet, far: SiteOfNet, family: int, source: int = 0
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection from the VM of one site to that of the other: both its ends."""
    address = far.addresses[family]
    with far.vm.listen(address) as listener:
        port = listener.getsockname()[1]
        with near.vm.connect(address, port, (near.addresses[family], source)) as client:
            server, _ = listener.accept()
            with server:
                server.settimeout(LIMIT_S)
                yield client, server


def connect_error(client: socket.socket, address: str, port: int) -> int:
    """Connect; return the error's number, 0 if there is none, EAGAIN if it took too long."""
    try:
        connect(client, (address, port))
    except OSError as error:
        return error.errno or errno.EAGAIN
    return 0


def noise(seed: int) -> bytes:
    return random.Random(seed).randbytes(BYTES)  # noqa: S311  (only to be compared)


def send(sock: socket.socket, data: bytes) -> None:
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def receive(sock: socket.socket) -> bytes:
    """Everything up to the end of the stream."""
    received = bytearray()
    while data := sock.recv(1 << 16):
        received += data
    return bytes(received)


def carried(data: bytes, sender: socket.socket, receiver: socket.socket) -> bytes:
    """Send data, and the end of the stream, while the other end reads; return what it read."""
    with ThreadPoolExecutor(1) as thread:
        sending = thread.submit(send, sender, data)
        received = receive(receiver)
        sending.result()
    return received


def fill(sock: socket.socket) -> None:
    """Send until nothing on the way takes more."""
    sock.settimeout(1)
    with suppress(TimeoutError):
        while True:
            sock.send(bytes(1 << 20))
    sock.settimeout(LIMIT_S)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.close()


def is_reset(sock: socket.socket) -> bool:
    """Whether the connection ends by a reset, whatever comes before."""
    try:
        while sock.recv(1 << 16):
            pass
    except ConnectionResetError:
        return True
    return False


def is_broken(sock: socket.socket) -> bool:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


def wait_until_none_is_open(net: Net) -> None:
    def none_is_open() -> bool:
        counted = [site.statistics() for site in net]
        return not any(one["outbound_open"] or one["inbound_open"] for one in counted)

    wait_until(none_is_open)


def check_that_nothing_went_wrong(net: Net) -> None:
    """None of the connections was a fallback, was refused, or hit a fault of the proxy."""
    for site in net:
        counted = site.statistics()
        wrong = {
            name: count
            for name, count in counted.items()
            if count and name in {f"ended_{reason.key}" for reason in FAULTS}
        }
        assert wrong == {}, [str(one) for one in site.ended()]
        assert "Traceback" not in site.log
        assert "ERROR" not in site.log
