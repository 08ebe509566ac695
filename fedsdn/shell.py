"""Where a check's commands run: this host, another network namespace, a host of a lab."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from fedsdn.errors import FedsdnError

COMMAND_SECONDS = 20.0
"""An operator's command that takes longer than this has failed."""


@dataclass(frozen=True, slots=True)
class Shell:
    """A place to run commands in, reached by putting ``prefix`` before each.

    No prefix is this host. ``name`` is for people, and ``typed`` what a person writes instead of
    ``prefix``. ``python`` has fedsdn installed there. Where ``by_shell``, what follows the prefix
    is read by a shell, as ssh(1) has it.
    """

    name: str
    prefix: tuple[str, ...] = ()
    typed: tuple[str, ...] = ()
    python: str = sys.executable
    by_shell: bool = False

    def inside(self, namespace: str) -> Shell:
        """Return the same host's network namespace ``namespace``."""
        enter = ("ip", "netns", "exec", namespace)
        return replace(
            self,
            name=f"{self.name}/{namespace}",
            prefix=(*self.prefix, *enter),
            typed=(*self.typed, *enter),
        )

    def module(self, name: str) -> tuple[str, ...]:
        """Return the command that runs a module of fedsdn here."""
        return (self.python, "-m", name)

    def by_hand(self, command: str) -> str:
        """Return what a person types to run ``command`` here."""
        return " ".join((*self.typed, command))

    def _arguments(self, command: tuple[str, ...]) -> list[str]:
        return [*self.prefix, *(map(shlex.quote, command) if self.by_shell else command)]

    def run(
        self, *command: str, timeout: float = COMMAND_SECONDS, text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever its exit status; ``text`` is its standard input.

        Raises:
            FedsdnError: there is no such command, or it took longer than ``timeout`` seconds.

        """
        try:
            return subprocess.run(
                self._arguments(command),
                input=text,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=timeout,
            )
        except FileNotFoundError as error:
            raise FedsdnError(f"{error.filename} is missing: install it") from error
        except subprocess.TimeoutExpired as error:
            raise FedsdnError(
                f"{self.name}: '{' '.join(command)}' did not end within {timeout:g} s"
            ) from error

    def output(self, *command: str, timeout: float = COMMAND_SECONDS) -> str:
        """Run a command that is to succeed, and return its standard output.

        Raises:
            FedsdnError: as ``run``, or the exit status is not 0.

        """
        done = self.run(*command, timeout=timeout)
        if done.returncode:
            raise FedsdnError(
                f"{self.name}: '{' '.join(command)}' ended with status {done.returncode}: "
                f"{last_words(done.stderr, done.stdout)}"
            )
        return done.stdout

    def json(self, *command: str) -> Any:  # noqa: ANN401 -- whatever the command prints
        """Run a command that prints JSON, and return what it printed.

        Raises:
            FedsdnError: as ``output``, or it is not JSON.

        """
        text = self.output(*command)
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise FedsdnError(
                f"{self.name}: '{' '.join(command)}' printed no JSON: {text[:80]!r}"
            ) from error

    @contextmanager
    def started(self, *command: str) -> Iterator[Started]:
        """Run a command beside the block; when the block is left, it is ended.

        Raises:
            FedsdnError: there is no such command.

        """
        try:
            process = subprocess.Popen(
                self._arguments(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
        except FileNotFoundError as error:
            raise FedsdnError(f"{error.filename} is missing: install it") from error
        with process:
            try:
                yield Started(f"{self.name}: '{' '.join(command)}'", process)
            finally:
                process.kill()


@dataclass(frozen=True, slots=True)
class Started:
    """A command that runs beside us, and ends when its standard input does."""

    name: str
    process: subprocess.Popen[str]

    def line(self) -> str:
        """Wait for its next line of output; empty once it has ended.

        Octet by octet: what was read ahead would be lost to ``finish``.
        """
        if self.process.stdout is None:
            return ""
        read = bytearray()
        while not read.endswith(b"\n") and (octet := os.read(self.process.stdout.fileno(), 1)):
            read += octet
        return read.decode(errors="replace")

    def ask(self, question: str) -> str:
        """Write a line to its standard input, and wait as ``line`` for the answer."""
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):  # it has ended
                self.process.stdin.write(f"{question}\n")
                self.process.stdin.flush()
        return self.line()

    def finish(self, timeout: float = COMMAND_SECONDS) -> str:
        """End its standard input and return the rest of its output.

        Raises:
            FedsdnError: it did not end within ``timeout`` seconds, or not with status 0.

        """
        try:
            out, errors = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise FedsdnError(f"{self.name} did not end within {timeout:g} s") from error
        if self.process.returncode:
            raise FedsdnError(
                f"{self.name} ended with status {self.process.returncode}: {last_words(errors)}"
            )
        return out


def last_words(*outputs: str) -> str:
    """Return the last line of the first output that has one: there commands say what is wrong."""
    lines = next((text.strip().splitlines() for text in outputs if text.strip()), [])
    return lines[-1] if lines else "no message"
