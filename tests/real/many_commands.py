"""Runs commands of ``fedsdn`` in children of one process, which has imported everything once.

``python -m tests.real.many_commands`` reads requests, a line of JSON each: ``commands``, a list of
argument lists, ``environment``, what is added to its own, and ``first``, a program that each child
runs before its command. For each request it prints a line, a list of exit status, standard output
and standard error of each: what an operator's shell would see, without the start of an interpreter
for each, which takes longer than most commands.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import IO, Any, NoReturn

import fedsdn.cli
from fedsdn.cli.main import main as fedsdn_main

AT_ONCE = 3


def _be(
    arguments: Sequence[str], request: Mapping[str, Any], out: IO[bytes], errors: IO[bytes]
) -> NoReturn:
    """Run a command in this process, which is a child, and end it."""
    status = 1
    try:
        os.environ.update(request["environment"])
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number, descriptor in enumerate((nothing, out.fileno(), errors.fileno())):
            os.dup2(descriptor, number)
        sys.argv = ["fedsdn", *arguments]
        exec(request["first"], {})  # noqa: S102 -- the test's own
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


def _run(
    commands: Sequence[Sequence[str]], request: Mapping[str, Any]
) -> list[tuple[int, str, str]]:
    """Run commands at once; return status, output and errors of each."""
    with ExitStack() as stack:
        children = []
        for arguments in commands:
            out, errors = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(2))
            if not (pid := os.fork()):
                _be(arguments, request, out, errors)
            children.append((pid, out, errors))
        return [
            (os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), _text(out), _text(errors))
            for pid, out, errors in children
        ]


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def main() -> None:
    """Run the commands that standard input asks for, until it ends."""
    for module in pkgutil.iter_modules(fedsdn.cli.__path__, "fedsdn.cli."):
        importlib.import_module(module.name)
    for line in sys.stdin:
        request = json.loads(line)
        commands, ended = request["commands"], []
        for first in range(0, len(commands), AT_ONCE):
            ended += _run(commands[first : first + AT_ONCE], request)
        print(json.dumps(ended), flush=True)


if __name__ == "__main__":
    main()
