"""Who changes this host as a site, one at a time.

A lock's name is an abstract one (unix(7)): it belongs to the host's network namespace, and is gone
with the process however that ends.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fedsdn import namespace
from fedsdn.errors import FedsdnError

_COMMAND = "\0fedsdn-site"
"""Held by ``up`` and ``down``."""

_CHANGE = "\0fedsdn-site-change"
"""Held by these, too, and by whoever puts back what others have changed."""

PATIENCE_SECONDS = 15.0
"""So long an operator's command waits for what the application does at the moment."""

_ASK_AGAIN_SECONDS = 0.02
_LOOK_SECONDS = 0.5


@contextmanager
def commanding() -> Iterator[None]:
    """Keep a second ``up`` or ``down`` from running at the same time, and whoever puts back.

    What is put back at the moment is waited for. Whoever does so for long hangs, and an operator
    need not wait for that: it looks again at all that has changed meanwhile, should it ever go on.

    Raises:
        FedsdnError: another one runs.

    """
    with _held(_COMMAND) as alone:
        if not alone:
            raise FedsdnError(
                "another 'fedsdn site up' or 'fedsdn site down' runs on this host: "
                "wait until it has ended"
            )
        with _held(_CHANGE, PATIENCE_SECONDS):
            yield


@contextmanager
def putting_back() -> Iterator[bool]:
    """Keep an operator's commands waiting; False if one runs."""
    with _held(_CHANGE) as alone:
        yield alone


def wait_until_set_up(name: str, say: Callable[[str], None]) -> None:
    """Wait until there is a network namespace called ``name``, and no ``up`` is making it.

    ``say`` is told, once, if that takes a while.
    """
    if namespace.exists(name):
        return
    say(f"network namespace {name} is missing: waiting for 'fedsdn site up'")
    while True:
        if namespace.exists(name):
            with _held(_CHANGE) as quiet:
                if quiet and namespace.exists(name):
                    return
        time.sleep(_LOOK_SECONDS)


def flock_alone(file: int) -> bool:
    """Lock an open file against everybody (flock(2)); False if somebody still has it locked."""
    return _taken(lambda: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB), PATIENCE_SECONDS)


def is_locked(path: Path) -> bool:
    """Whether somebody has locked a file (flock(2))."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


@contextmanager
def _held(name: str, patience: float = 0.0) -> Iterator[bool]:
    """Hold a lock, waited for so many seconds; False if somebody else still has it."""
    with socket.socket(socket.AF_UNIX) as lock:
        yield _taken(lambda: lock.bind(name), patience)


def _taken(take: Callable[[], None], patience: float) -> bool:
    until = time.monotonic() + patience
    while True:
        try:
            take()
        except OSError:
            if time.monotonic() >= until:
                return False
            time.sleep(_ASK_AGAIN_SECONDS)
        else:
            return True
