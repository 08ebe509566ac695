"""Accepting connections in the event loop, one task each."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from fedsdn.config.model import Address
from fedsdn.proxy.admission.slots import Owner, Slots
from fedsdn.proxy.sockets.tcp import BACKLOG, unmapped

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
        self,
        sock: socket.socket,
        handle: Handler,
        slots: Slots,
        share: float = 1.0,
        owner: Callable[[Name], Owner] | None = None,
    ) -> None:
        """Take over ``sock``; accepting begins at once.

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
        self._pause: asyncio.TimerHandle | None = None
        self._quiet_until = 0.0
        self._resume()

    def _resume(self) -> None:
        self._loop.add_reader(self._sock.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            for _ in range(_AT_ONCE):
                if self._slots.full():
                    self._rest("as many connections as the descriptors allow")
                    return
                if not self._accept_one(self._take):
                    return
        except OSError as error:
            self._rest(str(error.strerror))

    def _accept_one(self, take: Callable[[socket.socket, Name], None]) -> bool:
        """Accept a connection, for ``take``; False if none waits.

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
        take(connection, name)
        return True

    def _take(self, connection: socket.socket, name: Name) -> None:
        work = partial(self._handle, connection, name)
        self._slots.take(self._owner(name), self._share, work, connection.close)

    def _take_at_once(self, connection: socket.socket, name: Name) -> None:
        self._slots.run(self._owner(name), partial(self._handle, connection, name))

    def _rest(self, why: str) -> None:
        """Let new connections wait in the kernel for a moment, instead of failing again at once."""
        if self._loop.time() >= self._quiet_until:
            self._quiet_until = self._loop.time() + _SAY_AGAIN_SECONDS
            _LOG.warning("%s: new ones wait until some of %d end", why, len(self._slots.tasks))
        self._loop.remove_reader(self._sock.fileno())
        self._pause = self._loop.call_later(_PAUSE_SECONDS, self._resume)

    def close(self) -> None:
        """Accept what already waits, and no more; what runs goes on."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._sock.fileno())
        with suppress(OSError):
            for _ in range(BACKLOG):
                if not self._accept_one(self._take_at_once):
                    break
        self._sock.close()


def _address(name: Name) -> Address:
    return unmapped(name[0])
