"""Accepting connections in the event loop, one task each."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any

_LOG = logging.getLogger(__name__)

_AT_ONCE = 64
"""How many connections are accepted before running ones get their turn."""

_OUT_OF = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_PAUSE_SECONDS = 0.1

Handler = Callable[[socket.socket], Coroutine[Any, Any, None]]


class Listener:
    """Accepts on a listening socket and runs ``handle`` for every connection."""

    def __init__(self, sock: socket.socket, handle: Handler) -> None:
        """Take over ``sock``; accepting begins at once."""
        self._sock = sock
        self._handle = handle
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self._resume()

    def _resume(self) -> None:
        self._loop.add_reader(self._sock.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, _address = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _OUT_OF:
                    self._rest(error)
                    return
                continue  # the connection died before it was accepted
            connection.setblocking(False)
            task = self._loop.create_task(self._handle(connection))
            self.tasks.add(task)
            task.add_done_callback(self._done)

    def _rest(self, error: OSError) -> None:
        """Let connections wait in the kernel until descriptors are free again."""
        _LOG.warning("not accepting for %g s: %s", _PAUSE_SECONDS, error.strerror)
        self._loop.remove_reader(self._sock.fileno())
        self._pause = self._loop.call_later(_PAUSE_SECONDS, self._resume)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _LOG.error("a connection's handler failed", exc_info=task.exception())

    def close(self) -> None:
        """Accept no more; what runs goes on."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
