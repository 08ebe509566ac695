"""The files of a host's own keys: whoever replaces them need tell nobody."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from fedsdn.appearance import Appearance

_LOOK_SECONDS = 30.0
"""How often proxy and application look where the kernel tells nothing."""

_SETTLE_SECONDS = 0.2
"""Delay after a change: an identity is several files, which come one after the other."""

Version = frozenset[tuple[str, int, int]]


def version(directory: Path) -> Version:
    """Return what changes when files are put there, replaced or taken away."""
    try:
        with os.scandir(directory) as found:
            states = [(one.name, one.stat(follow_symlinks=False)) for one in found]
    except OSError:
        return frozenset()
    return frozenset((name, state.st_ino, state.st_ctime_ns) for name, state in states)


async def follow(
    directory: Path, changed: Callable[[], object], before: Version | None = None
) -> NoReturn:
    """Call ``changed`` when the files have, since ``before`` or from now on, until cancelled."""
    if before is None:
        before = version(directory)
    while True:
        with Appearance(directory / "*", or_changes=True) as appeared:
            if (now := version(directory)) != before:
                before = now
                changed()
            if await appeared.happened(_LOOK_SECONDS):
                await asyncio.sleep(_SETTLE_SECONDS)
