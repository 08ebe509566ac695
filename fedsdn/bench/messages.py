"""Small messages to and fro on many connections, and new connections beside them: one end.

``python -m fedsdn.bench.messages answer PORT`` sends back what comes, and ends with its standard
input. ``... talk PORT COUNT PERIOD RATE ADDRESS...`` opens COUNT connections to the addresses in
turn, sends a message on each every PERIOD seconds, and opens RATE connections a second for one
message each. It says "open" when each of the first has carried one to and fro, and for each line of
its standard input prints one JSON object: what has been seen since the last.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections import Counter, deque
from contextlib import suppress
from statistics import median

LATE_MS = 50.0
"""A message that takes so much longer than most is late."""

_BYTES = 1000
_CONNECT_SECONDS = 60.0
_AT_ONCE = 20


class _Answering(asyncio.Protocol):
    """Sends back what comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101
        self._transport = transport
        _at_once(transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)


class Seen:
    """What was seen since the last question."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.took_ms: list[float] = []
        self.broken: Counter[str] = Counter()
        self.new_ms: list[float] = []
        self.failed: Counter[str] = Counter()

    def document(self, open_ms: list[float]) -> dict[str, object]:
        """Sum it up; ``open_ms`` is how long the messages that are under way have been."""
        usual = median(self.took_ms) if self.took_ms else 0.0
        every = [*self.took_ms, *(ms for ms in open_ms if ms > usual + LATE_MS)]
        return {
            "messages": len(every),
            "median_ms": usual,
            "worst_ms": max(every, default=0.0),
            "late": sum(ms > usual + LATE_MS for ms in every),
            "broken": self.broken,
            "new": len(self.new_ms),
            "new_median_ms": median(self.new_ms) if self.new_ms else 0.0,
            "new_worst_ms": max(self.new_ms, default=0.0),
            "failed": self.failed,
        }


class _Talking(asyncio.Protocol):
    """Sends messages, and compares what comes back."""

    def __init__(self, seen: list[Seen]) -> None:
        self._seen = seen
        self._sent: deque[tuple[float, bytes]] = deque()
        self._came = b""
        self._number = 0
        self.ended = False
        self.answered = asyncio.get_running_loop().create_future()
        """Done with the first answer: a connection may be open before the far VM knows of it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101
        self._transport = transport
        _at_once(transport)

    def say(self) -> None:
        self._number += 1
        message = self._number.to_bytes(8, "big") * (_BYTES // 8)
        self._sent.append((time.monotonic(), message))
        self._transport.write(message)

    def data_received(self, data: bytes) -> None:
        self._came += data
        while self._sent and len(self._came) >= _BYTES:
            at, message = self._sent.popleft()
            if self._came[:_BYTES] != message:
                self._seen[0].broken["other data than were sent"] += 1
            self._came = self._came[_BYTES:]
            self._seen[0].took_ms.append((time.monotonic() - at) * 1e3)
            if not self.answered.done():
                self.answered.set_result(None)

    def under_way_ms(self) -> list[float]:
        return [(time.monotonic() - at) * 1e3 for at, _ in self._sent]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended:
            self.ended = True
            self._seen[0].broken[_words(exc) if exc else "ended"] += 1


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__


def _at_once(transport: asyncio.Transport) -> None:
    sock: socket.socket = transport.get_extra_info("socket")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def _answer(port: int) -> None:
    loop = asyncio.get_running_loop()
    await loop.create_server(_Answering, None, port, backlog=4096, reuse_address=True)
    print("listening", flush=True)
    await asyncio.to_thread(sys.stdin.read)


async def _talk(port: int, count: int, period: float, rate: float, addresses: list[str]) -> None:
    seen = [Seen()]
    talking = await _opened(port, count, addresses, seen)
    seen[0] = Seen()  # what the opening took is none of it
    beside = [
        *(asyncio.create_task(_keep_talking(one, n, period)) for n, one in enumerate(talking)),
        asyncio.create_task(_keep_opening(port, rate, addresses, seen)),
    ]
    print("open", flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        before, seen[0] = seen[0], Seen()
        under_way = [ms for one in talking if not one.ended for ms in one.under_way_ms()]
        print(json.dumps(before.document(under_way)), flush=True)
    for one in talking:
        one.ended = True
    for task in beside:
        task.cancel()


async def _opened(port: int, count: int, addresses: list[str], seen: list[Seen]) -> list[_Talking]:
    loop, turns = asyncio.get_running_loop(), asyncio.Semaphore(_AT_ONCE)

    async def connected(number: int) -> _Talking:
        address = addresses[number % len(addresses)]
        async with turns, asyncio.timeout(_CONNECT_SECONDS):
            _, talking = await loop.create_connection(lambda: _Talking(seen), address, port)
            talking.say()
            await talking.answered
        return talking

    return await asyncio.gather(*map(connected, range(count)))


async def _keep_talking(talking: _Talking, number: int, period: float) -> None:
    await asyncio.sleep(period * (number * 0.618 % 1))  # not all of them at once
    while not talking.ended:
        talking.say()
        await asyncio.sleep(period)


async def _keep_opening(port: int, rate: float, addresses: list[str], seen: list[Seen]) -> None:
    if not rate:
        return
    running: set[asyncio.Task[None]] = set()
    next_at, number = time.monotonic(), 0
    while True:
        number += 1
        task = asyncio.create_task(_once(port, addresses[number % len(addresses)], seen))
        running.add(task)
        task.add_done_callback(running.discard)
        next_at += 1 / rate
        await asyncio.sleep(max(0.0, next_at - time.monotonic()))


async def _once(port: int, address: str, seen: list[Seen]) -> None:
    """Open a connection, say something, hear it, and close it."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(address, port)
            try:
                writer.write(bytes(_BYTES))
                await reader.readexactly(_BYTES)
            finally:
                writer.close()
            await writer.wait_closed()
    except (OSError, asyncio.IncompleteReadError) as error:
        seen[0].failed[_words(error)] += 1
    else:
        seen[0].new_ms.append((time.monotonic() - began) * 1e3)


def main() -> None:
    """Be the end that the arguments name."""
    role, port, *rest = sys.argv[1:]
    if role == "answer":
        asyncio.run(_answer(int(port)))
    else:
        count, period, rate, *addresses = rest
        asyncio.run(_talk(int(port), int(count), float(period), float(rate), addresses))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
