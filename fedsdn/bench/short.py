"""Many short connections whose answers are compared byte for byte: one end of each.

::

    python -m fedsdn.bench.short serve 15004
    python -m fedsdn.bench.short download 15004 10.2.0.11 1000 25
    python -m fedsdn.bench.short half-close 15004 10.2.0.11 1000 25

The client opens so many connections, so many at a time. On each it sends a request, which says
what answer it wants; with ``half-close`` it then ends its direction, and the server answers only
when it has seen that; with ``unread``, to the next port, it reads no more than the beginning of
the request. The server closes after the answer, as HTTP's ``Connection: close`` has it.
Standard output is one JSON object per line: the counts of ``Outcome`` so far, and examples of what
went wrong. The server ends with its standard input.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import socket
import struct
import sys
import time
from collections import Counter
from contextlib import nullcontext, suppress
from enum import StrEnum


class Way(StrEnum):
    """What a connection does."""

    DOWNLOAD = "download"
    HALF_CLOSE = "half-close"
    UNREAD = "unread"
    """The server answers and closes with input unread, so that a reset follows its answer."""


class Outcome(StrEnum):
    """What became of a connection."""

    DONE = "done"
    WRONG = "wrong"
    """It ended cleanly, after another answer than the server's, or part of it."""
    HUNG = "hung"
    """Nothing moved for ``HUNG_SECONDS``."""
    REFUSED = "refused"
    RESET = "reset"
    FAILED = "failed"
    """Any other error."""


HUNG_SECONDS = 20.0
_DOWNLOAD_BYTES = 100_000
_MOST_BYTES = 2000
"""Of a half-closing connection's request and answer, which are of any length up to this."""
_UNREAD_BYTES = 20_000
_MOST_EXAMPLES = 20
_PROGRESS_SECONDS = 1.0
_BACKLOG = 4096
_CHUNK = 1 << 16

_REQUEST = struct.Struct(">?II")
"""Whether the client ends its direction, and which part of ``_BLOCK`` it wants: start and size."""
_BLOCK = random.Random(1).randbytes(1 << 20)  # noqa: S311 -- both ends know it, it is no secret


def answer(request: bytes) -> bytes:
    """Return the answer to a request: the SHA-256 of it, then what it wants.

    Raises:
        struct.error: it is too short.

    """
    _, start, size = _REQUEST.unpack_from(request)
    return hashlib.sha256(request).digest() + _BLOCK[start : start + size]


def wanted_answer(way: Way, asked: bytes) -> bytes:
    """Return the answer to a request of that way."""
    return answer(asked[: _REQUEST.size] if way is Way.UNREAD else asked)


def request(way: Way, chance: random.Random) -> bytes:
    """Make a request, no two alike."""
    if way is Way.DOWNLOAD:
        return _REQUEST.pack(
            False, chance.randrange(len(_BLOCK) - _DOWNLOAD_BYTES), _DOWNLOAD_BYTES
        )
    start, size = chance.randrange(len(_BLOCK) - _MOST_BYTES), chance.randrange(_MOST_BYTES)
    if way is Way.UNREAD:
        return _REQUEST.pack(False, start, size) + bytes(_UNREAD_BYTES)
    return _REQUEST.pack(True, start, size) + chance.randbytes(chance.randrange(_MOST_BYTES))


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one client."""
    with suppress(OSError, asyncio.IncompleteReadError):
        asked = await reader.readexactly(_REQUEST.size)
        if _REQUEST.unpack(asked)[0]:
            asked += await reader.read()
        writer.write(answer(asked))
        await writer.drain()
    writer.close()


async def answer_unread(listener: socket.socket) -> None:
    """Answer the beginning of every request on ``listener``, and leave the rest unread."""
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()
    while True:
        accepted, _ = await loop.sock_accept(listener)
        task = loop.create_task(_answer_one_unread(accepted))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


async def _answer_one_unread(accepted: socket.socket) -> None:
    loop, asked = asyncio.get_running_loop(), b""
    with accepted, suppress(OSError):
        while len(asked) < _REQUEST.size:
            more = await loop.sock_recv(accepted, _REQUEST.size - len(asked))
            if not more:
                return
            asked += more
        await loop.sock_sendall(accepted, answer(asked))


async def _serve(port: int) -> None:
    server = await asyncio.start_server(serve, None, port, backlog=_BACKLOG)
    unread = socket.create_server(
        ("", port + 1), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True
    )
    unread.setblocking(False)
    answering = asyncio.create_task(answer_unread(unread))
    print("listening", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    answering.cancel()
    unread.close()
    server.close()


class Clients:
    """Connections to one server, and what became of them."""

    def __init__(self, address: str, port: int, way: Way) -> None:
        """Open none yet."""
        self._server = (address, port + (way is Way.UNREAD))
        self._way = way
        self._chance = random.Random(time.time_ns())  # noqa: S311 -- no secrets
        self.outcomes: Counter[Outcome] = Counter()
        self.examples: list[str] = []
        self._left = 0

    async def run(self, count: int, at_once: int) -> None:
        """Open so many connections, ``at_once`` at a time, and see them to their ends."""
        self._left = count
        async with asyncio.TaskGroup() as tasks:
            for _ in range(at_once):
                tasks.create_task(self._take_turns())

    async def _take_turns(self) -> None:
        while self._left > 0:
            self._left -= 1
            outcome, example = await self._connect()
            self.outcomes[outcome] += 1
            if example and len(self.examples) < _MOST_EXAMPLES:
                self.examples.append(example)

    async def _connect(self) -> tuple[Outcome, str]:
        asked = request(self._way, self._chance)
        wanted, got = wanted_answer(self._way, asked), bytearray()
        family = socket.AF_INET6 if ":" in self._server[0] else socket.AF_INET
        with socket.socket(family) as sock:
            sock.setblocking(False)
            try:
                await self._exchange(sock, asked, got)
            except TimeoutError:
                outcome = Outcome.HUNG
            except ConnectionRefusedError:
                return Outcome.REFUSED, ""
            except (ConnectionResetError, BrokenPipeError):
                if self._way is Way.UNREAD and got == wanted:
                    return Outcome.DONE, ""
                outcome = Outcome.RESET
            except OSError as error:
                return Outcome.FAILED, str(error)
            else:
                if got == wanted:
                    return Outcome.DONE, ""
                outcome = Outcome.WRONG
            port = sock.getsockname()[1]
        right = wanted.startswith(got)
        said = f"{len(got)} of {len(wanted)} bytes" + ("" if right else ", not the server's")
        return outcome, f"port {port} at {time.strftime('%H:%M:%S')}: {outcome} after {said}"

    async def _exchange(self, sock: socket.socket, asked: bytes, got: bytearray) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(HUNG_SECONDS) as limit:
            await loop.sock_connect(sock, self._server)
            with suppress(OSError) if self._way is Way.UNREAD else nullcontext():
                await loop.sock_sendall(sock, asked)
            if self._way is Way.HALF_CLOSE:
                sock.shutdown(socket.SHUT_WR)
            while data := await loop.sock_recv(sock, _CHUNK):
                got += data
                limit.reschedule(loop.time() + HUNG_SECONDS)


async def _connect(way: Way, port: int, address: str, count: int, at_once: int) -> None:
    clients = Clients(address, port, way)
    running = asyncio.create_task(clients.run(count, at_once))
    while not running.done():
        await asyncio.wait([running], timeout=_PROGRESS_SECONDS)
        print(json.dumps({"outcomes": clients.outcomes, "examples": clients.examples}), flush=True)
    await running


def main() -> None:
    """Be the end that the arguments name."""
    role, port, *rest = sys.argv[1:]
    if role == "serve":
        asyncio.run(_serve(int(port)))
    else:
        address, count, at_once = rest
        asyncio.run(_connect(Way(role), int(port), address, int(count), int(at_once)))


if __name__ == "__main__":
    main()
