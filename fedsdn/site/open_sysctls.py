"""The files of a namespace's settings, kept open: the kernel tells of few changes to them.

A file under /proc/sys/net is of the namespace in which it was opened, whoever reads it; reading an
open one takes two microseconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import ExitStack, suppress

from fedsdn import namespace
from fedsdn.site.sysctls import Sysctl

_MOST_BYTES = 4096


class OpenSysctls:
    """Settings that are looked at again and again."""

    def __init__(self, name: str, settings: Iterable[Sysctl]) -> None:
        """Open the files of those that are there, in the namespace called ``name``.

        Raises:
            FedsdnError: there is no such namespace.

        """
        self._opened = ExitStack()
        self._wanted: dict[int, bytes] = {}
        namespace.inside(name, lambda: self._open(settings))

    def _open(self, settings: Iterable[Sysctl]) -> None:
        for setting in settings:
            if setting.read() is None:
                continue
            with suppress(FileNotFoundError):  # an interface may go at any time
                file = os.open(setting.path, os.O_RDONLY | os.O_CLOEXEC)
                self._opened.callback(os.close, file)
                self._wanted[file] = setting.value.encode()

    def close(self) -> None:
        """Close the files."""
        self._opened.close()

    def differ(self) -> bool:
        """Whether a setting has another value, or its interface is gone."""
        return any(_value(file) != wanted for file, wanted in self._wanted.items())


def _value(file: int) -> bytes | None:
    try:
        return b" ".join(os.pread(file, _MOST_BYTES, 0).split())
    except OSError:
        return None
