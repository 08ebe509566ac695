"""What the parent says of connections that failed or were ended."""

from __future__ import annotations

import logging
from ipaddress import ip_address

import pytest

from fedsdn.channel.connection import Direction
from fedsdn.damped_log import DampedLog
from fedsdn.proxy.ended.record import Ended, Reason, Who
from fedsdn.proxy.process.ended_log import EndedLog
from fedsdn.proxy.stats import Statistics
from fedsdn.socket_address import SocketAddress


def refused(port: int) -> Ended:
    client = SocketAddress(ip_address("10.1.0.11"), port)
    return Ended(Reason.REFUSED, Who.VM_THERE, Direction.OUTBOUND, "b", client)


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    found = [(record.levelname, record.getMessage()) for record in caplog.records]
    caplog.clear()
    return found


def test_each_reason_once_a_minute_and_how_many_since(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    statistics, now = Statistics(2), 0.0
    damped = DampedLog(logging.getLogger(__name__), clock=lambda: now)
    log = EndedLog(statistics, damped)
    log.look()
    assert said(caplog) == []
    statistics.row(1).ended(refused(1))
    log.look()
    line = (
        "refused: outbound, 10.1.0.11:{}, site b, by VM at peer (see 'fedsdn connections --ended')"
    )
    assert said(caplog) == [("INFO", line.format(1))]
    for port in (2, 3, 4):
        statistics.row(0).ended(refused(port))
    statistics.row(0).ended(Ended(Reason.FAULT, Who.HERE, detail="broken"))
    now = 59.0
    log.look()
    assert said(caplog) == [
        ("WARNING", "internal fault: by proxy, broken (see 'fedsdn connections --ended')")
    ]
    now = 60.0
    damped.say_rest()
    assert said(caplog) == [("INFO", f"{line.format(4)} (3 times since)")]
    now = 600.0
    log.look()
    damped.say_rest()
    assert said(caplog) == []


def test_after_a_reload_only_what_is_new_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    statistics, damped = Statistics(1), DampedLog(logging.getLogger(__name__))
    statistics.row(0).ended(Ended(Reason.FAULT, Who.HERE, detail="before"))
    before = EndedLog(statistics, damped)
    before.look()
    assert len(said(caplog)) == 1
    after = EndedLog(statistics, DampedLog(logging.getLogger(__name__)), before.told)
    after.look()
    assert said(caplog) == []
    statistics.row(0).ended(Ended(Reason.FAULT, Who.HERE, detail="after"))
    after.look()
    [(_, line)] = said(caplog)
    assert "after" in line


def test_at_the_end_nothing_is_kept_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    statistics = Statistics(1)
    damped = DampedLog(logging.getLogger(__name__))
    log = EndedLog(statistics, damped)
    for _ in range(2):
        statistics.row(0).ended(Ended(Reason.STOPPING, Who.HERE))
        log.look()
    assert len(said(caplog)) == 1
    damped.say_rest(at_the_end=True)
    assert len(said(caplog)) == 1


def test_what_the_ring_has_lost_is_said_without_an_example(
    caplog: pytest.LogCaptureFixture,
) -> None:
    statistics = Statistics(1)
    statistics.row(0).ended(Ended(Reason.NO_PATH, Who.PATHS, count=2))
    for _ in range(1000):
        statistics.row(0).ended(Ended(Reason.OVERLOAD, Who.HERE))
    EndedLog(statistics, DampedLog(logging.getLogger(__name__))).look()
    assert said(caplog)[0] == (
        "WARNING",
        "no path to peer (see 'fedsdn connections --ended') (2 times)",
    )
