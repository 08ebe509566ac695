"""The test application: an ordinary TCP program that knows nothing of fedsdn.

::

    python -m fedsdn.traffic.program serve --port 5001
    python -m fedsdn.traffic.program send 10.2.0.11 5001 --connections 100 --bytes 65536

On each connection the server speaks first and says whom it sees; the client then asks for an
upload or a download. The sender ends its data with their SHA-256 and a half-close, and the
receiver says what came. ``serve`` ends when its standard input does, so that it cannot outlive
whoever started it; ``send --hold`` keeps all connections open until then. Standard output is one
JSON object per line.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import resource
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any, Literal

Direction = Literal["upload", "download"]
Endpoint = tuple[str, int]
"""Address and port."""

MOST_CONNECTIONS = 10_000
SAMPLE_SECONDS = 0.01
_CHUNK = 64 * 1024
_BUFFER = 1024 * 1024
_DIGEST = hashlib.sha256().digest_size


@dataclass(frozen=True, slots=True)
class Amount:
    """How much one connection carries: so many bytes, or as much as goes in so many seconds."""

    size: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Received:
    """What came at the receiving end.

    ``samples`` are pairs of seconds since the first byte and bytes so far, at most one each
    ``SAMPLE_SECONDS``, and one at the end.
    """

    size: int
    intact: bool
    samples: tuple[tuple[float, int], ...]

    def rate(self, start: float, end: float) -> float:
        """Bits per second between two times, in seconds since the first byte; 0 if too short."""
        window = [sample for sample in self.samples if start <= sample[0] <= end]
        if len(window) < 2 or window[-1][0] == window[0][0]:
            return 0.0
        (first, before), (last, after) = window[0], window[-1]
        return 8 * (after - before) / (last - first)

    def longest_silence(self, start: float, end: float) -> float:
        """Most seconds in which nothing came, of silences that overlap ``start`` to ``end``.

        Fewer than ``SAMPLE_SECONDS`` are not told apart.
        """
        times = [0.0, *(at for at, _ in self.samples)]
        silences = (pair for pair in pairwise(times) if pair[1] >= start and pair[0] <= end)
        return max((after - before for before, after in silences), default=0.0)


@dataclass(slots=True)
class Connection:
    """One connection as the client knows it; ``seen`` is the client as the server saw it."""

    local: Endpoint | None = None
    seen: Endpoint | None = None
    received: Received | None = None
    connect_seconds: float = 0.0
    seconds: float = 0.0
    error: str | None = None

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Connection:
        """Read what ``send`` printed."""
        connection = cls(**data)
        connection.local = _endpoint(data["local"])
        connection.seen = _endpoint(data["seen"])
        if data["received"] is not None:
            connection.received = _received(data["received"])
        return connection


def _endpoint(data: Sequence[Any] | None) -> Endpoint | None:
    return None if data is None else (str(data[0]), int(data[1]))


def _received(data: dict[str, Any]) -> Received:
    samples = tuple((float(at), int(size)) for at, size in data["samples"])
    return Received(size=data["size"], intact=data["intact"], samples=samples)


def _line(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


async def _read_line(reader: asyncio.StreamReader) -> dict[str, Any]:
    line = await reader.readline()
    if not line.endswith(b"\n"):
        raise ConnectionError("closed by the far end before it answered")
    data: dict[str, Any] = json.loads(line)
    return data


async def send_data(writer: asyncio.StreamWriter, amount: Amount) -> None:
    """Send data, no two chunks alike, then their SHA-256, then half-close."""
    digest = hashlib.sha256()
    body = os.urandom(_CHUNK - 8)
    end = time.monotonic() + amount.seconds
    sent = 0
    while sent < amount.size or (not amount.size and time.monotonic() < end):
        chunk = sent.to_bytes(8, "big") + body
        if amount.size:
            chunk = chunk[: amount.size - sent]
        digest.update(chunk)
        writer.write(chunk)
        await writer.drain()
        sent += len(chunk)
    writer.write(digest.digest())
    writer.write_eof()
    await writer.drain()


async def receive_data(reader: asyncio.StreamReader) -> Received:
    """Read to the end; the last bytes are the SHA-256 of those before."""
    digest = hashlib.sha256()
    tail = b""
    size, start = 0, 0.0
    samples: list[tuple[float, int]] = []
    while chunk := await reader.read(_BUFFER):
        now = time.monotonic()
        start = start or now
        size += len(chunk)
        data = tail + chunk
        digest.update(data[:-_DIGEST])
        tail = data[-_DIGEST:]
        if not samples or now - start >= samples[-1][0] + SAMPLE_SECONDS:
            samples.append((now - start, size))
    samples.append((time.monotonic() - start if start else 0.0, size))
    return Received(
        size=max(0, size - _DIGEST), intact=tail == digest.digest(), samples=tuple(samples)
    )


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection."""
    try:
        writer.write(_line({"seen": writer.get_extra_info("peername")[:2]}))
        request = await _read_line(reader)
        amount = Amount(**request["amount"])
        if request["direction"] == "download":
            await send_data(writer, amount)
            await reader.read()
        else:
            writer.write(_line(asdict(await receive_data(reader))))
            await writer.drain()
    except (ConnectionError, TimeoutError) as error:
        print(json.dumps({"event": "broken", "error": str(error)}), file=sys.stderr, flush=True)
    finally:
        writer.close()


@dataclass(slots=True)
class _Client:
    """One connection of ``send``, from its opening to its end."""

    connection: Connection = field(default_factory=Connection)
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @asynccontextmanager
    async def _errors(self) -> AsyncIterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            self.connection.error = str(error) or type(error).__name__

    async def open(self, address: str, port: int, source: str | None) -> None:
        start = time.monotonic()
        async with self._errors():
            self.streams = await asyncio.open_connection(
                address, port, limit=_BUFFER, local_addr=(source, 0) if source else None
            )
            reader, writer = self.streams
            self.connection.local = _endpoint(writer.get_extra_info("sockname"))
            self.connection.seen = _endpoint((await _read_line(reader))["seen"])
            self.connection.connect_seconds = time.monotonic() - start

    async def transfer(self, direction: Direction, amount: Amount) -> None:
        if self.streams is None or self.connection.error:
            return
        reader, writer = self.streams
        start = time.monotonic()
        async with self._errors():
            writer.write(_line({"direction": direction, "amount": asdict(amount)}))
            if direction == "upload":
                await send_data(writer, amount)
                self.connection.received = _received(await _read_line(reader))
            else:
                self.connection.received = await receive_data(reader)
            self.connection.seconds = time.monotonic() - start

    def close(self) -> None:
        if self.streams is not None:
            self.streams[1].close()


async def _at_most(parallel: int, jobs: Sequence[Callable[[], Awaitable[None]]]) -> None:
    places = asyncio.Semaphore(parallel)

    async def job_in_place(job: Callable[[], Awaitable[None]]) -> None:
        async with places:
            await job()

    await asyncio.gather(*(job_in_place(job) for job in jobs))


async def _stdin_ends() -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


async def send(options: argparse.Namespace) -> None:
    """Open all connections, say so, hold them if asked to, then move the data of each."""
    clients = [_Client() for _ in range(options.connections)]
    amount = Amount(options.bytes, options.seconds)
    try:
        async with asyncio.timeout(options.limit):
            where = (options.address, options.port, options.source)
            await _at_most(options.parallel, [partial(c.open, *where) for c in clients])
            print(json.dumps({"event": "open"}), flush=True)
            if options.hold:
                await _stdin_ends()
            data = (options.direction, amount)
            await _at_most(options.parallel, [partial(c.transfer, *data) for c in clients])
    except TimeoutError:
        for client in clients:
            if client.connection.received is None and client.connection.error is None:
                client.connection.error = f"not finished after {options.limit:g} s"
    for client in clients:
        client.close()
    print(json.dumps({"event": "done", "connections": [asdict(c.connection) for c in clients]}))


async def serve(options: argparse.Namespace) -> None:
    """Answer connections of both families until standard input ends."""
    server = await asyncio.start_server(
        answer, options.address, options.port, limit=_BUFFER, backlog=4096
    )
    print(json.dumps({"event": "listening"}), flush=True)
    try:
        async with asyncio.timeout(options.limit):
            await _stdin_ends()
    except TimeoutError:
        pass
    server.close()


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= MOST_CONNECTIONS:
        raise argparse.ArgumentTypeError(f"{text}: write 1 to {MOST_CONNECTIONS}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="traffic", description="TCP test application")
    commands = parser.add_subparsers(required=True)
    server = commands.add_parser("serve", help="say whom connections come from; take and give data")
    server.add_argument("--address", help="address to listen on; default: all, both families")
    server.add_argument("--port", type=int, required=True)
    server.add_argument("--limit", type=float, default=600, help="end after so many seconds")
    server.set_defaults(command=serve)
    client = commands.add_parser("send", help="open connections and move data")
    client.add_argument("address")
    client.add_argument("port", type=int)
    client.add_argument("--source", help="local address to open from")
    client.add_argument("--connections", type=_count, default=1)
    client.add_argument("--parallel", type=_count, default=100, help="opening or moving at once")
    client.add_argument("--direction", choices=["upload", "download"], default="upload")
    client.add_argument("--bytes", type=int, default=0, help="per connection")
    client.add_argument("--seconds", type=float, default=0.0, help="instead of --bytes")
    client.add_argument("--hold", action="store_true", help="move data when standard input ends")
    client.add_argument("--limit", type=float, default=60, help="give up after so many seconds")
    client.set_defaults(command=send)
    return parser


def main() -> None:
    """Run the program; the limit on open files is raised as far as it may be."""
    options = _parser().parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        asyncio.run(options.command(options))
    except OSError as error:
        sys.exit(f"traffic: {error}")


if __name__ == "__main__":
    main()
