"""Connections that say something all the time, and are answered: one end of each.

``python -m fedsdn.bench.talk serve PORT`` answers with what it gets, and ends with its standard
input. ``... connect PORT COUNT ADDRESS...`` opens so many connections to each address and prints a
line when all are open; whenever it reads a line, and when its standard input ends, it prints one
JSON object about the time since the last: messages ``exchanged``, the ``longest`` time that one
took in seconds, and ``errors``, how often each.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from contextlib import suppress

_BYTES = 64
_PAUSE_SECONDS = 0.1
_BACKLOG = 4096
_LIMIT_SECONDS = 60.0


class Talk:
    """What has been said since somebody asked."""

    def __init__(self) -> None:
        """Begin to count."""
        self._open: dict[object, float] = {}
        self._begin()

    def _begin(self) -> None:
        self._exchanged, self._longest, self._errors = 0, 0.0, Counter[str]()

    def told(self) -> str:
        """Tell, and count from the beginning; what is not answered yet counts so far."""
        now = time.monotonic()
        waiting = max((now - since for since in self._open.values()), default=0.0)
        longest = max(self._longest, waiting)
        text = json.dumps(
            {"exchanged": self._exchanged, "longest": longest, "errors": self._errors}
        )
        self._begin()
        return text

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Say something, and wait for the answer, until it fails."""
        try:
            while True:
                began = self._open[writer] = time.monotonic()
                writer.write(bytes(_BYTES))
                async with asyncio.timeout(_LIMIT_SECONDS):
                    await reader.readexactly(_BYTES)
                del self._open[writer]
                self._exchanged += 1
                self._longest = max(self._longest, time.monotonic() - began)
                await asyncio.sleep(_PAUSE_SECONDS)
        except (OSError, EOFError, TimeoutError) as error:
            self._errors[type(error).__name__] += 1
            self._open.pop(writer, None)
        finally:
            writer.close()


async def _serve(port: int) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_BYTES):
                writer.write(data)
        writer.close()

    server = await asyncio.start_server(answer, None, port, backlog=_BACKLOG)
    print("listening", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()


async def _connect(port: int, count: int, addresses: list[str]) -> None:
    talk = Talk()
    ends = [
        await asyncio.open_connection(address, port) for address in addresses for _ in range(count)
    ]
    talking = [asyncio.create_task(talk.talk(*one)) for one in ends]
    print("open", flush=True)
    loop = asyncio.get_running_loop()
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(talk.told(), flush=True)
    print(talk.told(), flush=True)
    for one in talking:
        one.cancel()


def main() -> None:
    """Be the end that the arguments name."""
    role, port, *rest = sys.argv[1:]
    if role == "serve":
        asyncio.run(_serve(int(port)))
    else:
        count, *addresses = rest
        asyncio.run(_connect(int(port), int(count), addresses))


if __name__ == "__main__":
    main()
