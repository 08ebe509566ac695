"""The proxy's network namespace, by the name under which ``ip netns`` knows it too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from pyroute2 import netns

from fedsdn.errors import FedsdnError

_DIRECTORY = Path("/run/netns")
_OWN = Path("/proc/self/ns/net")

Result = TypeVar("Result")


class MissingNamespaceError(FedsdnError):
    """There is no network namespace of a name."""

    def __init__(self, name: str) -> None:
        """Say so of ``name``."""
        super().__init__(f"network namespace {name} is missing: run 'fedsdn site up' first")


def exists(name: str) -> bool:
    """Whether there is a network namespace of this name."""
    try:
        return (_DIRECTORY / name).stat().st_dev == _OWN.stat().st_dev
    except FileNotFoundError:
        return False


def identity(name: str) -> int | None:
    """Return a number that no other namespace has as long as this one lives; None without one."""
    return (_DIRECTORY / name).stat().st_ino if exists(name) else None


def own_identity() -> int:
    """Return the number of the calling process's namespace, as ``identity``."""
    return _OWN.stat().st_ino


def identity_of(process: int) -> int | None:
    """Return the number of another process's namespace, as ``identity``.

    None: it has ended, or has rights that this one has not.
    """
    try:
        return Path(f"/proc/{process}/ns/net").stat().st_ino
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def taken(name: str) -> bool:
    """Whether the name is in use, be it by a namespace or by what an interrupted start left."""
    return (_DIRECTORY / name).exists()


def create(name: str) -> bool:
    """Make the namespace if it is not there; say whether it was made."""
    if exists(name):
        return False
    (_DIRECTORY / name).unlink(missing_ok=True)
    netns.create(name)
    if not exists(name):
        raise FedsdnError(
            f"network namespace {name} cannot be made in {_DIRECTORY}: "
            "look at the kernel's log (dmesg) and at the rights of this process"
        )
    return True


def delete(name: str) -> None:
    """Remove the namespace's name; the kernel ends it with the last process inside.

    Nothing happens if it is not there.
    """
    if exists(name):
        netns.remove(name)
    (_DIRECTORY / name).unlink(missing_ok=True)


def enter(name: str) -> None:
    """Move the calling thread, and what it starts from now on, into the namespace.

    A process that means to move as a whole calls this before it starts threads (setns(2)).

    Raises:
        MissingNamespaceError: there is no such namespace.
        FedsdnError: it may not be entered.

    """
    if not exists(name):
        raise MissingNamespaceError(name)
    try:
        netns.setns(name, flags=0)
    except OSError as error:
        raise FedsdnError(
            f"network namespace {name} cannot be entered ({error.strerror}): run as root"
        ) from error


def inside(name: str, work: Callable[[], Result]) -> Result:
    """Return the result of ``work``, done by a thread of its own inside the namespace.

    Raises:
        MissingNamespaceError: there is no such namespace.

    """

    def enter_and_work() -> Result:
        enter(name)
        return work()

    with ThreadPoolExecutor(max_workers=1) as threads:
        return threads.submit(enter_and_work).result()


def processes(name: str) -> Iterator[tuple[int, str]]:
    """Find identifiers and command names of the processes inside the namespace.

    Not among them are those that this one may not look at: in the sandbox of the site's unit, the
    proxy's workers are found by their first process alone.
    """
    if not exists(name):
        return
    namespace = (_DIRECTORY / name).stat().st_ino
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if (directory / "ns/net").stat().st_ino == namespace:
                yield int(directory.name), (directory / "comm").read_text().strip()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
