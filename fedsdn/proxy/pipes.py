"""Where bytes are between two sockets: pipes for splice(2), or memory when there is no pipe."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from contextlib import suppress

PIPE_BYTES = 1 << 18
"""Capacity asked for a pipe, and so the most that waits between two sockets."""

MEMORY_BYTES = 1 << 16
"""The most that waits in memory instead."""

_POOL_MOST = 64
_FLAGS = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE


class Pipe:
    """A pipe; ``filled`` is how many bytes are in it."""

    def __init__(self) -> None:
        """Make an empty one.

        Raises:
            OSError: no descriptors are left.

        """
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.filled = 0
        with suppress(OSError):  # over the user's limit (pipe(7)): a small one does, too
            fcntl.fcntl(self._write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def fill(self, source: socket.socket) -> None:
        """Take bytes from a socket, when empty; none, if it has ended.

        Raises:
            BlockingIOError: there are none yet.
            OSError: the connection is broken.

        """
        self.filled = os.splice(source.fileno(), self._write, PIPE_BYTES, flags=_FLAGS)

    def drain(self, sink: socket.socket) -> int:
        """Give bytes to a socket, and say how many it took.

        Raises:
            BlockingIOError: it takes none now.
            OSError: the connection is broken.

        """
        moved = os.splice(self._read, sink.fileno(), self.filled, flags=_FLAGS)
        self.filled -= moved
        return moved

    def close(self) -> None:
        """Close both ends."""
        os.close(self._read)
        os.close(self._write)


class Memory:
    """What a pipe does, without descriptors: slower, but a connection need not wait for one."""

    def __init__(self) -> None:
        """Start empty."""
        self._bytes = b""

    @property
    def filled(self) -> int:
        """How many bytes are in it."""
        return len(self._bytes)

    def fill(self, source: socket.socket) -> None:
        """Take bytes from a socket, as ``Pipe.fill``."""
        self._bytes = source.recv(MEMORY_BYTES)

    def drain(self, sink: socket.socket) -> int:
        """Give bytes to a socket, as ``Pipe.drain``."""
        moved = sink.send(self._bytes)
        self._bytes = self._bytes[moved:]
        return moved


class PipePool:
    """Empty pipes, kept for the next direction that needs one."""

    def __init__(self) -> None:
        """Start empty."""
        self._free: list[Pipe] = []

    def take(self) -> Pipe | Memory:
        """Get an empty pipe, or memory when no descriptors are left."""
        if self._free:
            return self._free.pop()
        try:
            return Pipe()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            return Memory()

    def give_back(self, pipe: Pipe | Memory) -> None:
        """Take a pipe back; one that still holds bytes is closed."""
        if isinstance(pipe, Memory):
            return
        if pipe.filled or len(self._free) >= _POOL_MOST:
            pipe.close()
        else:
            self._free.append(pipe)

    def close(self) -> None:
        """Close all pipes that nobody has."""
        while self._free:
            self._free.pop().close()
