"""A lab's state between commands: a directory with its processes, logs and sockets."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fedsdn.errors import FedsdnError
from fedsdn.lab.process import Process

LABS = Path("/run/fedsdn-lab")
KEPT_LOGS = Path("/var/log/fedsdn-lab")
"""Logs of failed builds stay here until the next up or down."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")


@dataclass(slots=True)
class State:
    """The processes of a lab: the hosts by site, and the WAN. Written before they do anything."""

    hosts: dict[str, Process] = field(default_factory=dict)
    wan: Process | None = None


@dataclass(frozen=True, slots=True)
class LabDirectory:
    """The directory of the lab called ``name``."""

    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise FedsdnError(
                f"found the lab name {self.name!r}: give --name with 1 to 32 letters, digits, "
                "'_', '.' and '-', the first a letter or digit"
            )

    @property
    def path(self) -> Path:
        """The directory itself."""
        return LABS / self.name

    @property
    def topology_file(self) -> Path:
        """The topology that the lab was built from, a copy."""
        return self.path / "topology.yaml"

    @property
    def wan_socket(self) -> Path:
        """Control socket of the WAN process."""
        return self.path / "wan.sock"

    @property
    def wan_specification(self) -> Path:
        """Specification of the WAN process."""
        return self.path / "wan.json"

    @property
    def _state_file(self) -> Path:
        return self.path / "state.json"

    def log(self, name: str) -> Path:
        """Return the log of a process outside the hosts."""
        return self.path / f"{name}.log"

    def run_directory(self, site: str) -> Path:
        """Return the /run directory of the host of ``site``."""
        return self.path / site

    def state(self) -> State:
        """Read the state; an empty one if nothing was started yet.

        Raises:
            FedsdnError: the file is damaged.

        """
        try:
            saved = json.loads(self._state_file.read_bytes())
            return State(
                hosts={site: Process(**host) for site, host in saved["hosts"].items()},
                wan=Process(**saved["wan"]) if saved["wan"] else None,
            )
        except FileNotFoundError:
            return State()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FedsdnError(
                f"{self._state_file} is not what 'fedsdn lab up' writes: end the lab's processes "
                f"by hand, and remove {self.path}"
            ) from error

    def save(self, state: State) -> None:
        """Write the state, whole or not at all."""
        new = self._state_file.with_suffix(".new")
        new.write_text(json.dumps(asdict(state)))
        new.replace(self._state_file)

    def remove(self) -> None:
        """Remove the directory, and the one that holds the labs if this was the last."""
        _remove(self.path)

    @property
    def kept_logs(self) -> Path:
        """Directory for the logs of a failed build."""
        return KEPT_LOGS / self.name

    def keep_logs(self) -> None:
        """Move the logs out of the directory, in the same order."""
        for pattern in ("*.log", "*/log/*.log"):
            for log in self.path.glob(pattern):
                kept = self.kept_logs / log.relative_to(self.path)
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(log, kept)

    def remove_kept_logs(self) -> None:
        """Remove the logs kept by ``keep_logs``."""
        if self.kept_logs.exists():
            _remove(self.kept_logs)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the lab against other commands; creates the directory.

        Raises:
            FedsdnError: another command holds the lock.

        """
        descriptor = self._locked_descriptor()
        try:
            yield
        finally:
            os.close(descriptor)

    def _locked_descriptor(self) -> int:
        while True:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:  # another lab's removal took the parent away
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(descriptor)
                raise FedsdnError(
                    f"lab {self.name} is being built or removed by another command: wait for it, "
                    "or give another --name"
                ) from error
            with suppress(FileNotFoundError):
                if os.stat(self.path).st_ino == os.fstat(descriptor).st_ino:
                    return descriptor
            os.close(descriptor)  # it was removed between the open and the lock


def _remove(directory: Path) -> None:
    """Remove a directory, and its parent if that is empty then."""
    shutil.rmtree(directory)
    with suppress(OSError):
        directory.parent.rmdir()


def lab_names() -> list[str]:
    """Return the names of the labs of this machine, half-built ones included."""
    return sorted(entry.name for entry in LABS.iterdir()) if LABS.exists() else []
