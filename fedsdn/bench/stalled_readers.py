"""Many connections whose far end never reads: one end of each.

``python -m fedsdn.bench.stalled_readers hold PORT`` accepts connections, reads nothing, and ends
with its standard input. ``... fill PORT ADDRESS COUNT`` opens so many, sends on each until none
has taken anything for ``_FULL_SECONDS``, prints one JSON object (how many bytes were taken, and
errors with how often they came), and holds the connections until its standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import resource
import select
import socket
import struct
import sys
import time
from collections import Counter
from contextlib import suppress

_FULL_SECONDS = 3.0
_LIMIT_SECONDS = 300.0
_CONNECT_SECONDS = 30.0
_AT_ONCE = 50
_BACKLOG = 4096
_CHUNK = bytes(1 << 16)
_RESET = struct.pack("ii", 1, 0)
"""``struct linger``: what is closed is gone at once, with all that was not read."""


def main() -> None:
    """Be the end that the arguments name."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    role, port, *rest = sys.argv[1:]
    if role == "hold":
        asyncio.run(_hold(int(port)))
    else:
        address, count = rest
        asyncio.run(_fill(address, int(port), int(count)))


async def _hold(port: int) -> None:
    held: list[socket.socket] = []
    with socket.create_server(
        ("", port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True
    ) as listener:
        listener.setblocking(False)
        accepting = asyncio.create_task(_accept(listener, held))
        print("listening", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        accepting.cancel()


async def _accept(listener: socket.socket, held: list[socket.socket]) -> None:
    while True:
        accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        held.append(accepted)


async def _fill(address: str, port: int, count: int) -> None:
    turns = asyncio.Semaphore(_AT_ONCE)
    errors: Counter[str] = Counter()
    opened: list[socket.socket] = []

    async def connect() -> None:
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        try:
            async with turns, asyncio.timeout(_CONNECT_SECONDS):
                await asyncio.get_running_loop().sock_connect(sock, (address, port))
        except OSError as error:
            errors[error.strerror or type(error).__name__] += 1
            return
        opened.append(sock)

    await asyncio.gather(*(connect() for _ in range(count)))
    taken = await asyncio.to_thread(_send_until_full, opened, errors)
    print(json.dumps({"taken": taken, "errors": errors}), flush=True)
    await asyncio.to_thread(sys.stdin.read)


def _send_until_full(socks: list[socket.socket], errors: Counter[str]) -> int:
    """Send until no socket takes any more; return how many bytes they took."""
    taken = 0
    deadline = time.monotonic() + _LIMIT_SECONDS
    by_number = {sock.fileno(): sock for sock in socks}
    with select.epoll() as ready:
        for number in by_number:
            ready.register(number, select.EPOLLOUT)
        while (found := ready.poll(_FULL_SECONDS)) and time.monotonic() < deadline:
            for number, _ in found:
                try:
                    taken += by_number[number].send(_CHUNK)
                except BlockingIOError:
                    pass
                except OSError as error:
                    errors[error.strerror or type(error).__name__] += 1
                    ready.unregister(number)
    return taken


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
