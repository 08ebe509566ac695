"""The Unix sockets that serve the proxy's statistics: connect, and read one JSON document."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from fedsdn import files, namespace
from fedsdn.errors import FedsdnError
from fedsdn.proxy.ended.by_peer import Refused
from fedsdn.proxy.ended.record import FAULTS, Ended, Reason, document, from_document
from fedsdn.proxy.sockets.tcp import SO_SNDBUFFORCE
from fedsdn.proxy.stats import Statistics
from fedsdn.units import ago

STATISTICS_SOCKET = Path("/run/fedsdn/proxy.sock")
_ANSWER_SECONDS = 5.0
RECENT_SECONDS = 600
"""For so long after a fault the proxy is not called well. What is over for longer is counted."""

_MOST_TOLD = 500
"""Ended connections in one answer: the last faults of all workers, and as many of the others."""

_MOST_BYTES = 1 << 20
"""So much one answer may be, with what the kernel needs to keep it."""

_UCRED = struct.Struct("iII")
"""Process, user and group at the other end (``SO_PEERCRED``, unix(7))."""


class StatisticsSocket:
    """Listens on ``path`` and answers with the totals; only one proxy at a time can.

    A lock makes sure of that, not the socket: it may be left from a proxy that was killed, or
    belong to one that hangs. Workers inherit the lock, so it is held until the last one has ended.
    """

    def __init__(
        self, path: Path, statistics: Statistics, inherited: Sequence[int] | None = None
    ) -> None:
        """Listen. ``inherited`` are the descriptors of the lock and of the two sockets.

        Raises:
            FedsdnError: another proxy runs, or the socket cannot be made.

        """
        self._path = path
        self._statistics = statistics
        self._lock_path = path.with_suffix(".lock")
        try:
            if inherited is None:
                self.lock = self._take_lock()
                counters, ended = (_listen(one, self.lock) for one in (path, _of_ended(path)))
            else:
                self.lock = inherited[0]
                counters, ended = (socket.socket(fileno=one) for one in inherited[1:])
                counters.setblocking(False)
                ended.setblocking(False)
            self._answers: dict[socket.socket, Callable[[], object]] = {
                counters: self._counted,
                ended: self._last_ended,
            }
        except OSError as error:
            raise FedsdnError(
                f"{path}: the statistics' socket cannot be made ({error.strerror}): "
                "look at the rights and the free space there"
            ) from error

    def _take_lock(self) -> int:
        files.make_directory(self._path.parent)
        lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise FedsdnError(
                f"{self._lock_path}: another proxy runs here, or its connections have not all "
                "ended yet: stop it first (SIGTERM; again to reset what is left)"
            ) from error
        return lock

    @property
    def sockets(self) -> list[socket.socket]:
        """Where it listens: for who wants the counters, and for who wants what has ended."""
        return list(self._answers)

    def answer(self) -> None:
        """Accept a connection where one waits, and answer it."""
        for listener, told in self._answers.items():
            with suppress(OSError):
                connection, _address = listener.accept()
                with connection:
                    connection.setblocking(False)  # who does not read gets what the socket takes
                    with suppress(OSError):  # it takes less then
                        connection.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, _MOST_BYTES)
                    connection.send(json.dumps(told()).encode() + b"\n")

    def _counted(self) -> dict[str, object]:
        refused = [one.document() for one in self._statistics.refused()[:_MOST_TOLD]]
        return {**self._statistics.totals(), "refused": refused}

    def _last_ended(self) -> list[dict[str, object]]:
        every = list(self._statistics.ended())
        told = [
            one
            for faults in (True, False)
            for one in [one for one in every if (one.reason in FAULTS) is faults][-_MOST_TOLD:]
        ]
        return [document(one) for one in sorted(told, key=lambda one: one.time)]

    def remove(self) -> None:
        """Stop listening, and remove the sockets."""
        for listener in self._answers:
            Path(listener.getsockname()).unlink(missing_ok=True)
            listener.close()
        os.close(self.lock)


def _of_ended(path: Path) -> Path:
    """Return the socket that serves the records, beside that of the counters."""
    return path.with_name(f"{path.stem}-ended{path.suffix}")


def _listen(path: Path, lock: int) -> socket.socket:
    """Listen; if that fails, ``lock`` is given back."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen()
        listener.setblocking(False)
    except OSError:
        listener.close()
        os.close(lock)
        raise
    return listener


def read_statistics(path: Path = STATISTICS_SOCKET) -> dict[str, int]:
    """Ask a running proxy for its counters.

    Raises:
        FedsdnError: none answers, or one of another version.

    """
    return checked(_asked(path))


def read_refused(path: Path = STATISTICS_SOCKET) -> list[Refused]:
    """Ask a running proxy how many requests it refused for each peer and reason, most first.

    Raises:
        FedsdnError: none answers, or one of another version.

    """
    found = _asked(path)
    try:
        told = found["refused"] if isinstance(found, dict) else None
        return [
            Refused(one["peer"], Reason[one["reason"].upper()], one["count"], one["last"])
            for one in told or ()
        ]
    except (KeyError, TypeError) as error:
        raise _another_version() from error


def read_ended(path: Path = STATISTICS_SOCKET) -> list[Ended]:
    """Ask a running proxy for the connections that failed or were ended, the last ones first.

    Raises:
        FedsdnError: none answers, or one of another version.

    """
    found = _asked(_of_ended(path))
    if not isinstance(found, list):
        raise _another_version()
    try:
        return [from_document(one) for one in reversed(found)]
    except (ValueError, TypeError) as error:
        raise _another_version() from error


def _asked(path: Path) -> object:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_ANSWER_SECONDS)
        try:
            connection.connect(str(path))
            with connection.makefile("rb") as stream:
                answer = stream.read()
        except OSError as error:
            raise FedsdnError(
                f"{path}: no proxy answers ({error}); start it with 'fedsdn proxy run'"
            ) from error
    try:
        return json.loads(answer)
    except ValueError as error:
        raise FedsdnError(
            f"{path}: the proxy's answer is cut off after {len(answer)} bytes: ask again; it had "
            "no memory for more, or has ended (journalctl -u fedsdn-proxy)"
        ) from error


def _another_version() -> FedsdnError:
    return FedsdnError(
        "the proxy's statistics are those of another version of fedsdn: have it become the version "
        "of this command (systemctl reload fedsdn-proxy)"
    )


def read_reloads(path: Path = STATISTICS_SOCKET) -> tuple[int, int]:
    """Ask a running proxy, of whatever version, how often it was reloaded, and how often in vain.

    Raises:
        FedsdnError: none answers.

    """
    found = _asked(path)
    if not isinstance(found, dict):
        raise _another_version()
    return int(found.get("reloads", 0)), int(found.get("reloads_failed", 0))


def running_process(path: Path = STATISTICS_SOCKET) -> int:
    """Return the running proxy's process, which has made the socket.

    Raises:
        OSError: there is none.

    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(path))
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        process, _user, _group = _UCRED.unpack(credentials)
        return int(process)


def checked(found: object) -> dict[str, int]:
    """Return what a proxy told of itself, if it tells all that we look for.

    Raises:
        FedsdnError: it is a proxy of another version of fedsdn.

    """
    if not isinstance(found, dict) or Statistics(1).totals().keys() - found.keys():
        raise _another_version()
    return {name: value for name, value in found.items() if isinstance(value, int)}


def check_workers(statistics: Mapping[str, int]) -> str:
    """Return how many workers run.

    Raises:
        FedsdnError: not all of them do, or one has ended lately.

    """
    running, workers = statistics["running"], statistics["workers"]
    if running < workers:
        raise FedsdnError(
            f"{running} of {workers} workers run: the proxy's log says why the others ended "
            "(journalctl -u fedsdn-proxy)"
        )
    restarts, now = statistics["restarts"], statistics["now"]
    again = f", {restarts} times one was started again" if restarts else ""
    if now - statistics["last_restart"] < RECENT_SECONDS:
        last = ago(statistics["last_restart"], now)
        raise FedsdnError(
            f"{workers} workers{again}, the last {last} ago: the proxy's log says why they ended "
            "(journalctl -u fedsdn-proxy)"
        )
    return f"{workers} workers{again}{_leaving_in_words(statistics)}"


def workers_in_words(statistics: Mapping[str, int]) -> str:
    """Return how many workers run, whatever became of others before."""
    return f"{statistics['running']} workers{_leaving_in_words(statistics)}"


def _leaving_in_words(statistics: Mapping[str, int]) -> str:
    leaving = statistics["leaving"]
    return f", {leaving} of before a reload carry on what they have" if leaving else ""


def check_namespace(name: str, path: Path = STATISTICS_SOCKET) -> None:
    """Check that the running proxy, if there is one, is in the namespace that has this name now.

    The namespace may have been deleted and made again: the site's ports are in the new one, and no
    packet reaches the proxy any more.

    Raises:
        FedsdnError: the proxy is in another one.

    """
    with suppress(OSError):
        process = running_process(path)
        if namespace.identity_of(process) not in {None, namespace.identity(name)}:
            raise FedsdnError(
                f"the proxy (process {process}) is not in network namespace {name} but in one that "
                "had this name: systemctl restart fedsdn-proxy, or end it and run "
                "'fedsdn proxy run'"
            )
