"""The test program: an ordinary TCP program that knows nothing of fedsdn.

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
import json
import resource
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial

from fedsdn.traffic.streams import BUFFER, Client, answer
from fedsdn.traffic.values import Amount

MOST_CONNECTIONS = 10_000


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
    """Open all connections, say so, hold them if asked to, then move the data of each.

    It is said, too, when the time is over before all are open.
    """
    clients = [Client() for _ in range(options.connections)]
    where = (options.address, options.port, options.source)
    data = (options.direction, Amount(options.bytes, options.seconds))
    with suppress(TimeoutError):
        async with asyncio.timeout(options.limit) as limit:
            await _at_most(options.parallel, [partial(c.open, *where) for c in clients])
    print(json.dumps({"event": "open"}), flush=True)
    try:
        async with asyncio.timeout_at(limit.when()):
            if options.hold:
                await _stdin_ends()
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
        answer, options.address, options.port, limit=BUFFER, backlog=4096
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
    parser = argparse.ArgumentParser(prog="traffic", description="TCP test program")
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
