"""What is compared: cases, the VMs that they run between, and what was observed."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum

from fedsdn.bench.guests import Guest
from fedsdn.config.model import Family

Pair = tuple[socket.socket, socket.socket]
"""The client's end of a connection, and the server's."""


class Where(StrEnum):
    """Where the server is, seen from the client."""

    NEAR = "near"
    """At the same site."""
    FAR = "far"
    """At another."""


NEVER_OPEN = 9
"""A port where no server ever was: what one knows of a port that was open may be out of date."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long the longest cases take, in seconds, and how much the largest do."""

    paused: float
    half_closed: float
    stalled: float
    short_connections: int
    called: float
    """A telephone call."""
    flows: int
    """Of datagrams, each with ports of its own."""
    rounds: int
    """Of what is repeated because it may go right by chance."""


FULL = Lengths(
    paused=120, half_closed=100, stalled=60, short_connections=10_000,
    called=60, flows=10_000, rounds=50,
)  # fmt: skip
QUICK = Lengths(
    paused=90, half_closed=30, stalled=20, short_connections=1000,
    called=2, flows=400, rounds=10,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ends:
    """The VMs of one run: the client, the server, and another beside the server, ``spare``.

    ``missing`` are addresses of the server's prefix that nobody has, and nobody else asks for;
    ``proxies`` those of the proxies of the client's site and of the server's.
    """

    client: Guest
    server: Guest
    spare: Guest
    missing: tuple[str, ...]
    family: Family
    lengths: Lengths
    proxies: tuple[str, str] = ("", "")

    @property
    def address(self) -> str:
        """The server's."""
        return self.server.address(self.family)

    def listen(self, port: int = 0) -> socket.socket:
        """Have the server listen."""
        return self.server.listen(self.family, port)

    def connect(self, port: int, source_port: int = 0) -> socket.socket:
        """Connect the client to the server."""
        source = (self.client.address(self.family), source_port) if source_port else None
        return self.client.namespace.connect(self.address, port, source)

    @property
    def turned(self) -> Ends:
        """The same VMs, with the server as the client."""
        return replace(
            self, client=self.server, server=self.client, missing=(), proxies=self.proxies[::-1]
        )

    @contextmanager
    def connected(self, port: int = 0) -> Iterator[Pair]:
        """Have a connection while the block runs."""
        with (
            self.listen(port) as listener,
            self.connect(port_of(listener)) as client,
            accepted(listener) as server,
        ):
            yield client, server


@dataclass(frozen=True, slots=True)
class Difference:
    """What is seen far and cannot be avoided; the README says it in ``CHAPTER``."""

    far: str
    why: str


CHAPTER = "What an application can tell"


@dataclass(frozen=True, slots=True)
class Case:
    """Something that applications do, or that happens to them.

    ``near`` is what is to be seen between two VMs of one site, by IP version: a case runs with
    those that are in it. ``run`` returns what is seen, in the same words for the same thing, be the
    machine fast or slow. ``seconds`` is about how long it takes: the longest begin first.
    """

    name: str
    does: str
    run: Callable[[Ends], str]
    near: Mapping[Family, str]
    difference: Difference | None = None
    seconds: float = 2.0


def both(seen: str) -> Mapping[Family, str]:
    """Say what is to be seen with either IP version."""
    return {4: seen, 6: seen}


# What cases do with sockets


def port_of(sock: socket.socket) -> int:
    """Return its own port."""
    port: int = sock.getsockname()[1]
    return port


def accepted(listener: socket.socket) -> socket.socket:
    """Accept a connection, with the listener's time-out."""
    sock, _ = listener.accept()
    sock.settimeout(listener.gettimeout())
    return sock


def read_exactly(sock: socket.socket, size: int) -> bytes:
    """Read so many bytes, or all before the end if there are fewer."""
    read = bytearray()
    while len(read) < size and (data := sock.recv(min(size - len(read), 1 << 16))):
        read += data
    return bytes(read)


def read_all(sock: socket.socket) -> tuple[bytes, str]:
    """Read to the end: what came, and how it ended."""
    read = bytearray()
    try:
        while data := sock.recv(1 << 16):
            read += data
    except OSError as error:
        return bytes(read), error_word(error)
    return bytes(read), "end"


def error_word(error: OSError) -> str:
    """Say what an application would call it."""
    match error:
        case ConnectionResetError() | BrokenPipeError():
            return "reset"
        case TimeoutError() if error.errno is None:
            return "nothing"
        case _:
            return error.strerror or type(error).__name__


def in_thread(work: Callable[..., object], *arguments: object) -> threading.Thread:
    """Begin something beside the case, which is to be joined."""
    thread = threading.Thread(target=work, args=arguments, daemon=True)
    thread.start()
    return thread


def tell(part: int, whole: int) -> str:
    """Say how many of all."""
    return "all" if part == whole else f"{part} of {whole}"
