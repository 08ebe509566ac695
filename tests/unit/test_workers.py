"""The parent of the workers, when the kernel gives it no process."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import astuple
from functools import partial
from pathlib import Path

import pytest
from msgspec.json import encode
from msgspec.structs import replace

from fedsdn.config.loader import dump_federation
from fedsdn.config.watch import WatchedFederation
from fedsdn.errors import FedsdnError
from fedsdn.pipeline.declarations import MOST_WORKERS
from fedsdn.proxy.memory import Memory
from fedsdn.proxy.opening.device import NO_ORDER
from fedsdn.proxy.process import parent as module
from fedsdn.proxy.process import reload, worker
from fedsdn.proxy.process.doors import Doors, Word, hear, say
from fedsdn.proxy.process.handed_on import HandedWorker, handed_on
from fedsdn.proxy.process.parent import Parent
from fedsdn.proxy.process.place import Shared
from fedsdn.proxy.process.settings import Kept, Settings
from fedsdn.proxy.process.stats_socket import StatisticsSocket
from fedsdn.proxy.process.succession import Child, Succession
from fedsdn.proxy.stats import Statistics
from tests.unit.federations import two_sites


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Parent]:
    file = tmp_path / "federation.yaml"
    file.write_text(dump_federation(two_sites()))
    statistics = Statistics(1)
    served = StatisticsSocket(tmp_path / "proxy.sock", statistics)
    settings = Settings("a", file, 1, 0.0, "none", file.parent / "identity")
    shared = Shared.within(Memory())
    kept = Kept((7,), (), NO_ORDER)
    yield Parent(settings, WatchedFederation(file, "a"), statistics, served, shared, kept)
    served.remove()


def test_a_worker_that_cannot_be_forked_is_tried_again_and_ends_no_other(
    parent: Parent, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """``fork`` is a mock here: root's processes have no limit that would not harm the machine."""

    def no_process() -> int:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", no_process)
    parent._start(0)
    assert list(parent._missing) == [0]
    assert parent._workers == {}
    assert [record.getMessage() for record in caplog.records] == [
        "worker 0 cannot be started, trying again: Resource temporarily unavailable"
    ]
    monkeypatch.setattr(os, "fork", lambda: 4711)
    monkeypatch.setattr(module, "RESTART_SECONDS", 0.0)
    parent._missing[0] = 0.0
    parent._start_missing()
    assert [child.number for child in parent._workers.values()] == [0]


def test_a_worker_says_why_it_ends_although_the_last_end_was_a_moment_ago(
    parent: Parent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(reason: str, *_: object) -> None:
        raise OSError(reason)

    monkeypatch.setattr(module, "RESTART_SECONDS", 3600.0)
    log = logging.FileHandler(tmp_path / "log")
    logs = logging.getLogger("fedsdn.proxy.process")
    logs.addHandler(log)
    try:
        for reason in ("one", "two", "three"):
            monkeypatch.setattr(worker, "run", partial(fail, reason))
            parent._start(0)
            os.waitid(os.P_PID, next(iter(parent._workers)), os.WEXITED | os.WNOWAIT)
            parent._reap()
    finally:
        logs.removeHandler(log)
        log.close()
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line for line in lines if "ends" in line] == [
        f"worker 0 ends: {told}" for told in ("one", "two", "three")
    ]
    assert sum("starting it again" in line for line in lines) == 1


def test_a_worker_that_ends_soon_waits_longer_each_time(
    parent: Parent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is a mock, for what takes minutes."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    delays = []
    for lived in (0.1, 0.1, 0.1, 29.0, 0.1, 0.1, 31.0, 0.1):
        parent._started[0] = now
        now += lived
        delays.append(parent._delay(0))
    assert delays == [1, 2, 4, 8, 16, 30, 1, 2]


def test_a_reload_is_refused_when_old_workers_leave_too_few_numbers(parent: Parent) -> None:
    for number in range(MOST_WORKERS):
        assert parent._refusal() == ""
        control, _ = socket.socketpair()
        parent._workers[number] = Child(number, number, control, 0.0, leaving=True)
    assert "of 64 workers only 0 more may be started, and 1 are to be" in parent._refusal()


def test_what_is_handed_on_is_read_as_it_was_written(
    parent: Parent, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept((7, 8), (), 9)
    parent._kept = kept
    document = parent._document()
    monkeypatch.setitem(os.environ, "FEDSDN_HANDED_ON", encode(document).decode())
    assert handed_on() == document
    assert handed_on() is None, "only once: no program further on has it"


def test_what_another_version_hands_on_in_another_way_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(os.environ, "FEDSDN_HANDED_ON", '{"layout": 7}')
    with pytest.raises(FedsdnError, match="the versions are too far apart") as raised:
        handed_on()
    assert "\n" not in str(raised.value)


def child(
    number: int, *, fresh: bool = False, leaving: bool = False
) -> tuple[Child, socket.socket]:
    """Return a worker that is no process, and its end of the talk with the parent."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.settimeout(0.0)
    return Child(1_000_000 + number, number, ours, 0.0, fresh, leaving), theirs


def files(doors: Doors) -> list[tuple[int, int]]:
    found = [os.fstat(descriptor) for descriptor in astuple(doors)]
    return [(one.st_dev, one.st_ino) for one in found]


@pytest.mark.parametrize("during_another_reload", [False, True])
def test_doors_that_are_given_away_late_go_to_a_worker_that_serves(
    parent: Parent, during_another_reload: bool
) -> None:
    late, its_end = child(0, leaving=True)
    other, _ = child(1, leaving=True)
    serving, servers_end = child(2)
    fresh, freshs_end = child(3, fresh=True)
    for one in (late, other, serving, fresh):
        parent._adopt(one)
    if during_another_reload:
        parent._reload.succession = Succession([fresh], [late, other, serving])
    doors = Doors(os.memfd_create("peers"), os.memfd_create("queue"))
    say(its_end, Word.DOORS, doors)
    assert parent._hear(late)
    word, given = hear(servers_end)
    assert word is Word.TAKE
    assert [files(one) for one in given] == [files(doors)]
    with pytest.raises(BlockingIOError):
        hear(freshs_end)


def test_what_ends_during_a_succession_is_started_at_its_end_if_it_is_to_be(parent: Parent) -> None:
    before, _ = child(0)
    fresh, _ = child(1, fresh=True)
    for one in (before, fresh):
        parent._adopt(one)
    parent._reload.succession = Succession([fresh], [before])
    parent._take_end(before, -9)
    parent._missing = dict.fromkeys(parent._missing, 0.0)
    assert list(parent._missing) == [0]
    parent._start_missing()
    assert list(parent._missing) == [0], "it is not started beside the one that takes its place"
    assert parent._until_next_start() > 0
    parent._reload.succession.heard(fresh, Word.READY, [])
    parent._look_at_reload()
    assert parent._missing == {}
    assert parent._statistics.running == 1


def test_a_stop_ends_a_reload_that_has_not_begun(
    parent: Parent, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[object] = []
    monkeypatch.setattr(reload, "Trial", lambda *how: tried.append(how))
    parent._take(signal.SIGHUP)
    parent._take(signal.SIGTERM)
    parent._look_at_reload()
    assert tried == []


def test_after_a_reload_that_is_undone_the_first_worker_is_the_same(
    parent: Parent, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No process is made, and none is killed."""
    killed = []
    monkeypatch.setattr(os, "fork", lambda: 1_000_001)
    monkeypatch.setattr(os, "kill", lambda *how: killed.append(how))
    ours, _theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = HandedWorker(1_000_000, 3, ours.detach(), leaving=False, started=0.0)
    parent._succeed(replace(parent._document(), workers=(before,)))
    assert parent._reload.succession is not None
    parent._reload.succession.failure = "it does not work"
    parent._look_at_reload()
    assert killed == [(1_000_001, signal.SIGKILL)]
    assert (parent._first, parent._heir) == (3, None)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        "not reloaded, going on as before: it does not work; workers that end from now on are of "
        "the new program: put the old one back and reload"
    ]
