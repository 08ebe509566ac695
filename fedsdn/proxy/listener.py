"""Accepting connections in the event loop, one task each."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from fedsdn.proxy.tcp import BACKLOG

_LOG = logging.getLogger(__name__)

_AT_ONCE = 64
"""How many connections are accepted before running ones get their turn."""

_OUT_OF = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_PAUSE_SECONDS = 0.1
_SAY_AGAIN_SECONDS = 60.0

Name = tuple[str, int, int, int]
"""What an IPv6 socket calls an endpoint: address, port, flow and scope."""

Handler = Callable[[socket.socket, Name], Coroutine[Any, Any, None]]
"""Takes over an accepted, non-blocking socket, with the name of its other side."""


class Listener:
    """Accepts on a listening socket and runs ``handle`` for every connection."""

    def __init__(
        self, sock: socket.socket, handle: Handler, tasks: set[asyncio.Task[None]], most: int
    ) -> None:
        """Take over ``sock``; accepting begins at once.

        Running handlers are in ``tasks``, which listeners may share. While there are ``most``,
        new connections wait.
        """
        self._sock = sock
        self._handle = handle
        self._tasks = tasks
        self._most = most
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._quiet_until = 0.0
        self._resume()

    def _resume(self) -> None:
        self._loop.add_reader(self._sock.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            for _ in range(_AT_ONCE):
                if len(self._tasks) >= self._most:
                    self._rest("as many connections as the descriptors allow")
                    return
                if not self._accept_one():
                    return
        except OSError as error:
            self._rest(str(error.strerror))

    def _accept_one(self) -> bool:
        """Accept a connection; False if none waits.

        Raises:
            OSError: there is not enough memory, or no descriptor is left.

        """
        try:
            connection, name = self._sock.accept()
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _OUT_OF:
                raise
            return True  # it died before it was accepted
        connection.setblocking(False)
        task = self._loop.create_task(self._handle(connection, name))
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return True

    def _rest(self, why: str) -> None:
        """Let new connections wait in the kernel for a moment, instead of failing again at once."""
        if self._loop.time() >= self._quiet_until:
            self._quiet_until = self._loop.time() + _SAY_AGAIN_SECONDS
            _LOG.warning("%s: new ones wait until some of %d end", why, len(self._tasks))
        self._loop.remove_reader(self._sock.fileno())
        self._pause = self._loop.call_later(_PAUSE_SECONDS, self._resume)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _LOG.error("a connection's handler failed", exc_info=task.exception())

    def close(self) -> None:
        """Accept what already waits, and no more; what runs goes on."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._sock.fileno())
        with suppress(OSError):
            for _ in range(BACKLOG):
                if not self._accept_one():
                    break
        self._sock.close()
