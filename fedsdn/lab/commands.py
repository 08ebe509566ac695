"""Set-up commands of a lab's host."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Protocol

from fedsdn.errors import FedsdnError

COMMAND_SECONDS = 90.0
"""Time-out of a set-up command, in seconds."""

_MOST_SAID = 300


class Commands(Protocol):
    """The host of site ``name``, for running commands there."""

    @property
    def name(self) -> str:
        """The site's name."""

    def run(self, *command: str, stdin: str = "", vm: str | None = None) -> str:
        """Run a command on the host, or in one of its VMs, and return its standard output.

        Raises:
            FedsdnError: it failed; one line with the last line of its output.

        """


def run_to_end(where: str, prefix: Sequence[str], command: Sequence[str], stdin: str = "") -> str:
    """Run a command to its end and return its standard output.

    ``where`` names the place in errors; ``prefix`` is the command that enters it.

    Raises:
        FedsdnError: it failed; one line with the last line of its output.

    """
    try:
        done = subprocess.run(
            [*prefix, *command],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_SECONDS,
        )
    except FileNotFoundError as error:
        raise FedsdnError(f"{where}: found no {error.filename}: install it") from error
    except subprocess.TimeoutExpired as error:
        raise FedsdnError(
            f"{where}: '{' '.join(command)}' did not end within {COMMAND_SECONDS:g} s"
        ) from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-_MOST_SAID:]
        raise FedsdnError(
            f"{where}: '{' '.join(command)}' ended with status {done.returncode}: "
            f"{said or 'no message'}"
        )
    return done.stdout
