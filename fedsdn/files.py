"""Files and directories that fedsdn makes: root's, and read by nobody else, whatever the umask."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO


def make_directory(path: Path, mode: int = 0o711) -> None:
    """Make a directory, with those above it: root's, and others may go through it, no more.

    The proxy's workers, who are not root, find the channel's socket in ``/run/fedsdn``. Whoever
    could open that could lock it (flock(2)), and the application would wait (``site.record``).

    Raises:
        OSError: it cannot be made.

    """
    for one in reversed((path, *path.parents)):
        if not one.is_dir():
            one.mkdir(exist_ok=True)
            one.chmod(mode)


def write(path: Path, content: bytes) -> None:
    """Write a file whole, in the place of one that is there; readable by root alone.

    Raises:
        OSError: it cannot be written.

    """
    make_directory(path.parent)
    fresh = path.with_name(f"{path.name}.new")
    with open_private(fresh) as file:
        file.write(content)
    fresh.replace(path)


def open_private(path: Path) -> BinaryIO:
    """Open a file to be written anew, which nobody but its owner may read.

    Raises:
        OSError: it cannot be written.

    """
    file = open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")  # noqa: SIM115
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        os.fchmod(file.fileno(), 0o600)  # it was there before
    return file
