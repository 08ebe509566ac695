"""A terminal with a program on it."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from contextlib import ExitStack

from fedsdn.errors import FedsdnError

_LIMIT_SECONDS = 30.0


class Terminal:
    """A program on a terminal of its own, and somebody who types."""

    def __init__(self, *command: str) -> None:
        """Start the program."""
        with ExitStack() as stack:
            self._terminal, program_side = pty.openpty()
            stack.callback(os.close, program_side)
            self._program = subprocess.Popen(
                ["setsid", "--ctty", "--wait", *command],
                stdin=program_side,
                stdout=program_side,
                stderr=program_side,
                env={**os.environ, "TERM": "dumb"},
            )
        self._shown = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._program.kill()
        self._program.wait()
        os.close(self._terminal)

    def type(self, text: str) -> None:
        """Type on the keyboard."""
        os.write(self._terminal, text.encode())

    def expect(self, text: str) -> str:
        """Wait until the terminal shows something; return all since the last time.

        Raises:
            FedsdnError: it does not.

        """
        deadline = time.monotonic() + _LIMIT_SECONDS
        while text not in self._shown:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._terminal], [], [], left)[0]:
                raise FedsdnError(f"{text!r} is not shown, but {self._shown[-200:]!r}")
            self._shown += os.read(self._terminal, 1 << 16).decode()
        before, _, self._shown = self._shown.partition(text)
        return before
