"""A reload's course, as the parent of the workers sees it; another program plays that on disk."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from fedsdn.errors import FINAL_STATUS
from fedsdn.proxy.process import reload as module
from fedsdn.proxy.process.reload import Reload
from fedsdn.proxy.stats import Statistics


class Trial:
    """A program that ends by itself after a while, and would run."""

    seconds: ClassVar[str] = "0"
    started: ClassVar[list[Trial]] = []

    def __init__(self, *_: object) -> None:
        self._process = subprocess.Popen(["sleep", self.seconds])
        self.pid = self._process.pid
        self.started.append(self)

    def result(self, status: int) -> str:
        self._process.returncode = os.waitstatus_to_exitcode(status)
        return "" if not status else f"it ends with status {self._process.returncode}"


class Executed(Exception):  # noqa: N818  (no error)
    """This process is another program from here on."""


def execute(_: object) -> None:
    raise Executed


@pytest.fixture
def statistics() -> Statistics:
    return Statistics(1)


@pytest.fixture
def reload(statistics: Statistics, monkeypatch: pytest.MonkeyPatch) -> Reload:
    monkeypatch.setattr(module, "Trial", Trial)
    monkeypatch.setattr(module, "execute", execute)
    monkeypatch.setattr(Trial, "started", [])
    return Reload(statistics, (signal.SIGUSR1,), lambda: None, lambda: "")  # type: ignore[arg-type,return-value]


@pytest.fixture
def received() -> Iterator[socket.socket]:
    one, other = socket.socketpair()
    with one, other:
        yield one


def end(reload: Reload) -> None:
    """Have the reload hear of the end of its trial."""
    assert reload.ended(*os.waitpid(Trial.started[-1].pid, 0))


def test_what_is_on_disk_is_executed_after_a_trial(reload: Reload, received: socket.socket) -> None:
    reload.ask()
    reload.look(received)
    end(reload)
    with pytest.raises(Executed):
        reload.look(received)


@pytest.mark.parametrize("seconds", ["0", "60"], ids=["trial over", "trial runs"])
def test_after_a_stop_nothing_is_executed_or_tried(
    reload: Reload,
    received: socket.socket,
    statistics: Statistics,
    monkeypatch: pytest.MonkeyPatch,
    seconds: str,
) -> None:
    monkeypatch.setattr(Trial, "seconds", seconds)
    reload.ask()
    reload.look(received)
    reload.ask()
    if seconds == "0":
        end(reload)
        reload.give_up()
    else:
        reload.give_up()
        end(reload)
    for _ in range(3):
        reload.look(received)
    assert len(Trial.started) == 1
    assert statistics.reloads_failed == 0


def test_what_changes_during_a_trial_is_tried_before_it_is_executed(
    reload: Reload, received: socket.socket
) -> None:
    reload.ask()
    reload.look(received)
    reload.ask()
    end(reload)
    reload.look(received)
    assert len(Trial.started) == 2
    end(reload)
    with pytest.raises(Executed):
        reload.look(received)


def test_a_trial_that_says_nothing_in_time_is_ended(
    reload: Reload,
    received: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(Trial, "seconds", "60")
    monkeypatch.setattr(module, "_TRIAL_SECONDS", 0.0)
    with caplog.at_level(logging.ERROR):
        reload.ask()
        reload.look(received)
        reload.look(received)
        end(reload)
    assert [record.getMessage() for record in caplog.records] == [
        "not reloaded, going on as before: "
        "the program on disk has not said within 0 s whether it runs"
    ]


@pytest.mark.parametrize(
    ("handed", "status"), [({}, FINAL_STATUS), ({"FEDSDN_HANDED_ON": "{}"}, 1)]
)
def test_a_bad_file_ends_a_program_for_good_unless_it_was_handed_something(
    handed: dict[str, str], status: int, tmp_path: Path
) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "fedsdn.cli.main", "proxy", "run", "--config-file", tmp_path / "no"],
        env=os.environ | handed,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == status
    assert ended.stderr.startswith("fedsdn: ")
    assert ended.stderr.count("\n") == 1
