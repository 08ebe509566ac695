"""Files and directories that fedsdn makes: root's, and read by nobody else, whatever the umask."""

from __future__ import annotations

import os
from pathlib import Path


def make_directory(path: Path) -> None:
    """Make a directory, with those above it: root's, and others may go through it, no more.

    The proxy's workers, who are not root, find the channel's socket there. Whoever could open it
    could lock it (flock(2)), and the application would wait (``site.record``).

    Raises:
        OSError: it cannot be made.

    """
    if not path.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o711)


def write(path: Path, content: bytes) -> None:
    """Write a file whole, in the place of one that is there; readable by root alone.

    Raises:
        OSError: it cannot be written.

    """
    make_directory(path.parent)
    fresh = path.with_suffix(".new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        os.fchmod(file.fileno(), 0o600)  # one that a killed process has left
        file.write(content)
    fresh.replace(path)
