"""One application for each host: its files, and the proxy's namespace, are the host's."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from fedsdn import files
from fedsdn.errors import FedsdnError, FinalError

_MOST_BYTES = 200

_PATIENCE_SECONDS = 1.0
"""A process that was killed may have left a child, which has the lock, too, for a moment."""


def take_lock(path: Path, site: str) -> int:
    """Take the host's lock, and keep it until the process ends (flock(2)).

    A second application is refused. One that stood by would wait beside a unit that starts a new
    one within a second, and go on with an old program after an upgrade.

    Raises:
        FinalError: another application runs, for this site or another.
        FedsdnError: the lock cannot be made.

    """
    try:
        files.make_directory(path.parent)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise FedsdnError(
            f"{path}: the application's lock cannot be made ({error.strerror}): look at the rights "
            "and the free space there"
        ) from error
    if not _locked(lock):
        holder = os.pread(lock, _MOST_BYTES, 0).decode(errors="replace").strip()
        os.close(lock)
        raise FinalError(
            f"another application runs on this host ({holder or path}): a host is one site and has "
            "one application; stop that one first (systemctl stop fedsdn-app)"
        )
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"process {os.getpid()}, site {site}\n".encode(), 0)
    return lock


def _locked(lock: int) -> bool:
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        else:
            return True
