"""What cases do with datagrams: ask until answered, as applications do, in both directions."""

from __future__ import annotations

import selectors
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fedsdn.bench.behaviour.case import Ends, in_thread
from fedsdn.bench.guests import Guest
from fedsdn.config.model import Family
from fedsdn.lab.wait import wait_until

Name = tuple[str, int]
"""Address and port."""

LARGEST = 1 << 16
AGAIN_SECONDS = 1.0
"""A question is asked again after so long without an answer: datagrams may be lost."""
TIMES = 20
_NOTICE_SECONDS = 0.1
_BOUND_SECONDS = 20.0

_UNTIL_INPUT_ENDS = '"$@" </dev/null >/dev/null & read -r _; kill $!; wait $!; exit 0'
"""A shell that ends its command when its own standard input ends, however it was entered."""


def both_ways(run: Callable[[Ends], str]) -> Callable[[Ends], str]:
    """Have a case run from the client to the server, and then the other way round."""

    def twice(ends: Ends) -> str:
        there, back = run(ends), run(ends.turned)
        return there if there == back else f"there: {there}; back: {back}"

    return twice


def opened(vm: Guest, family: Family, port: int = 0) -> socket.socket:
    """Return a socket of UDP at a VM's address; port 0: any that is free."""
    address = vm.address(family)
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    sock = vm.namespace.call(lambda: socket.socket(kind, socket.SOCK_DGRAM))
    sock.settimeout(AGAIN_SECONDS)
    sock.bind((address, port))
    return sock


def name_of(sock: socket.socket) -> Name:
    """Return its own address and port."""
    address, port, *_ = sock.getsockname()
    return address, port


def asked(sock: socket.socket, question: bytes, server: Name) -> bool:
    """Send a question until it comes back; False: it does not."""
    for _ in range(TIMES):
        with suppress(TimeoutError):
            sock.sendto(question, server)
            while sock.recv(LARGEST) != question:
                pass  # the answer to a question before, which was asked twice
            return True
    return False


@contextmanager
def echoing(*socks: socket.socket) -> Iterator[set[Name]]:
    """Send back every datagram while the block runs; gives the names of those who sent them."""
    seen: set[Name] = set()
    done = threading.Event()

    def serve() -> None:
        while not done.is_set():
            for key, _ in waiting.select(_NOTICE_SECONDS):
                sock = socks[key.data]
                with suppress(OSError):  # what was there is gone, or an answer is not wanted
                    data, name = sock.recvfrom(LARGEST)
                    seen.add(name[:2])
                    sock.sendto(data, name)

    with selectors.DefaultSelector() as waiting:
        for number, sock in enumerate(socks):
            waiting.register(sock, selectors.EVENT_READ, number)
        thread = in_thread(serve)
        try:
            yield seen
        finally:
            done.set()
            thread.join()


@contextmanager
def serving(vm: Guest, port: int, *command: str) -> Iterator[None]:
    """Run a server on a port at a VM while the block runs.

    Raises:
        FedsdnError: there is no such program, or it does not take the port.

    """
    with vm.shell.started("sh", "-c", _UNTIL_INPUT_ENDS, "sh", *command) as server:
        try:
            wait_until(
                lambda: _has_port(vm, port),
                _BOUND_SECONDS,
                lambda: f"{vm.shell.name}: {command[0]} does not take port {port}",
            )
            yield
        finally:
            server.finish()


def _has_port(vm: Guest, port: int) -> bool:
    """Whether somebody at a VM has a port (proc(5), ``/proc/net``)."""
    return any(
        int(line.split()[1].rpartition(":")[2], 16) == port
        for table in ("udp", "udp6", "tcp", "tcp6")
        for line in vm.namespace.call(Path("/proc/thread-self/net", table).read_text).splitlines()[
            1:
        ]
    )


def ancillary(data: list[tuple[int, int, bytes]]) -> dict[tuple[int, int], int]:
    """Read what comes beside a datagram: a number by level and type (cmsg(3))."""
    return {
        (level, kind): value[0] if len(value) == 1 else struct.unpack_from("i", value)[0]
        for level, kind, value in data
    }
