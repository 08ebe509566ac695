"""What the workers' user may read, found out before there are workers."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from fedsdn.errors import FedsdnError, FinalError
from fedsdn.proxy.process.as_worker import check_as_worker
from fedsdn.users import PROXY_USER


def refuse() -> None:
    raise FedsdnError("the key is another one's")


def test_what_is_well_goes_on() -> None:
    check_as_worker(lambda: None)


def test_an_error_is_the_one_that_the_worker_would_have() -> None:
    with pytest.raises(FinalError, match="the key is another one's"):
        check_as_worker(refuse)


def test_what_root_may_read_and_the_worker_not_is_named(tmp_path: Path) -> None:
    directory = tmp_path / "fedsdn"
    directory.mkdir(0o700)
    file = directory / "federation.yaml"
    file.touch(0o644)
    with pytest.raises(FinalError, match=rf"^{file}: .*\(user {PROXY_USER}\) .*'namei -l {file}'"):
        check_as_worker(lambda: file.open().close())


def test_a_check_that_is_killed_is_no_good_one() -> None:
    with pytest.raises(FinalError, match="the process has ended"):
        check_as_worker(lambda: os.kill(os.getpid(), signal.SIGKILL))
