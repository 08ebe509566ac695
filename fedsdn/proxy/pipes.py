"""Pipes through which splice(2) moves bytes from socket to socket."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from dataclasses import dataclass

PIPE_BYTES = 1 << 18
"""Capacity asked for a pipe, and so the most that waits between two sockets."""

_POOL_MOST = 64


@dataclass(slots=True)
class Pipe:
    """A pipe and how much is in it."""

    read: int
    write: int
    filled: int = 0

    def close(self) -> None:
        """Close both ends."""
        os.close(self.read)
        os.close(self.write)


class PipePool:
    """Empty pipes, kept for the next direction that needs one."""

    def __init__(self) -> None:
        """Start empty."""
        self._free: list[Pipe] = []

    def take(self) -> Pipe:
        """Get an empty pipe.

        Raises:
            OSError: no descriptors are left.

        """
        if self._free:
            return self._free.pop()
        read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        with suppress(OSError):  # over the user's limit (pipe(7)): a small one does, too
            fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        return Pipe(read, write)

    def give_back(self, pipe: Pipe) -> None:
        """Take a pipe back; one that still holds bytes is closed."""
        if pipe.filled or len(self._free) >= _POOL_MOST:
            pipe.close()
        else:
            self._free.append(pipe)

    def close(self) -> None:
        """Close all pipes that nobody has."""
        while self._free:
            self._free.pop().close()
