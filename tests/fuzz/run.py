"""Starting the fuzzer from messages that are good, as chance alone makes none."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import atheris


def fuzz(one_input: Callable[[bytes], None], good: Iterable[bytes]) -> None:
    """Change good inputs, and what grows out of them, until the command line's limit."""
    with tempfile.TemporaryDirectory() as corpus:
        for number, data in enumerate(good):
            (Path(corpus) / str(number)).write_bytes(data)
        atheris.Setup([*sys.argv, corpus], one_input)
        atheris.Fuzz()
