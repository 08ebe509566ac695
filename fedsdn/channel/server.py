"""The application's side of the channel: a task that listens for the proxy's workers."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterable, Set
from contextlib import suppress
from pathlib import Path

from fedsdn import files
from fedsdn.channel.connection import Connection
from fedsdn.channel.lines import read_line
from fedsdn.channel.messages import (
    INVALID_REQUEST,
    LONGEST_LINE,
    METHOD_NOT_FOUND,
    MOST_CONNECTIONS,
    VERSION,
    WRONG_VERSION,
    Answer,
    Call,
    ChannelError,
    Connections,
    Hello,
    List,
    Needed,
    Page,
    Reload,
    Reloaded,
    Restore,
    Restored,
    Result,
    Welcome,
    connection_from,
    connection_message,
    decode,
    encode_answer,
    encode_error,
    restorations,
)
from fedsdn.channel.paths import PathTable
from fedsdn.damped_log import DampedLog
from fedsdn.errors import FedsdnError
from fedsdn.pipeline.restore import Restoration
from fedsdn.uplinks.news import PathNews
from fedsdn.users import PROXY_USER

_LOG = logging.getLogger(__name__)

CHANNEL_SOCKET = Path("/run/fedsdn/channel.sock")

RELOAD_SECONDS = 1.0
"""How long workers may take to read the federation file again, and to reset what it forbids."""

_SETTLE_SECONDS = 0.2
"""How long resets may take through the bridge, once they are sent."""

_MOST_UNREAD = 1 << 22
"""Bytes that may wait for a worker that does not read; then its channel ends."""

_BEHIND = 1 << 16
"""A worker that has not read so many bytes is told nothing more of the paths, and everything later,
once: it may be stopped, and what it would read then is old."""

Need = Callable[[Set[str]], None]
"""Takes the peers that connections of all workers depend on."""

RestoreClients = Callable[[Iterable[Restoration]], Awaitable[list[str | None]]]
"""Has the bridge restore clients' addresses; says of each connection why not, or None."""


class Channel:
    """Serves workers until the process ends, in one event loop."""

    def __init__(
        self, path: Path, site: str, restore: RestoreClients, need: Need = lambda _: None
    ) -> None:
        """Listen on ``path``; ``run`` answers.

        Raises:
            FedsdnError: the socket cannot be made.

        """
        self._site = site
        self._restore = restore
        self._workers: dict[asyncio.StreamWriter, dict[int, Connection]] = {}
        """Workers that have said hello, each with the connections it has reported."""
        self._numbers = itertools.count(1)
        self._reloading: dict[tuple[asyncio.StreamWriter, int], asyncio.Future[int]] = {}
        """Unanswered reload requests; the answer is how many connections the worker has reset."""
        self._paths = PathTable()
        self._behind: set[asyncio.StreamWriter] = set()
        """Workers that have to be told of all paths."""
        self._need = need
        self._needed: dict[asyncio.StreamWriter, set[str]] = {}
        self._tasks = asyncio.TaskGroup()
        self._log = DampedLog(_LOG)
        self._socket = _listen(path)

    async def run(self) -> None:
        """Answer for ever; an unexpected exception, in whichever worker's task, is raised here."""
        async with self._tasks:
            server = await asyncio.start_unix_server(
                self._begin, sock=self._socket, limit=LONGEST_LINE
            )
            await server.serve_forever()

    def tell_paths(self, news: PathNews) -> None:
        """Tell all workers what has changed of the paths; each new one is told everything."""
        lines = self._paths.take(news)
        for writer in list(self._workers):
            if writer.transport.get_write_buffer_size() > _BEHIND:
                self._behind.add(writer)
            elif writer in self._behind:
                self._tell_all_paths(writer)
            else:
                self._tell(writer, lines)

    def _tell_all_paths(self, writer: asyncio.StreamWriter) -> None:
        self._behind.discard(writer)
        self._tell(writer, self._paths.whole())

    async def reload(self) -> int:
        """Have the workers read the federation file again, and wait until they have.

        Connections that it no longer allows have been reset then, and the resets are through the
        bridge; returned is how many. A worker that takes longer than ``RELOAD_SECONDS`` is not
        waited for.
        """
        loop = asyncio.get_running_loop()
        asked: dict[tuple[asyncio.StreamWriter, int], asyncio.Future[int]] = {
            (writer, next(self._numbers)): loop.create_future() for writer in self._workers
        }
        if not asked:
            return 0
        self._reloading |= asked
        for writer, number in asked:
            self._tell(writer, Call(Reload(), number).encode())
        done, late = await asyncio.wait(asked.values(), timeout=RELOAD_SECONDS)
        for key in asked:
            self._reloading.pop(key, None)
        if late:
            text = f"{len(late)} workers of the proxy do not answer; going on without them"
            self._log.say(logging.WARNING, "late", text)
        count = sum(answer.result() for answer in done)
        if count or late:
            await asyncio.sleep(_SETTLE_SECONDS)
        return count

    def _tell(self, writer: asyncio.StreamWriter, line: bytes) -> None:
        writer.write(line)
        if writer.transport.get_write_buffer_size() > _MOST_UNREAD:
            text = "a worker of the proxy does not read what it is told; channel closed"
            self._log.say(logging.WARNING, "unread", text)
            writer.transport.abort()

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        work = self._worker(reader, writer)
        try:
            self._tasks.create_task(work)
        except RuntimeError:  # run() is about to end
            work.close()
            writer.transport.abort()

    async def _worker(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await read_line(reader):
                try:
                    self._take(decode(line), writer)
                except ChannelError as error:
                    self._refuse(writer, error)
        except (OSError, ChannelError) as error:
            self._complain(error)
        finally:
            self._workers.pop(writer, None)
            self._behind.discard(writer)
            if self._needed.pop(writer, None):
                self._say_needed()
            for key in [key for key in self._reloading if key[0] is writer]:
                self._reloading.pop(key).set_result(0)
            writer.transport.abort()

    def _take(self, message: Call | Answer, writer: asyncio.StreamWriter) -> None:
        if isinstance(message, Answer):
            self._reloaded(message, writer)
            return
        number = message.number
        match message.params:
            case Hello() as hello:
                self._answer(writer, number, self._welcome(hello, number, writer))
                if self._paths.is_known:
                    self._tell_all_paths(writer)
            case Connections() as changes:
                if writer not in self._workers:
                    raise ChannelError(INVALID_REQUEST, "connections before hello", number)
                _note(self._workers[writer], changes)
            case Needed(begun, ended):
                if writer not in self._workers:
                    raise ChannelError(INVALID_REQUEST, "needed before hello", number)
                known = self._needed.setdefault(writer, set())
                known.update(begun)
                known.difference_update(ended)
                self._say_needed()
            case List(skip):
                self._answer(writer, number, self._page(skip))
            # Not awaited here: the worker's next requests do not wait for it.
            case Restore() as asked:
                self._tasks.create_task(self._restored(restorations(asked, number), number, writer))
            case Reload():
                self._tasks.create_task(self._reload_for(number, writer))
            case _:
                raise ChannelError(METHOD_NOT_FOUND, f"no request {message.method!r}", number)

    def _say_needed(self) -> None:
        self._need(frozenset().union(*self._needed.values()))

    def _reloaded(self, answer: Answer, writer: asyncio.StreamWriter) -> None:
        waiting = self._reloading.pop((writer, answer.number), None)
        if waiting is not None:  # else it is late, and nobody waits for it any more
            waiting.set_result(answer.read(Reloaded).reset)

    async def _reload_for(self, number: int | None, writer: asyncio.StreamWriter) -> None:
        self._answer(writer, number, Reloaded(await self.reload()))

    def _complain(self, error: Exception) -> None:
        self._log.say(logging.WARNING, "trouble", f"channel: {error}")

    def _refuse(self, writer: asyncio.StreamWriter, error: ChannelError) -> None:
        self._complain(error)
        self._tell(writer, encode_error(error))

    def _answer(self, writer: asyncio.StreamWriter, number: int | None, result: Result) -> None:
        if number is not None:
            self._tell(writer, encode_answer(number, result))

    def _welcome(self, hello: Hello, number: int | None, writer: asyncio.StreamWriter) -> Welcome:
        if hello.version != VERSION:
            raise ChannelError(
                WRONG_VERSION,
                f"version {hello.version} of the channel; the application has {VERSION}: "
                "install the same fedsdn for both",
                number,
            )
        self._workers[writer] = {}
        text = f"worker {hello.worker} of the proxy is here"
        self._log.say(logging.INFO, ("here", hello.worker), text)
        return Welcome(VERSION, self._site)

    def _page(self, skip: int) -> Page:
        every = [one for known in self._workers.values() for one in known.values()]
        page = every[skip : skip + MOST_CONNECTIONS]
        return Page([connection_message(one) for one in page], len(every))

    async def _restored(
        self, wanted: list[Restoration], number: int | None, writer: asyncio.StreamWriter
    ) -> None:
        self._answer(writer, number, Restored(await self._restore(wanted)))


def _note(known: dict[int, Connection], changes: Connections) -> None:
    for message in changes.opened:
        known[message.id] = connection_from(message)
    for number, sent, received in changes.moved:
        if number in known:
            known[number].sent, known[number].received = sent, received
    for number, _sent, _received in changes.closed:
        known.pop(number, None)


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        files.make_directory(path.parent)
        with suppress(FileNotFoundError):
            path.unlink()
        listener.bind(str(path))
        if os.geteuid() == 0:
            os.chown(path, 0, PROXY_USER)
        path.chmod(0o660)
        listener.listen()
    except OSError as error:
        listener.close()
        raise FedsdnError(
            f"{path}: the channel's socket cannot be made ({error.strerror}): look at the rights "
            "and the free space there"
        ) from error
    return listener
