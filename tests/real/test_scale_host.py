"""The benchmark of large federations runs, here with a small one, and leaves nothing."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from fedsdn.bench import scale, scale_host
from fedsdn.pipeline.build import pipeline_flows

pytestmark = pytest.mark.real


def processes_in(directory: str) -> list[str]:
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it ends meanwhile
            commands.append(path.read_bytes().decode())
    return [command for command in commands if directory in command]


def test_a_host_follows_a_site_that_leaves_and_comes() -> None:
    lines: list[str] = []
    costs = scale_host.measure(4, 2, 0.1, lines.append)
    assert costs.flows >= len(pipeline_flows(scale.federation(4, 2), "site-0"))
    assert costs.set_up > 0
    assert costs.install > 0
    assert lines
    assert processes_in(f"fedsdn-scale-{os.getpid()}-") == []
