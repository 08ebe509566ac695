"""The proxy's statistics, served on a real socket out of memory that processes share."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedsdn.errors import FedsdnError
from fedsdn.proxy.process.stats_socket import StatisticsSocket, check_workers, read_statistics
from fedsdn.proxy.stats import Counter, Statistics


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run/proxy.sock"


@contextmanager
def served(path: Path, statistics: Statistics) -> Iterator[StatisticsSocket]:
    one = StatisticsSocket(path, statistics)
    try:
        yield one
    finally:
        one.remove()


def asked(one: StatisticsSocket, path: Path) -> dict[str, int]:
    """Ask as the command does, and let the proxy's process answer."""
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(read_statistics, path)
        while not answer.done():
            one.answer()
        return answer.result()


def count_in_another_process(statistics: Statistics, worker: int) -> None:
    if (pid := os.fork()) == 0:
        statistics.row(worker).add(Counter.OUTBOUND, 2)
        statistics.row(worker).add(Counter.OUTBOUND_OPEN)
        statistics.row(worker).say_once("said by one worker, and so by all")
        os._exit(0)
    os.waitpid(pid, 0)


def test_a_worker_that_does_not_run_is_said(path: Path) -> None:
    statistics = Statistics(2)
    with served(path, statistics) as one:
        for statistics.running in (0, 1):
            with pytest.raises(FedsdnError, match=f"{statistics.running} of 2 workers run: "):
                check_workers(asked(one, path))
        statistics.running = 2
        assert check_workers(asked(one, path)) == "2 workers"


def test_what_workers_count_is_summed(path: Path) -> None:
    statistics = Statistics(2)
    with served(path, statistics) as one:
        for worker in (0, 1):
            count_in_another_process(statistics, worker)
        totals = asked(one, path)
        assert (totals["workers"], totals["outbound"], totals["outbound_open"]) == (2, 4, 2)
        statistics.forget_open(1)
        totals = asked(one, path)
        assert (totals["outbound"], totals["outbound_open"]) == (4, 1)


def test_what_one_worker_has_said_no_other_says_again(caplog: pytest.LogCaptureFixture) -> None:
    statistics = Statistics(2)
    count_in_another_process(statistics, 0)
    row = statistics.row(1)
    row.say_once("said by one worker, and so by all")
    for _ in range(2):
        row.refused(Counter.REFUSED_NOT_A_PEER, "192.0.2.9", "not a peer's uplink")
    assert [record.getMessage() for record in caplog.records] == [
        "192.0.2.9: refused: not a peer's uplink (said once; see 'fedsdn proxy stats')"
    ]
    assert row.value(Counter.REFUSED_NOT_A_PEER) == 2


def test_a_second_proxy_is_refused_and_harms_no_first(path: Path) -> None:
    with served(path, Statistics(1)) as one:
        with pytest.raises(FedsdnError, match="another proxy runs here"):
            StatisticsSocket(path, Statistics(1))
        assert asked(one, path)["workers"] == 1


def test_a_socket_that_a_killed_proxy_left_is_replaced(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with served(path, Statistics(3)) as one:
        assert path.stat().st_mode & 0o777 == 0o600
        assert asked(one, path)["workers"] == 3
    assert not path.exists()


def test_who_asks_and_goes_away_is_not_waited_for(path: Path) -> None:
    with served(path, Statistics(1)) as one:
        with socket.socket(socket.AF_UNIX) as gone, socket.socket(socket.AF_UNIX) as lazy:
            gone.connect(str(path))
            gone.close()
            lazy.connect(str(path))
            one.answer()
            one.answer()
            one.answer()  # nobody is left
        assert asked(one, path)["workers"] == 1


def test_without_a_proxy_the_remedy_is_named(path: Path) -> None:
    with pytest.raises(FedsdnError, match="start it with 'fedsdn proxy run'"):
        read_statistics(path)
