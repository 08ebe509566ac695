"""Waiting for a file to appear or change, such as a server's socket or a key (inotify(7))."""

from __future__ import annotations

import asyncio
import ctypes
import os
import select
from contextlib import suppress
from pathlib import Path

_CREATED, _MOVED_HERE, _CHANGED = 0x100, 0x80, 0x4
"""``IN_CREATE``, ``IN_MOVED_TO``, ``IN_ATTRIB``: a server may set a socket's mode last."""

_WRITTEN, _DELETED, _MOVED_AWAY, _ITSELF = 0x8, 0x200, 0x40, 0xC00
"""``IN_CLOSE_WRITE``, ``IN_DELETE``, ``IN_MOVED_FROM``; the last two of the directory itself."""

_APPEARS = _CREATED | _MOVED_HERE | _CHANGED
_CHANGES = _APPEARS | _WRITTEN | _DELETED | _MOVED_AWAY | _ITSELF
_READ_BYTES = 1 << 16
_LIBC = ctypes.CDLL(None, use_errno=True)


class Appearance:
    """Whether something has happened in a file's directory since this was made.

    Make it, look for the file, and wait: so nothing is missed between. While the directory does not
    exist, what happens in the next one above it counts. Where the kernel gives no watch
    (``fs.inotify.max_user_instances``), nothing is seen, and waiting ends with its time.
    """

    def __init__(self, file: Path, *, or_changes: bool = False) -> None:
        """Watch from now on; what is written or goes away counts, too, if that is asked for."""
        events = _CHANGES if or_changes else _APPEARS
        self._woken = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._notices: int = _LIBC.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        directories = (str(directory).encode() for directory in file.parents)
        any(_LIBC.inotify_add_watch(self._notices, name, events) >= 0 for name in directories)

    def __enter__(self) -> Appearance:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._woken)
        if self._notices >= 0:
            os.close(self._notices)

    def wake(self) -> None:
        """End the waiting, or the next one; for any thread."""
        os.eventfd_write(self._woken, 1)

    def wait(self, seconds: float) -> bool:
        """Wait until something happens, or so long; whether something has happened."""
        ready = select.poll()
        for one in self._files:
            ready.register(one, select.POLLIN)
        happened = bool(ready.poll(seconds * 1000))
        self._read()
        return happened

    async def happened(self, seconds: float) -> bool:
        """Wait as ``wait`` does, in an event loop."""
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        for one in self._files:
            loop.add_reader(one, ready.set)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await ready.wait()
        finally:
            for one in self._files:
                loop.remove_reader(one)
        self._read()
        return ready.is_set()

    @property
    def _files(self) -> tuple[int, ...]:
        return (self._woken, self._notices) if self._notices >= 0 else (self._woken,)

    def _read(self) -> None:
        for one in self._files:
            with suppress(BlockingIOError):
                os.read(one, _READ_BYTES)
