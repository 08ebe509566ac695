"""The application's side of the channel: a thread that listens for the proxy's workers."""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

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
    connection_document,
    decode,
    encode_error,
    parse_connection,
    restorations,
)
from fedsdn.errors import FedsdnError
from fedsdn.pipeline.restore import Restoration
from fedsdn.uplinks.status import SiteStatus

_LOG = logging.getLogger(__name__)

CHANNEL_SOCKET = Path("/run/fedsdn/channel.sock")

RELOAD_SECONDS = 1.0
"""How long workers may take to read the federation file again, and to reset what it forbids."""

_SETTLE_SECONDS = 0.2
"""How long resets may take through the bridge, once they are sent."""

_MOST_UNREAD = 1 << 22
"""Bytes that may wait for a worker that does not read; then its channel ends."""

Restore = Callable[[Iterable[Restoration]], Future[list[str | None]]]
"""Has the bridge restore clients' addresses; says of each connection why not, or None."""


class Channel(threading.Thread):
    """Serves workers until the process ends."""

    def __init__(self, path: Path, site: str, restore: Restore) -> None:
        """Listen on ``path``; ``start()`` answers.

        Raises:
            FedsdnError: the socket cannot be made.

        """
        super().__init__(name="channel", daemon=True)
        self._site = site
        self._restore = restore
        self._loop = asyncio.new_event_loop()
        self._workers: dict[asyncio.StreamWriter, dict[int, Connection]] = {}
        """Whom to tell, with the connections that each has told of."""
        self._numbers = itertools.count(1)
        self._reloading: dict[tuple[asyncio.StreamWriter, int], asyncio.Future[int]] = {}
        """Workers that have been told to reload; each says how many connections it has reset."""
        self._status: Call | None = None
        self._socket = _listen(path)

    # From other threads

    def tell_status(self, status: SiteStatus) -> None:
        """Tell the workers of uplinks and paths, now and whenever one comes."""
        self._loop.call_soon_threadsafe(self._take_status, Call("status", asdict(status)))

    def reload(self) -> None:
        """Have the workers read the federation file again, and wait until they have.

        Connections that it no longer allows have been reset then, and the resets are through the
        bridge. A worker that takes longer than ``RELOAD_SECONDS`` is not waited for.
        """
        asyncio.run_coroutine_threadsafe(self._reload(), self._loop).result()

    # In the thread

    def run(self) -> None:
        """Answer for ever."""
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_unix_server(
            self._worker, sock=self._socket, limit=LONGEST_LINE
        )
        await server.serve_forever()

    def _take_status(self, status: Call) -> None:
        self._status = status
        for writer in list(self._workers):
            self._tell(writer, status.encode())

    async def _reload(self) -> int:
        """Return how many connections the workers have reset."""
        asked: dict[tuple[asyncio.StreamWriter, int], asyncio.Future[int]] = {
            (writer, next(self._numbers)): self._loop.create_future() for writer in self._workers
        }
        if not asked:
            return 0
        self._reloading |= asked
        for writer, number in asked:
            self._tell(writer, Call("reload", {}, number).encode())
        done, late = await asyncio.wait(asked.values(), timeout=RELOAD_SECONDS)
        for key in asked:
            self._reloading.pop(key, None)
        if late:
            _LOG.warning("%d workers of the proxy do not answer; going on without them", len(late))
        count = sum(answer.result() for answer in done)
        if count or late:
            await asyncio.sleep(_SETTLE_SECONDS)
        return count

    def _tell(self, writer: asyncio.StreamWriter, line: bytes) -> None:
        writer.write(line)
        if writer.transport.get_write_buffer_size() > _MOST_UNREAD:
            _LOG.warning("a worker of the proxy does not read what it is told; channel closed")
            writer.transport.abort()

    async def _worker(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers: set[asyncio.Task[None]] = set()
        try:
            while line := await read_line(reader):
                self._take_line(line, writer, answers)
        except (ChannelError, OSError) as error:
            _LOG.warning("channel: %s", error)
        finally:
            self._workers.pop(writer, None)
            for key in [key for key in self._reloading if key[0] is writer]:
                self._reloading.pop(key).set_result(0)
            writer.transport.abort()

    def _take_line(
        self, line: bytes, writer: asyncio.StreamWriter, answers: set[asyncio.Task[None]]
    ) -> None:
        try:
            call = decode(line)
            if isinstance(call, Answer):
                self._reloaded(call, writer)
                return
            if call.method in ("restore", "reload"):
                # Not awaited here: what a worker asks next need not wait for this.
                work = self._restored if call.method == "restore" else self._reload_for
                task = self._loop.create_task(work(call, writer))
                answers.add(task)
                task.add_done_callback(answers.discard)
                return
            result = self._answer(call, writer)
        except ChannelError as error:
            self._refuse(writer, error)
            return
        if call.number is not None:
            self._tell(writer, Answer(call.number, result).encode())
        if call.method == "hello" and self._status is not None:
            self._tell(writer, self._status.encode())

    def _reloaded(self, answer: Answer, writer: asyncio.StreamWriter) -> None:
        waiting = self._reloading.pop((writer, answer.number), None)
        count = answer.result.get("reset")
        if waiting is None or not isinstance(count, int):
            raise ChannelError(INVALID_REQUEST, "an answer to no request")
        waiting.set_result(count)

    async def _reload_for(self, call: Call, writer: asyncio.StreamWriter) -> None:
        count = await self._reload()
        if call.number is not None:
            self._tell(writer, Answer(call.number, {"reset": count}).encode())

    def _refuse(self, writer: asyncio.StreamWriter, error: ChannelError) -> None:
        _LOG.warning("channel: %s", error)
        self._tell(writer, encode_error(error))

    def _answer(self, call: Call, writer: asyncio.StreamWriter) -> dict[str, Any]:
        if call.method == "hello":
            return self._welcome(call, writer)
        if call.method == "connections":
            if writer not in self._workers:
                raise ChannelError(INVALID_REQUEST, "connections before hello", call.number)
            _note(self._workers[writer], call.params)
            return {}
        if call.method == "list":
            return self._list(call.params["skip"])
        raise ChannelError(METHOD_NOT_FOUND, f"no request {call.method!r}", call.number)

    def _welcome(self, call: Call, writer: asyncio.StreamWriter) -> dict[str, Any]:
        if call.params["version"] != VERSION:
            raise ChannelError(
                WRONG_VERSION,
                f"version {call.params['version']} of the channel; the application has {VERSION}: "
                "install the same fedsdn for both",
                call.number,
            )
        self._workers[writer] = {}
        _LOG.info("worker %d of the proxy is here", call.params["worker"])
        return {"version": VERSION, "site": self._site}

    def _list(self, skip: int) -> dict[str, Any]:
        every = [one for known in self._workers.values() for one in known.values()]
        page = every[skip : skip + MOST_CONNECTIONS]
        return {"connections": [connection_document(one) for one in page], "of": len(every)}

    async def _restored(self, call: Call, writer: asyncio.StreamWriter) -> None:
        try:
            outcome = await asyncio.wrap_future(self._restore(restorations(call)))
        except ChannelError as error:
            self._refuse(writer, error)
            return
        if call.number is not None:
            self._tell(writer, Answer(call.number, {"errors": outcome}).encode())


def _note(known: dict[int, Connection], params: dict[str, Any]) -> None:
    for document in params["opened"]:
        connection = parse_connection(document)
        known[connection.number] = connection
    for number, sent, received in params["moved"]:
        if number in known:
            known[number].sent, known[number].received = sent, received
    for number, _sent, _received in params["closed"]:
        known.pop(number, None)


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            path.unlink()
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen()
    except OSError as error:
        listener.close()
        raise FedsdnError(
            f"{path}: the channel's socket cannot be made ({error.strerror}): look at the rights "
            "and the free space there"
        ) from error
    return listener
