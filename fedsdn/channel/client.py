"""A worker's side of the channel: it connects to the application, and reconnects."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections.abc import Awaitable, Callable, Set
from contextlib import suppress
from pathlib import Path

from fedsdn.channel.lines import read_line
from fedsdn.channel.messages import (
    INVALID_REQUEST,
    LONGEST_LINE,
    METHOD_NOT_FOUND,
    MOST_CONNECTIONS,
    MOST_PEERS,
    NOT_RESTORED,
    VERSION,
    WRONG_VERSION,
    Answer,
    Call,
    ChannelError,
    Hello,
    Needed,
    PathsMessage,
    Reload,
    Reloaded,
    Restored,
    Welcome,
    connections,
    decode,
    encode_answer,
    restore,
)
from fedsdn.channel.report import Report
from fedsdn.damped_log import DampedLog
from fedsdn.pipeline.restore import Restoration

_LOG = logging.getLogger(__name__)

RETRY_SECONDS = 0.2
"""How long a worker waits before it looks for the application again."""

REPORT_SECONDS = 0.2
"""How often a worker reports opened and closed connections, at most."""

TRAFFIC_SECONDS = 1.0
"""How often a worker reports the bytes of its connections."""

_MISUNDERSTOOD_SECONDS = 5.0
"""The same after a message that a worker cannot take: the next application may be no other."""

_GONE_AND_BACK = 2
"""So many changes of the channel's state are logged at once, and of more the last each minute."""

Waiting = asyncio.Future[None]


class ChannelClient:
    """Tells of connections and asks for restorations over whichever channel there is."""

    def __init__(
        self,
        path: Path,
        worker: int,
        report: Report,
        paths: Callable[[PathsMessage], None],
        reload: Callable[[], Awaitable[int]],
        needed: Callable[[], Set[str]] = frozenset,
    ) -> None:
        """Use the application that listens at ``path``; ``run`` does the work.

        ``paths`` is given everything that is told of paths. ``reload`` is called when the
        federation file may have changed; it returns how many connections that has reset. ``needed``
        returns the peers that connections depend on.
        """
        self._path = path
        self._worker = worker
        self._report = report
        self._take_paths = paths
        self._needed = needed
        self._told_needed: set[str] = set()
        self._reload = reload
        self._reloads = asyncio.TaskGroup()
        self._loop = asyncio.get_running_loop()
        self._writer: asyncio.StreamWriter | None = None
        self._numbers = itertools.count(1)
        self._wanted: list[tuple[Restoration, Waiting]] = []
        self._asked: dict[int, list[tuple[Restoration, Waiting]]] = {}
        self._log = DampedLog(_LOG)

    @property
    def is_open(self) -> bool:
        """Whether there is an application that understands us."""
        return self._writer is not None

    async def restore(self, wanted: Restoration) -> None:
        """Return when the bridge restores the client of a connection that is to be opened.

        Waits for as long as there is no application.

        Raises:
            ChannelError: the bridge, or the application, refuses.

        """
        done: Waiting = self._loop.create_future()
        if not self._wanted:
            # Whoever asks in the same turn of the loop is in the same message.
            self._loop.call_soon(self._ask)
        self._wanted.append((wanted, done))
        await done

    def _ask(self) -> None:
        self._wanted = [(one, done) for one, done in self._wanted if not done.done()]
        while self._wanted and self._writer is not None:
            page = self._wanted[:MOST_CONNECTIONS]
            del self._wanted[:MOST_CONNECTIONS]
            number = next(self._numbers)
            self._asked[number] = page
            call = Call(restore(one for one, _ in page), number)
            self._writer.write(call.encode())

    def need(self, peer: str) -> None:
        """Tell the application at once that connections depend on a peer, if it is not told yet."""
        if self._writer is not None and peer not in self._told_needed:
            self._told_needed.add(peer)
            self._writer.write(Call(Needed([peer], [])).encode())

    def _tell_needed(self, writer: asyncio.StreamWriter) -> None:
        """Tell the application which peers connections depend on, as far as that has changed."""
        now = set(self._needed())
        begun, ended = sorted(now - self._told_needed), sorted(self._told_needed - now)
        for start in range(0, max(len(begun), len(ended)), MOST_PEERS):
            part = slice(start, start + MOST_PEERS)
            writer.write(Call(Needed(begun[part], ended[part])).encode())
        self._told_needed = now

    async def run(self) -> None:
        """Keep a channel until cancelled.

        Raises:
            ExceptionGroup: ``reload`` has failed.

        """
        async with asyncio.TaskGroup() as self._reloads:
            await self._keep_a_channel()

    async def _keep_a_channel(self) -> None:
        while True:
            pause = RETRY_SECONDS
            try:
                await self._converse()
            except OSError as error:
                self._complain(str(error))
            except ChannelError as error:
                self._complain(str(error))
                pause = _MISUNDERSTOOD_SECONDS
            finally:
                self._writer = None
                # What was not answered is asked of the next application.
                self._wanted[:0] = [one for page in self._asked.values() for one in page]
                self._asked.clear()
            await asyncio.sleep(pause)

    async def _converse(self) -> None:
        reader, writer = await asyncio.open_unix_connection(str(self._path), limit=LONGEST_LINE)
        try:
            await self._introduce(reader, writer)
            self._say(logging.INFO, "the application is here")
            self._writer = writer
            self._report.begin_again()
            self._told_needed.clear()
            self._tell_needed(writer)
            reporting = self._loop.create_task(self._tell_for_ever(writer))
            reporting.add_done_callback(lambda _task: writer.transport.abort())
            self._ask()
            self._begin_reload(None)  # the file may have changed while there was no application
            try:
                while line := await read_line(reader):
                    self._take_line(line)
            finally:
                reporting.cancel()
                await asyncio.wait([reporting])  # to await it would swallow a cancellation of ours
                if not reporting.cancelled():
                    with suppress(OSError):
                        reporting.result()
        finally:
            writer.transport.abort()
        raise OSError("the application has gone")

    async def _introduce(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = next(self._numbers)
        writer.write(Call(Hello(VERSION, self._worker, os.getpid()), number).encode())
        answer = decode(await read_line(reader))
        if not isinstance(answer, Answer) or answer.read(Welcome).version != VERSION:
            raise ChannelError(WRONG_VERSION, "the application has another version")

    def _take_line(self, line: bytes) -> None:
        try:
            self._take(decode(line))
        except ChannelError as error:
            if error.call not in self._asked:
                raise
            for _, done in self._asked.pop(error.call):
                _settle(done, str(error))

    def _take(self, message: Call | Answer) -> None:
        if isinstance(message, Answer):
            page = self._asked.pop(message.number, [])
            errors = message.read(Restored).errors
            if len(errors) != len(page):
                self._asked[message.number] = page  # asked again of the next application
                raise ChannelError(
                    INVALID_REQUEST, f"{len(errors)} answers about {len(page)} connections"
                )
            for (_, done), error in zip(page, errors, strict=True):
                _settle(done, error)
            return
        if isinstance(message.params, PathsMessage):
            self._take_paths(message.params)
        elif isinstance(message.params, Reload):
            self._begin_reload(message.number)
        else:
            raise ChannelError(METHOD_NOT_FOUND, f"the application calls {message.method!r}")

    def _begin_reload(self, number: int | None) -> None:
        # Not ended with the channel: half of what is to be reset would be left.
        self._reloads.create_task(self._reload_and_answer(self._writer, number))

    async def _reload_and_answer(
        self, writer: asyncio.StreamWriter | None, number: int | None
    ) -> None:
        count = await self._reload()
        if writer is not None and number is not None:
            writer.write(encode_answer(number, Reloaded(count)))

    async def _tell_for_ever(self, writer: asyncio.StreamWriter) -> None:
        next_traffic = time.monotonic() + TRAFFIC_SECONDS
        while True:
            traffic = time.monotonic() >= next_traffic
            if traffic:
                next_traffic = time.monotonic() + TRAFFIC_SECONDS
                self._tell_needed(writer)
            for opened, moved, closed in self._report.pages(MOST_CONNECTIONS, traffic=traffic):
                writer.write(Call(connections(opened, moved, closed)).encode())
                await writer.drain()
            await asyncio.sleep(REPORT_SECONDS)

    def _complain(self, text: str) -> None:
        """Log once in a while that there is no channel: everything but nat goes on without."""
        self._say(logging.WARNING, f"no channel to the application: {text}")

    def _say(self, level: int, text: str) -> None:
        self._log.say(level, "channel", f"worker {self._worker}: {text}", _GONE_AND_BACK)


def _settle(done: Waiting, error: str | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(ChannelError(NOT_RESTORED, error))
