"""A lab's host, with the bridge, the application and the proxy of one site, like a real machine.

It is a process, PID 1 of its own network, mount, PID and UTS namespaces, with a private /run. So
an operator's commands run there unchanged, and everything on it ends with that process.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from fedsdn.errors import FedsdnError
from fedsdn.lab.commands import run_to_end
from fedsdn.lab.process import Process, last_line

CONFIG_FILE = Path("/run/fedsdn/fedsdn.conf")
FEDERATION_FILE = Path("/run/fedsdn/federation.yaml")
_LOG_DIRECTORY = "log"

_DETACHED = 'echo $$ >"$0.pid"; echo $$; exec "$@" </dev/null >>"$0.log" 2>&1'
"""The shell records its process number, prints it, and becomes the daemon."""


@dataclass(frozen=True, slots=True)
class Host:
    """The host of site ``name``; ``run_directory`` is its /run."""

    name: str
    process: Process
    run_directory: Path

    @property
    def prefix(self) -> tuple[str, ...]:
        """Command prefix that enters the host (nsenter(1))."""
        environment = (
            f"PATH={Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
            f"FEDSDN_CONFIG_FILE={CONFIG_FILE}",
        )
        target = f"--target={self.process.pid}"
        namespaces = ("--net", "--mount", "--pid", "--uts")
        return ("nsenter", target, *namespaces, "--", "env", *environment)

    def vm_prefix(self, vm: str) -> tuple[str, ...]:
        """Return the command prefix that enters one of the host's VMs."""
        return (*self.prefix, "ip", "netns", "exec", vm)

    def run(self, *command: str, stdin: str = "", vm: str | None = None) -> str:
        """Run a command to its end and return its standard output.

        Raises:
            FedsdnError: it failed; one line with the last line of its output.

        """
        if vm is None:
            return run_to_end(self.name, self.prefix, command, stdin)
        return run_to_end(f"{self.name}/{vm}", self.vm_prefix(vm), command, stdin)

    def start(self, name: str, *command: str) -> Daemon:
        """Start a daemon that outlives this process; its log is called ``name``.

        Raises:
            FedsdnError: the host is gone.

        """
        files = f"/run/{_LOG_DIRECTORY}/{name}"
        number = self.run("setsid", "--fork", "sh", "-c", _DETACHED, files, *command).strip()
        if not number:
            raise FedsdnError(f"{self.name}: {name} did not start: {last_line(self.log(name))}")
        return Daemon(self, name, int(number))

    def log(self, name: str) -> Path:
        """Return the path of a daemon's log on this machine."""
        return self.run_directory / _LOG_DIRECTORY / f"{name}.log"

    def daemon(self, name: str) -> Daemon:
        """Return the latest daemon with this name, Open vSwitch's included.

        Raises:
            FedsdnError: none was.

        """
        for file in self.run_directory.glob(f"*/{name}.pid"):
            return Daemon(self, name, int(file.read_text()))
        raise FedsdnError(f"{self.name}: no {name} was started")

    def runs(self, daemon: str) -> bool:
        """Whether a daemon runs."""
        try:
            return self.daemon(daemon).alive()
        except FedsdnError:
            return False

    def make_log_directory(self) -> None:
        """Create the log directory before any daemon starts."""
        (self.run_directory / _LOG_DIRECTORY).mkdir()


@dataclass(frozen=True, slots=True)
class Daemon:
    """A daemon on a host; ``number`` is its process ID in the host's PID namespace."""

    host: Host
    name: str
    number: int

    def alive(self) -> bool:
        """Whether it runs."""
        status = Path(f"/proc/{self.host.process.pid}/root/proc/{self.number}/stat")
        try:
            return status.read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    def signal(self, signal_name: str) -> None:
        """Send a signal, by its name without SIG.

        Raises:
            FedsdnError: it is gone.

        """
        self.host.run("sh", "-c", f"kill -{signal_name} {self.number}")

    def last_line(self) -> str:
        """Return ``LOG: its last line``."""
        return last_line(self.host.log(self.name))
