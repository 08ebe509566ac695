"""A part of a worker that fails ends the worker, which says why and is started again."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from fedsdn.lab.namespaces import Namespace
from fedsdn.pipeline.declarations import SOCKSIFIER_LISTEN_PORTS
from fedsdn.proxy.process.stats_socket import read_statistics
from tests.real.faulty_proxy import FAILING, FAULTS, REASON, STARTED
from tests.real.proxy_net import LIMIT_S, ROOT
from tests.real.site_host import wait_until
from tests.unit.federations import two_sites

pytestmark = pytest.mark.real

AT_ONCE_S = 20.0
"""Of a machine that has other things to do; a part that hangs would not end at all."""


class FaultyProxy:
    def __init__(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        self.process = process
        self.directory = directory

    @property
    def lines(self) -> list[str]:
        return (self.directory / "log").read_text().splitlines()

    def said_at(self, text: str) -> float:
        """When the log first said this."""
        return next(float(line.split()[0]) for line in self.lines if text in line)

    def has_said(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    def serves(self, port: int) -> bool:
        """Whether somebody listens; who is no VM and no peer is reset then."""
        with Namespace(Path(f"/proc/{self.process.pid}/ns/net")).open("127.0.0.1") as stranger:
            return stranger.connect_ex(("127.0.0.1", port)) != errno.ECONNREFUSED


@contextmanager
def faulty_proxy(part: str, directory: Path) -> Iterator[FaultyProxy]:
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            ["unshare", "--net", sys.executable, "-m", "tests.real.faulty_proxy", part, directory],
            stdout=log,
            stderr=log,
            cwd=ROOT,
        )
    try:
        yield FaultyProxy(process, directory)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def directory() -> Iterator[Path]:
    """One for root and for the workers, who are not: pytest's are root's alone."""
    with TemporaryDirectory() as name:
        os.chmod(name, 0o777)  # noqa: S103 - each has files in it that the other may not write
        yield Path(name)


@pytest.mark.parametrize("part", FAULTS)
def test_a_part_that_fails_ends_its_worker_which_says_why_and_is_started_again(
    part: str, directory: Path
) -> None:
    with faulty_proxy(part, directory) as proxy:
        wait_until(lambda: proxy.has_said("worker 0 ended (status 1); starting it again"))
        reason = f"its {part}" if part.endswith("ended") else REASON
        assert sum("worker 0 ends: its " + part in line for line in proxy.lines) >= 1
        began = proxy.said_at(FAILING)
        assert began <= proxy.said_at(reason) <= began + AT_ONCE_S
        assert proxy.said_at("ended (status 1)") <= began + AT_ONCE_S
        ports = (two_sites().proxy_port, SOCKSIFIER_LISTEN_PORTS[0])
        wait_until(lambda: all(map(proxy.serves, ports)))
        assert read_statistics(directory / "proxy.sock")["workers"] == 1
        assert proxy.process.poll() is None
        assert sum(STARTED in line for line in proxy.lines) == 1
        proxy.process.terminate()
        assert proxy.process.wait(LIMIT_S) == 0
