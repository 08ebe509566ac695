"""Accepting connections in the event loop, one task each."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

from fedsdn.config.model import Address
from fedsdn.proxy.admission.slots import Owner, Slots
from fedsdn.proxy.sockets.readable import when_readable
from fedsdn.proxy.sockets.tcp import BACKLOG, socket_address
from fedsdn.socket_address import SocketAddress

_LOG = logging.getLogger(__name__)

_AT_ONCE = 64
"""How many connections are accepted before running ones get their turn."""

_PAUSE_SECONDS = 0.1
_SAY_AGAIN_SECONDS = 60.0

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

Handler = Callable[[socket.socket, SocketAddress], Coroutine[Any, Any, None]]
"""Takes over an accepted, non-blocking socket, with the address and port of its other side."""


class Listener:
    """Accepts on a listening socket and runs ``handle`` for every connection."""

    def __init__(
        self,
        sock: socket.socket,
        handle: Handler,
        slots: Slots,
        share: float = 1.0,
        owner: Callable[[SocketAddress], Owner] | None = None,
    ) -> None:
        """Take over ``sock``; connections are accepted while ``run`` does.

        Handlers run in ``slots``, which listeners may share. ``owner`` says who is counted for a
        connection (without it, its address), and ``share`` is what owners may have before others
        come first. While no slot is free, new connections wait in the kernel.
        """
        self._sock = sock
        self._handle = handle
        self._slots = slots
        self._share = share
        self._owner = owner or _address
        self._loop = asyncio.get_running_loop()
        self._quiet_until = 0.0

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
        for _ in range(_AT_ONCE):
            if self._slots.full():
                raise _PauseError("as many connections as the descriptors allow")
            if not self._accept_one(self._take):
                return

    def _accept_one(self, take: Callable[[socket.socket, SocketAddress], None]) -> bool:
        """Accept a connection, for ``take``; False if none waits.

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
            take(connection, socket_address(name))
        except Exception:
            _LOG.exception("a new connection is reset: handling it failed")
            connection.close()
        return True

    def _take(self, connection: socket.socket, caller: SocketAddress) -> None:
        work = partial(self._handle, connection, caller)
        self._slots.take(self._owner(caller), self._share, work, connection.close)

    def _take_at_once(self, connection: socket.socket, caller: SocketAddress) -> None:
        self._slots.run(self._owner(caller), partial(self._handle, connection, caller))

    def _say(self, reason: str) -> None:
        if self._loop.time() >= self._quiet_until:
            self._quiet_until = self._loop.time() + _SAY_AGAIN_SECONDS
            running = len(self._slots.tasks)
            _LOG.warning("%s: new ones wait until some of %d end", reason, running)

    def close(self) -> None:
        """Accept what already waits, and no more. ``run`` must have ended; its handlers go on."""
        with suppress(_PauseError, OSError):
            for _ in range(BACKLOG):
                if not self._accept_one(self._take_at_once):
                    break
        self._sock.close()


class _PauseError(Exception):
    """New connections have to wait; the reason."""


def _address(caller: SocketAddress) -> Address:
    return caller.address
