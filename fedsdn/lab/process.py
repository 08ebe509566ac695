"""Processes that outlive the command that started them, and are never mistaken for others."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fedsdn.errors import FedsdnError

END_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Process:
    """A process, identified by its ID and start time (clock ticks since boot, proc(5)).

    IDs are reused; the pair is not.
    """

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process:
        """Return the process that has this ID now.

        Raises:
            ProcessLookupError: none has.

        """
        return cls(pid, _start_time(pid))

    def alive(self) -> bool:
        """Whether it runs; a zombie does not."""
        try:
            return _start_time(self.pid) == self.started and _state(self.pid) != "Z"
        except ProcessLookupError:
            return False

    def end(self) -> None:
        """Kill it and wait until it, and its PID namespace if it is that one's init, is gone.

        Raises:
            FedsdnError: it is still there after ``END_SECONDS``.

        """
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if not self.alive():  # checked after the open: from now on the ID is not reused
                return
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            if not select.select([descriptor], [], [], END_SECONDS)[0]:
                raise FedsdnError(
                    f"process {self.pid} does not end {END_SECONDS:g} s after SIGKILL: "
                    f"look at /proc/{self.pid}/stack, then run the command again"
                )
        finally:
            os.close(descriptor)


def _stat_fields(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessLookupError(pid) from error
    return text.rpartition(")")[2].split()  # the name before it may hold anything


def _state(pid: int) -> str:
    return _stat_fields(pid)[0]


def _start_time(pid: int) -> int:
    return int(_stat_fields(pid)[19])


def start_detached(
    module: str, *arguments: str, log: Path, record: Callable[[Process], None]
) -> Process:
    """Start ``python -m module`` so that it outlives us, once ``record`` has written it down.

    The module's ``main`` calls ``detach``. A starter that is killed before it wrote the process
    down takes it along: the process waits for a word that then never comes.

    Raises:
        FedsdnError: it ended before it was ready; names the log and its last line.

    """
    with log.open("ab") as log_file:
        starter = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log_file,
            text=True,
        )
    with starter:
        stdin, stdout = _pipes(starter)
        said = stdout.readline()
        with suppress(ProcessLookupError, BrokenPipeError):
            if said:
                process = Process.of(int(said))
                record(process)
                os.write(stdin.fileno(), b"go\n")
                if stdout.readline() == "ready\n":
                    return process
    raise FedsdnError(f"{module} did not start: {last_line(log)}")


def _pipes(starter: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    if starter.stdin is None or starter.stdout is None:
        raise AssertionError("started without pipes")
    return starter.stdin, starter.stdout


def detach() -> Callable[[], None]:
    """Go on in a child in its own session, as ``start_detached`` expects.

    Returns:
        What to call when ready; it also lets go of standard input and output.

    """
    child = os.fork()
    if child:
        print(child, flush=True)
        os._exit(0)
    os.setsid()
    if sys.stdin.readline() != "go\n":
        os._exit(1)
    return _ready


def _ready() -> None:
    print("ready", flush=True)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)


def last_line(log: Path) -> str:
    """Return ``FILE: its last line``, for errors."""
    try:
        lines = log.read_text(errors="replace").split("\n")
    except OSError:
        lines = []
    said = [line for line in lines if line.strip()]
    return f"{log}: {said[-1].strip() if said else 'empty'}"
