"""Connections of somebody who has a peer's address, and not its key: one end of each.

``python -m fedsdn.bench.stranger KIND SOURCE ADDRESS PORT COUNT SECONDS`` opens so many in about so
many seconds, and waits until the other side has ended them. Impostors are told more: ``DIRECTORY
SITE CLIENT DESTINATION``, where the peer's own keys are, its name, and two VMs. Prints one JSON
object: how many were ``opened``, in how many ``seconds``; of these, how many were ``refused``,
``served`` as a peer is, and ``left`` open; and how many did not get so far (``outside``).
"""

from __future__ import annotations

import asyncio
import json
import random
import resource
import socket
import ssl
import struct
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from fedsdn.bench import impostor
from fedsdn.bench.syns import flood
from fedsdn.proxy.sockets import tcp
from fedsdn.proxy.socks.protocol import PLAIN_GREETING, SELECTION

_LIMIT_SECONDS = 15.0
"""How long the other side may take to end a connection."""
_BEGINNING = 16
"""Octets of which the other side sees that it is one."""
_PIECE_SECONDS = 0.5
_PORTS = range(20_000, 40_000)
_BURST = 20
_LONGEST_RECORD = 0xFFFF
_FFDHE8192, _FFDHE8192_BYTES = b"\x01\x04", 1024
"""A group (RFC 8446, section 4.2.7), and the length of its shares."""
_ANSWER_BYTES = 1 << 12
_THREADS = 64


class Kind(StrEnum):
    """What a stranger does."""

    HALF_OPEN = "half-open"
    """SYNs, and no more."""
    SILENT = "silent"
    """Plain TCP, and not a word."""
    SILENT_MULTIPATH = "silent, multipath"
    SLOW = "slow-loris"
    """The beginning of a ClientHello, and then an octet now and then."""
    GARBAGE = "garbage"
    HTTP = "HTTP"
    SOCKS = "plain SOCKS"
    HELLO = "replayed ClientHello"
    """The same one in all connections, and nothing behind it."""
    COSTLY_HELLO = "ClientHello of a costly group"
    TRUNCATED = "truncated record"
    OVERSIZED = "oversized record"


def _client_hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_ecdh_curve("prime256v1")
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing).do_handshake()
    return outgoing.read()


def _costly_hello() -> bytes:
    """Return a ClientHello with a share of ffdhe8192, with which calculation takes longest."""
    share = _FFDHE8192 + struct.pack(">H", _FFDHE8192_BYTES) + b"\x42" * _FFDHE8192_BYTES
    extensions = b"".join(
        struct.pack(">HH", kind, len(body)) + body
        for kind, body in (
            (10, b"\0\x02" + _FFDHE8192),  # supported_groups
            (13, b"\0\x02\x04\x03"),  # signature_algorithms: ecdsa_secp256r1_sha256
            (43, b"\x02\x03\x04"),  # supported_versions: TLS 1.3
            (51, struct.pack(">H", len(share)) + share),  # key_share
        )
    )
    # Version, random, no session, TLS_AES_128_GCM_SHA256, no compression.
    body = b"\x03\x03" + bytes(32) + b"\0" + b"\0\x02\x13\x01" + b"\x01\0"
    body += struct.pack(">H", len(extensions)) + extensions
    message = b"\x01\0" + struct.pack(">H", len(body)) + body
    return b"\x16\x03\x01" + struct.pack(">H", len(message)) + message


def said(kind: Kind) -> bytes:
    """Return what a stranger says."""
    hello = _client_hello()
    return {
        Kind.SLOW: hello,
        Kind.GARBAGE: random.Random(1).randbytes(512),  # noqa: S311 -- no secrets
        Kind.HTTP: b"GET / HTTP/1.1\r\nHost: proxy\r\n\r\n",
        Kind.SOCKS: PLAIN_GREETING,
        Kind.HELLO: hello,
        Kind.COSTLY_HELLO: _costly_hello(),
        Kind.TRUNCATED: hello[: len(hello) // 2],
        Kind.OVERSIZED: hello[:3] + _LONGEST_RECORD.to_bytes(2, "big") + bytes(_LONGEST_RECORD),
    }.get(kind, b"")


class Strangers:
    """Connections of one kind."""

    def __init__(self, kind: Kind | impostor.Kind, source: str, server: tuple[str, int]) -> None:
        """Connect to ``server`` from an address."""
        self._kind = kind
        self._source, self._server = source, server
        plain = kind is Kind.SILENT
        self._protocol = socket.IPPROTO_TCP if plain else socket.IPPROTO_MPTCP
        self._said = said(kind) if isinstance(kind, Kind) else b""
        self._context: ssl.SSLContext | None = None
        self._threads = ThreadPoolExecutor(_THREADS)
        self.found: Counter[str] = Counter(opened=0, refused=0, served=0, left=0, outside=0)

    def pretend(self, kind: impostor.Kind, rest: Sequence[str]) -> None:
        """Have them speak TLS."""
        directory, site, client, destination = rest
        self._context = impostor.context(kind, Path(directory), site)
        self._said = impostor.asked(kind, client, destination)

    async def run(self, count: int, seconds: float) -> None:
        """Open so many in about so many seconds, and wait for their ends."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(self._one())
                ahead = began + seconds * number / count - time.monotonic()
                if number % _BURST == 0:
                    await asyncio.sleep(max(0.0, ahead))
            self.seconds = time.monotonic() - began

    async def _one(self) -> None:
        family = socket.AF_INET6 if ":" in self._source else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM, self._protocol) as sock:
            sock.setblocking(False)
            with suppress(OSError):
                sock.setsockopt(socket.SOL_IP, tcp.IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((self._source, 0))
            self.found[await self._outcome(sock)] += 1

    async def _outcome(self, sock: socket.socket) -> str:
        try:
            async with asyncio.timeout(_LIMIT_SECONDS):
                await tcp.connect(sock, self._server)
        except OSError:
            return "outside"
        self.found["opened"] += 1
        try:
            async with asyncio.timeout(_LIMIT_SECONDS):
                if self._context is not None:
                    work = impostor.call(sock, self._context, self._said, _LIMIT_SECONDS)
                    return await asyncio.get_running_loop().run_in_executor(self._threads, work)
                answer = await self._talk(sock)
        except TimeoutError:
            return "left"
        return "served" if answer.startswith(SELECTION) else "refused"

    async def _talk(self, sock: socket.socket) -> bytes:
        """Say what is to be said, and return all that is answered until the end."""
        loop = asyncio.get_running_loop()
        slow = self._kind is Kind.SLOW
        pieces = [self._said]
        if slow:
            pieces = [self._said[:_BEGINNING], *(bytes([one]) for one in self._said[_BEGINNING:])]
        answer = bytearray()
        with suppress(ConnectionError):
            for piece in pieces:
                if piece:
                    await loop.sock_sendall(sock, piece)
                if slow:
                    await asyncio.sleep(_PIECE_SECONDS)
            while data := await loop.sock_recv(sock, _ANSWER_BYTES):
                answer += data
        return bytes(answer)


def main() -> None:
    """Do what the arguments say."""
    word, source, address, port, count, seconds, *rest = sys.argv[1:]
    kind = impostor.Kind(word) if rest else Kind(word)
    server = (address, int(port))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if kind is Kind.HALF_OPEN:
        took = flood(source, server, int(count), float(seconds), _PORTS, (OSError,))
        print(json.dumps({"outside": int(count), "seconds": took}))
        return
    strangers = Strangers(kind, source, server)
    if isinstance(kind, impostor.Kind):
        strangers.pretend(kind, rest)
    asyncio.run(strangers.run(int(count), float(seconds)))
    print(json.dumps({**strangers.found, "seconds": strangers.seconds}))


if __name__ == "__main__":
    main()
