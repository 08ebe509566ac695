"""Many short connections, each of which asks the far end whom it sees: one end of each.

``python -m fedsdn.bench.crowd serve PORT`` tells every client its address and port, and ends with
its standard input. ``... connect PORT ADDRESS COUNT AT_ONCE`` opens so many connections,
``AT_ONCE`` at a time, and prints one JSON object: the milliseconds until each was answered, who was
seen as somebody else, and errors with how often they came.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections import Counter
from contextlib import suppress
from typing import Any

_LONGEST_ANSWER = 100
_LIMIT_SECONDS = 30.0
_BACKLOG = 4096


def main() -> None:
    """Be the end that the arguments name."""
    role, port, *rest = sys.argv[1:]
    if role == "serve":
        asyncio.run(_serve(int(port)))
    else:
        address, count, at_once = rest
        print(json.dumps(asyncio.run(_connect(address, int(port), int(count), int(at_once)))))


async def _serve(port: int) -> None:
    server = await asyncio.start_server(_tell, None, port, backlog=_BACKLOG)
    print("listening", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()


async def _tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        address, port, *_ = writer.get_extra_info("peername")
        writer.write(f"{address} {port}\n".encode())
        await reader.read()  # the client ends first
    writer.close()


async def _connect(address: str, port: int, count: int, at_once: int) -> dict[str, Any]:
    turns = asyncio.Semaphore(at_once)
    times: list[float] = []
    wrong: list[str] = []
    errors: Counter[str] = Counter()

    async def one() -> None:
        async with turns:
            began = time.monotonic()
            try:
                async with asyncio.timeout(_LIMIT_SECONDS):
                    own, seen = await _ask(address, port)
            except OSError as error:
                errors[error.strerror or type(error).__name__] += 1
                return
            times.append((time.monotonic() - began) * 1000)
            if own != seen:
                wrong.append(f"{own} was seen as {seen}")

    began = time.monotonic()
    await asyncio.gather(*(one() for _ in range(count)))
    seconds = time.monotonic() - began
    return {"times_ms": times, "wrong": wrong, "errors": errors, "seconds": seconds}


async def _ask(address: str, port: int) -> tuple[str, str]:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, (address, port))
        seen = b""
        while not seen.endswith(b"\n"):
            more = await loop.sock_recv(sock, _LONGEST_ANSWER)
            if not more:
                raise ConnectionResetError("closed before it was answered")
            seen += more
        host, own_port, *_ = sock.getsockname()
        return f"{host} {own_port}", seen.decode().strip()


if __name__ == "__main__":
    main()
