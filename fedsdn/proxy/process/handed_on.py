"""What a reload hands on to the program that the parent executes, and finding out if that runs.

The process stays the same (execve(2)), so its workers remain its children, and whoever supervises
it sees no other one. Descriptors stay open, and a document in the environment says which is which.
The two programs may be of different versions of fedsdn.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from hashlib import blake2b

from msgspec import DecodeError, Struct, ValidationError
from msgspec.json import decode, encode

from fedsdn.config.model import Federation
from fedsdn.errors import FedsdnError
from fedsdn.pipeline.declarations import MOST_WORKERS
from fedsdn.proxy.ended.by_peer import TABLE_BYTES
from fedsdn.proxy.ended.ring import RINGS_BYTES
from fedsdn.proxy.opening import tables
from fedsdn.proxy.opening.device import NO_ORDER
from fedsdn.proxy.socks import sequence
from fedsdn.proxy.stats import NAMES

_VARIABLE = "FEDSDN_HANDED_ON"
_FORMAT = 1
"""To be raised when something in memory changes its meaning, and not its size."""

CHECK = "--check"
"""Option of the command: find out whether it would run."""


def layout() -> str:
    """Name what stands in memory that workers share, and where: another program may differ."""
    sizes = RINGS_BYTES, TABLE_BYTES, tables.PLACES, tables.HELD_PLACES, sequence.PLACES
    layout = _FORMAT, NAMES, sizes, MOST_WORKERS
    return blake2b(repr(layout).encode(), digest_size=8).hexdigest()


def federation_name(federation: Federation) -> str:
    """Name what a federation file says."""
    return blake2b(repr(federation).encode(), digest_size=8).hexdigest()


class HandedWorker(Struct, frozen=True):
    """A worker that runs. ``control`` is the parent's descriptor, ``started`` a monotonic time."""

    pid: int
    number: int
    control: int
    leaving: bool
    started: float


class HandedRows(Struct, frozen=True):
    """Counters that a program has made: what stands in a row, and the descriptor of the rows."""

    names: tuple[str, ...]
    descriptor: int


class HandedOn(Struct, frozen=True):
    """All that goes on.

    Of ``sockets`` the first serves the statistics, the second what has ended. ``federation`` names
    what is in force, as ``federation_name``.
    """

    layout: str
    memory: tuple[int, ...]
    counted: HandedRows
    earlier: tuple[HandedRows, ...]
    order: int
    lock: int
    sockets: tuple[int, ...]
    workers: tuple[HandedWorker, ...]
    federation: str
    told: dict[str, int]
    """Of what has ended: how many of each reason the log has said."""
    reloads: int
    reloads_failed: int
    restarts: int
    last_restart: float

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All of them, each once."""
        rows = (one.descriptor for one in (self.counted, *self.earlier))
        controls = (worker.control for worker in self.workers)
        order = {self.order} - {NO_ORDER}
        return tuple({*self.memory, *rows, *controls, *self.sockets, self.lock, *order})


def is_handed_on() -> bool:
    """Whether an earlier program hands something on to this one, which has not taken it yet."""
    return _VARIABLE in os.environ


def handed_on() -> HandedOn | None:
    """Return what an earlier program has handed on to this one; None if it is the first.

    Raises:
        FedsdnError: it is not understood.

    """
    text = os.environ.pop(_VARIABLE, None)
    if text is None:
        return None
    try:
        return decode(text, type=HandedOn)
    except (DecodeError, ValidationError) as error:
        raise FedsdnError(
            f"what the running proxy hands on is not understood ({error}): the versions are too "
            "far apart, 'systemctl restart fedsdn-proxy' ends all connections and starts this one"
        ) from error


def take_over(document: HandedOn) -> None:
    """Own the descriptors: no program that this one executes has them."""
    for descriptor in document.descriptors:
        os.set_inheritable(descriptor, False)


def execute(document: HandedOn) -> None:
    """Become the program that is on disk now, with the signals blocked that are blocked now.

    Raises:
        OSError: there is no such program any more; nothing has changed.

    """
    for descriptor in document.descriptors:
        os.set_inheritable(descriptor, True)
    try:
        os.execve(sys.executable, _command(), _environment(document))  # noqa: S606
    except OSError:
        take_over(document)
        raise


def _command() -> list[str]:
    return [sys.executable, *sys.orig_argv[1:]]


def _environment(document: HandedOn) -> dict[str, str]:
    return os.environ | {_VARIABLE: encode(document).decode()}


class Trial:
    """The program on disk, started to find out whether it would take over; it changes nothing."""

    def __init__(self, document: HandedOn, signals: Sequence[signal.Signals]) -> None:
        """Start it.

        Raises:
            OSError: it cannot be started.

        """
        self._said = os.memfd_create("trial")
        try:
            self.pid = os.posix_spawn(
                sys.executable,
                [*_command(), CHECK],
                _environment(document),
                file_actions=[(os.POSIX_SPAWN_DUP2, self._said, one) for one in (1, 2)],
                setsigmask=[],
                setsigdef=signals,
            )
        except OSError:
            os.close(self._said)
            raise

    def result(self, status: int) -> str:
        """Return why it would not take over, once it has ended with ``status``; empty if it would.

        It may be called once.
        """
        with os.fdopen(self._said, "rb") as said:
            said.seek(0)
            lines = said.read().decode(errors="replace").split("\n")
        if not (code := os.waitstatus_to_exitcode(status)):
            return ""
        words = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return words.removeprefix("fedsdn: ") or f"it ends with status {code}, and says nothing"
