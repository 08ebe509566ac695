"""Accepting connections in the event loop."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from fedsdn.damped_log import DampedLog
from fedsdn.proxy.sockets.readable import when_readable
from fedsdn.proxy.sockets.tcp import BACKLOG, socket_address
from fedsdn.socket_address import SocketAddress

_LOG = logging.getLogger(__name__)

_AT_ONCE = 64
"""How many connections are accepted before running ones get their turn."""

_PAUSE_SECONDS = 0.1

_OF_A_CONNECTION = {
    errno.ECONNABORTED,
    errno.EPERM,
    errno.EPROTO,
    errno.ENOPROTOOPT,
    errno.EOPNOTSUPP,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENONET,
}
"""Errors of accept(2) that are the new connection's; the next may be well."""

_OF_THE_LISTENER = {errno.EBADF, errno.EFAULT, errno.EINVAL, errno.ENOTSOCK}
"""Errors of accept(2) that do not pass."""

Take = Callable[[socket.socket, SocketAddress], object]
"""Takes over an accepted, non-blocking socket, with the address and port of its other side."""


class Listener:
    """Accepts on a listening socket."""

    def __init__(
        self,
        sock: socket.socket,
        take: Take,
        full: Callable[[], bool] = lambda: False,
        at_once: int = _AT_ONCE,
    ) -> None:
        """Take over ``sock``; connections are accepted, for ``take``, while ``run`` does.

        While ``full`` says so, new connections wait in the kernel. ``at_once`` of them are accepted
        before others get their turn.
        """
        self._at_once = at_once
        self._sock = sock
        self._take = take
        self._full = full
        self._log = DampedLog(_LOG)

    async def run(self) -> NoReturn:
        """Accept connections until cancelled.

        Raises:
            OSError: the listening socket itself has failed.

        """
        while True:
            try:
                await when_readable(self._sock.fileno(), self._accept)
            except _PauseError as reason:
                self._say(str(reason))
                # Instead of failing again at once: new connections wait in the kernel.
                await asyncio.sleep(_PAUSE_SECONDS)

    def _accept(self) -> None:
        for _ in range(self._at_once):
            if self._full():
                raise _PauseError("as many connections as the descriptors allow")
            if not self._accept_one():
                return

    def _accept_one(self) -> bool:
        """Accept a connection; False if none waits.

        Raises:
            _PauseError: there is not enough memory, no descriptor is left, or the kernel has
                another reason that may pass.
            OSError: the listening socket has failed.

        """
        try:
            connection, name = self._sock.accept()
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _OF_A_CONNECTION:
                return True
            if error.errno in _OF_THE_LISTENER:
                raise
            raise _PauseError(error.strerror) from error
        try:
            connection.setblocking(False)
            self._take(connection, socket_address(name))
        except Exception as error:
            self._log.fault("a new connection is reset: handling it failed", error)
            connection.close()
        return True

    def _say(self, reason: str) -> None:
        self._log.say(logging.WARNING, reason, f"{reason}: new connections wait")

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._sock.getsockname()[1])

    def detach(self) -> int:
        """Return the descriptor of the listening socket, which is the caller's from now on."""
        return self._sock.detach()

    def close(self) -> None:
        """Accept what already waits, and no more. ``run`` must have ended."""
        with suppress(_PauseError, OSError):
            for _ in range(BACKLOG):
                if not self._accept_one():
                    break
        self._sock.close()


class _PauseError(Exception):
    """New connections have to wait; the reason."""
