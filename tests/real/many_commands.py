"""Runs commands of ``fedsdn`` in children of one process, which has imported everything once.

``python -m tests.real.many_commands`` reads a JSON list of argument lists, and prints a JSON list
of exit status, standard output and standard error of each: what an operator's shell would see,
without the start of an interpreter for each, which takes longer than most commands.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from typing import IO, NoReturn

import fedsdn.cli
from fedsdn.cli.main import main as fedsdn_main

AT_ONCE = 3


def _be(arguments: Sequence[str], out: IO[bytes], errors: IO[bytes]) -> NoReturn:
    """Run a command in this process, which is a child, and end it."""
    status = 1
    try:
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number, descriptor in enumerate((nothing, out.fileno(), errors.fileno())):
            os.dup2(descriptor, number)
        sys.argv = ["fedsdn", *arguments]
        fedsdn_main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run(commands: Sequence[Sequence[str]]) -> list[tuple[int, str, str]]:
    """Run commands at once; return status, output and errors of each."""
    with ExitStack() as stack:
        children = []
        for arguments in commands:
            out, errors = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(2))
            if not (pid := os.fork()):
                _be(arguments, out, errors)
            children.append((pid, out, errors))
        return [
            (os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), _text(out), _text(errors))
            for pid, out, errors in children
        ]


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def main() -> None:
    """Run the commands that standard input lists."""
    for module in pkgutil.iter_modules(fedsdn.cli.__path__, "fedsdn.cli."):
        importlib.import_module(module.name)
    commands = json.load(sys.stdin)
    ended = []
    for first in range(0, len(commands), AT_ONCE):
        ended += _run(commands[first : first + AT_ONCE])
    json.dump(ended, sys.stdout)


if __name__ == "__main__":
    main()
