"""The files of a host's own keys: whoever replaces them need tell nobody."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NoReturn

from fedsdn.appearance import Appearance

_LOOK_SECONDS = 2.0
"""How often proxy and application look besides: the kernel tells nothing of a directory that is a
symbolic link to another one, nor where it gives no watch."""

_SETTLE_SECONDS = 0.2
"""Delay after a change: an identity is several files, which come one after the other."""

Version = frozenset[tuple[str, int, int, int, int]]
"""Name, inode, time of the last change, size and mode: before Linux 6.13 two changes may have one
time."""


def version(directory: Path) -> Version:
    """Return what changes when files are put there, replaced or taken away."""
    try:
        with os.scandir(directory) as found:
            states = [(one.name, one.stat(follow_symlinks=False)) for one in found]
    except OSError:
        return frozenset()
    return frozenset(
        (name, state.st_ino, state.st_ctime_ns, state.st_size, state.st_mode)
        for name, state in states
    )


async def follow(
    directory: Path, changed: Callable[[], object], before: Version | None = None
) -> NoReturn:
    """Call ``changed`` when the files have, since ``before`` or from now on, until cancelled."""
    if before is None:
        before = version(directory)
    while True:
        with ExitStack() as opened:
            appeared: Appearance | None = None
            with suppress(OSError):  # no descriptor is left
                appeared = opened.enter_context(Appearance(directory / "*", or_changes=True))
            if (now := version(directory)) != before:
                before = now
                changed()
            if appeared is None:
                await asyncio.sleep(_LOOK_SECONDS)
            elif await appeared.happened(_LOOK_SECONDS):
                await asyncio.sleep(_SETTLE_SECONDS)
