"""One connection of a test program, at either end."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from fedsdn.traffic.values import (
    SAMPLE_SECONDS,
    Amount,
    ClientView,
    Received,
    TransferDirection,
    endpoint_from,
    received_from,
)

BUFFER = 1024 * 1024
"""Bytes that are read at once."""
_CHUNK = 64 * 1024
_DIGEST = hashlib.sha256().digest_size


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
    while chunk := await reader.read(BUFFER):
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
class Client:
    """The opening end of a connection; what goes wrong is in its ``error``."""

    connection: ClientView = field(default_factory=ClientView)
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @asynccontextmanager
    async def _errors(self) -> AsyncIterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            self.connection.error = _in_words(error)

    async def open(self, address: str, port: int, source: str | None) -> None:
        """Connect, from ``source`` if given, and learn as whom the server sees us."""
        start = time.monotonic()
        async with self._errors():
            self.streams = await asyncio.open_connection(
                address, port, limit=BUFFER, local_addr=(source, 0) if source else None
            )
            reader, writer = self.streams
            self.connection.local = endpoint_from(writer.get_extra_info("sockname"))
            self.connection.seen = endpoint_from((await _read_line(reader))["seen"])
            self.connection.connect_seconds = time.monotonic() - start

    async def transfer(self, direction: TransferDirection, amount: Amount) -> None:
        """Move the data, unless the connection has failed."""
        if self.streams is None or self.connection.error:
            return
        reader, writer = self.streams
        start = time.monotonic()
        async with self._errors():
            writer.write(_line({"direction": direction, "amount": asdict(amount)}))
            if direction == "upload":
                await send_data(writer, amount)
                self.connection.received = received_from(await _read_line(reader))
            else:
                self.connection.received = await receive_data(reader)
            self.connection.seconds = time.monotonic() - start

    def close(self) -> None:
        """Close the connection if it was opened."""
        if self.streams is not None:
            self.streams[1].close()


def _in_words(error: OSError | ValueError) -> str:
    """Say what went wrong as the kernel does; asyncio has words of its own, and the address."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__
