"""The proxy's statistics, served on a real socket out of memory that processes share."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

import pytest

from fedsdn.errors import FedsdnError
from fedsdn.proxy.ended.by_peer import Refused
from fedsdn.proxy.ended.record import Ended, Reason, Who
from fedsdn.proxy.ended.ring import RECORDS
from fedsdn.proxy.process.stats_socket import (
    RECENT_SECONDS,
    StatisticsSocket,
    check_workers,
    read_ended,
    read_refused,
    read_statistics,
)
from fedsdn.proxy.stats import Counter, Statistics
from fedsdn.socket_address import SocketAddress


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


Found = TypeVar("Found", dict[str, int], list[Ended], list[Refused])


def answered(one: StatisticsSocket, path: Path, read: Callable[[Path], Found]) -> Found:
    """Ask as the command does, and let the proxy's process answer."""
    with ThreadPoolExecutor(1) as threads:
        answer = threads.submit(read, path)
        while not answer.done():
            one.answer()
        return answer.result()


def asked(one: StatisticsSocket, path: Path) -> dict[str, int]:
    return answered(one, path, read_statistics)


def count_in_another_process(statistics: Statistics, worker: int) -> None:
    if (pid := os.fork()) == 0:
        statistics.row(worker).add(Counter.OUTBOUND, 2)
        statistics.row(worker).add(Counter.OUTBOUND_OPEN)
        statistics.row(worker).ended(Ended(Reason.REFUSED, Who.VM_THERE))
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


def test_refusals_are_told_by_peer_and_reason(path: Path) -> None:
    statistics = Statistics(1)
    statistics.row(0).ended(Ended(Reason.NO_RULE, Who.HERE, peer="b", count=4, time=5.0))
    with served(path, statistics) as one:
        assert answered(one, path, read_refused) == [Refused("b", Reason.NO_RULE, 4, 5)]
        assert asked(one, path)["ended_no_rule"] == 4


def test_a_worker_that_has_ended_lately_is_said(path: Path) -> None:
    statistics = Statistics(2)
    statistics.running, statistics.restarts = 2, 3
    with served(path, statistics) as one:
        statistics.last_restart = time.time() - RECENT_SECONDS
        assert check_workers(asked(one, path)) == "2 workers, 3 times one was started again"
        statistics.last_restart = time.time() - 60
        with pytest.raises(FedsdnError, match="started again, the last 1 min ago: "):
            check_workers(asked(one, path))


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


def test_what_has_ended_is_told_the_last_first(path: Path) -> None:
    statistics = Statistics(2)
    with served(path, statistics) as one:
        for worker in (0, 1):
            count_in_another_process(statistics, worker)
        statistics.row(0).ended(Ended(Reason.NO_PATH, Who.PATHS, peer="b"))
        found = answered(one, path, read_ended)
        assert [ended.reason for ended in found] == [Reason.NO_PATH, *[Reason.REFUSED] * 2]


def test_full_rings_of_many_workers_are_told_at_once(path: Path) -> None:
    statistics = Statistics(8)
    address = SocketAddress(ip_address("fd00:1111:2222:3333:4444:5555:6666:7777"), 65535)
    long = Ended(
        *(Reason.FOREIGN_DESTINATION, Who.VM_THERE, None, "b" * 60),
        client=address,
        destination=address,
        detail="words " * 30,
    )
    with served(path, statistics) as one:
        for worker in range(8):
            for _ in range(RECORDS):
                statistics.row(worker).ended(long)
                statistics.row(worker).ended(replace(long, reason=Reason.REFUSED))
        assert len(answered(one, path, read_ended)) == 1000


def test_a_port_scan_does_not_hide_a_fault(path: Path) -> None:
    statistics = Statistics(4)
    with served(path, statistics) as one:
        statistics.row(0).ended(Ended(Reason.NOT_RESTORED, Who.HERE))
        for worker in range(4):
            for _ in range(RECORDS):
                statistics.row(worker).ended(Ended(Reason.REFUSED, Who.VM_THERE))
        found = answered(one, path, read_ended)
        assert found[-1].reason is Reason.NOT_RESTORED


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
