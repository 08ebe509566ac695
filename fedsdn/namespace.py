"""The proxy's network namespace, by the name under which ``ip netns`` knows it too."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from fedsdn.errors import FedsdnError

_DIRECTORY = Path("/run/netns")
_OWN = Path("/proc/self/ns/net")
_CLONE_NEWNET = 0x40000000
_MS_BIND, _MNT_DETACH, _UMOUNT_NOFOLLOW = 4096, 2, 8

Result = TypeVar("Result")


class MissingNamespaceError(FedsdnError):
    """There is no network namespace of a name."""

    def __init__(self, name: str) -> None:
        """Say so of ``name``."""
        super().__init__(f"network namespace {name} is missing: run 'fedsdn site up' first")


def exists(name: str) -> bool:
    """Whether there is a network namespace of this name."""
    return _is_namespace(_DIRECTORY / name)


def _is_namespace(path: Path) -> bool:
    try:
        return path.stat().st_dev == _OWN.stat().st_dev
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
    return os.path.lexists(_DIRECTORY / name)


def prepare(name: str) -> None:
    """Make the namespace if it is not there, and keep it by a mount that is not its name yet.

    The only mount there is, for the whole host; whoever has mounts of its own calls ``create``
    behind this (the site's unit).

    Raises:
        FedsdnError: it cannot be made.

    """
    kept = _kept(name)
    try:
        if not exists(name) and not _is_namespace(kept):
            kept.touch(0o600)
            with ThreadPoolExecutor(max_workers=1) as threads:
                threads.submit(_mount_new_one, kept).result()
    except OSError as error:
        raise FedsdnError(
            f"network namespace {name} cannot be made at {kept} ({error.strerror}): "
            "look at the kernel's log (dmesg) and at the rights of this process"
        ) from error


def create(name: str) -> bool:
    """Make the namespace if it is not there; say whether it was made.

    Raises:
        FedsdnError: it cannot be made.

    """
    if exists(name):
        return False
    prepare(name)
    _DIRECTORY.mkdir(exist_ok=True)
    _DIRECTORY.chmod(0o755)  # as ip-netns(8) makes it, whatever the umask
    (_DIRECTORY / name).unlink(missing_ok=True)
    (_DIRECTORY / name).symlink_to(os.path.relpath(_kept(name), _DIRECTORY))
    return True


def delete(name: str) -> None:
    """Remove the namespace's name; the kernel ends it with the last process inside.

    Nothing happens if it is not there. Whoever has mounts of its own removes no mount of the
    host's: that is left to who calls this behind it (the site's unit).
    """
    _remove(_DIRECTORY / name)  # itself a mount if ip-netns(8) has made it
    forget(name)


def forget(name: str) -> None:
    """Undo what ``prepare`` has done, as ``delete``."""
    _remove(_kept(name))


def _remove(path: Path) -> None:
    while not _libc().umount2(bytes(path), _MNT_DETACH | _UMOUNT_NOFOLLOW):
        pass
    try:
        path.unlink(missing_ok=True)  # with the mounts that others see there (unlink(2))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise


def _kept(name: str) -> Path:
    return _DIRECTORY.with_name(f"{name}.netns")


def _mount_new_one(path: Path) -> None:
    """Enter a new namespace with this thread, which ends, and mount it."""
    if _libc().unshare(_CLONE_NEWNET) or _libc().mount(
        b"/proc/thread-self/ns/net", bytes(path), None, _MS_BIND, None
    ):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


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
        _enter(_DIRECTORY / name)
    except FileNotFoundError as error:
        raise MissingNamespaceError(name) from error
    except OSError as error:
        raise FedsdnError(
            f"network namespace {name} cannot be entered ({error.strerror}): run as root"
        ) from error


def _enter(file: Path) -> None:
    with file.open("rb") as opened:
        _setns(opened.fileno())


def _setns(descriptor: int) -> None:
    if _libc().setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextmanager
def within(name: str) -> Iterator[None]:
    """Have the calling thread in the namespace while the block runs: what it opens stays there.

    pyroute2's own way (``netns=``) forks. A child of a process that has threads may wait for ever
    for a lock that one of them held (fork(2)), and so does whoever waits for the child.

    Raises:
        MissingNamespaceError: there is no such namespace.
        FedsdnError: it may not be entered.

    """
    with _visiting(partial(enter, name)):
        yield


@contextmanager
def within_file(namespace: Path) -> Iterator[None]:
    """Do as ``within``, in the namespace of a file, which need not have a name.

    Raises:
        OSError: there is no such namespace, or the kernel refuses.

    """
    with _visiting(partial(_enter, namespace)):
        yield


@contextmanager
def _visiting(go: Callable[[], None]) -> Iterator[None]:
    with Path("/proc/thread-self/ns/net").open("rb") as home:
        go()
        try:
            yield
        finally:
            _setns(home.fileno())


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

    Not among them are those that have rights which this one has not, unless it is allowed to trace
    processes: the site's unit is not.
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
