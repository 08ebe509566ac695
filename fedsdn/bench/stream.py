"""One TCP connection at full speed, and when its bytes came: an ordinary TCP program.

::

    python -m fedsdn.bench.stream listen receive 5002
    python -m fedsdn.bench.stream connect send 5002 10.2.0.11

The sender sends until its standard input ends, then the SHA-256 of its data and a half-close. The
receiver says what came in each bucket of ``BUCKET_SECONDS`` of the machine's monotonic clock as
soon as the bucket is over, so that whoever started it sees a silence while it lasts. Unlike
``traffic.program`` a transfer has no length of its own: it goes on for as long as a loss is
watched. Standard output is one JSON object per line.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import select
import socket
import sys
import time
from collections.abc import Iterator
from itertools import count

BUCKET_SECONDS = 0.01
_CONNECT_SECONDS = 10.0
_END_SECONDS = 80.0
_CHUNK = 64 * 1024
_BUFFER = 256 * 1024
_DIGEST = hashlib.sha256().digest_size


def bucket_at(seconds: float) -> int:
    """Return the bucket that a time of the monotonic clock falls into."""
    return int(seconds / BUCKET_SECONDS)


def _say(**data: object) -> None:
    print(json.dumps(data), flush=True)


def send(connection: socket.socket) -> None:
    """Send until told to end, no two chunks alike, and wait until the receiver has closed."""
    digest = hashlib.sha256()
    size = 0
    error = None
    try:
        connection.setblocking(False)
        for chunk in _chunks():
            digest.update(chunk)
            rest = memoryview(chunk)
            while rest and not _told_to_end(connection):
                rest = rest[connection.send(rest) :]
            size += len(chunk)
            if rest:
                break
        connection.settimeout(_END_SECONDS)
        connection.sendall(bytes(rest) + digest.digest())
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)
    except OSError as failed:
        error = str(failed)
    _say(event="sent", size=size, error=error)


def _chunks() -> Iterator[bytes]:
    body = os.urandom(_CHUNK - 8)
    for number in count():
        yield number.to_bytes(8, "big") + body


def _told_to_end(connection: socket.socket) -> bool:
    """Wait until something can be sent; True if standard input ended before."""
    return sys.stdin in select.select([sys.stdin], [connection], [])[0]


class _Arrivals:
    """Says what came in a bucket once a later one has begun."""

    def __init__(self) -> None:
        self._bucket, self._size = 0, 0

    def add(self, size: int) -> None:
        bucket = bucket_at(time.monotonic())
        if bucket != self._bucket:
            self.flush()
            self._bucket = bucket
        self._size += size

    def flush(self) -> None:
        if self._size:
            _say(bucket=self._bucket, size=self._size)
        self._size = 0


def receive(connection: socket.socket) -> None:
    """Read to the end of the data, or until told to end."""
    digest = hashlib.sha256()
    arrivals = _Arrivals()
    tail = b""
    size = 0
    error = None
    try:
        while data := _read(connection):
            arrivals.add(len(data))
            size += len(data)
            data = tail + data
            digest.update(data[:-_DIGEST])
            tail = data[-_DIGEST:]
    except OSError as failed:
        error = str(failed)
    arrivals.flush()
    intact = error is None and tail == digest.digest()
    _say(event="received", size=max(0, size - _DIGEST), intact=intact, error=error)


def _read(connection: socket.socket) -> bytes:
    if sys.stdin in select.select([connection, sys.stdin], [], [])[0]:
        raise OSError("told to end before the data did")
    return connection.recv(_BUFFER)


def _accept(port: int) -> socket.socket | None:
    with socket.create_server(
        ("", port), family=socket.AF_INET6, dualstack_ipv6=True, reuse_port=False
    ) as listener:
        _say(event="listening")
        if sys.stdin in select.select([listener, sys.stdin], [], [])[0]:
            return None
        return listener.accept()[0]


def _connect(address: str, port: int) -> socket.socket:
    connection = socket.create_connection((address, port), timeout=_CONNECT_SECONDS)
    connection.settimeout(None)
    return connection


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="stream", description="one TCP connection at full speed")
    parser.add_argument("side", choices=["listen", "connect"])
    parser.add_argument("role", choices=["send", "receive"])
    parser.add_argument("port", type=int)
    parser.add_argument("address", nargs="?", default="localhost")
    options = parser.parse_args()
    try:
        if options.side == "listen":
            connection = _accept(options.port)
        else:
            connection = _connect(options.address, options.port)
            _say(event="open")
    except OSError as error:
        sys.exit(f"stream: {error}")
    if connection is not None:
        with connection:
            (send if options.role == "send" else receive)(connection)


if __name__ == "__main__":
    main()
