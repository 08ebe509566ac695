"""What fedsdn uplinks makes of what the file, the application and the kernel say."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from fedsdn.cli.uplinks import _blocks, tables
from fedsdn.inspect.uplinks import KernelView, snapshot
from fedsdn.units import ago
from fedsdn.uplinks.path import PathName
from fedsdn.uplinks.status import PathState, PathStatus, PortState, SiteStatus, UplinkStatus
from fedsdn.verify.tunnels import parse_counters
from tests.unit.federations import three_sites, two_sites

NOW = 1_000_000.0
DATAGRAMS = "2.0 kB↑ 300 B↓"
STATUS = SiteStatus(
    "a",
    NOW,
    (
        UplinkStatus("up1", PortState.UP, NOW - 7300, 1),
        UplinkStatus("up2", PortState.DOWN, NOW - 12, None),
    ),
    (
        PathStatus("up1", "b", "up1", PathState.UP, NOW - 180, "it answers", 30.25, 1 / 64),
        PathStatus("up2", "b", "up2", PathState.DOWN, NOW - 12, "port is down", None, None),
    ),
)
UP1 = ip_address("192.0.2.1"), ip_address("192.0.2.2")
UP2 = ip_address("2001:db8:2::1"), ip_address("2001:db8:2::2")
KERNEL = KernelView(
    endpoints={UP1[0]: 1},
    subflows=(UP1, UP1, UP2, (UP1[0], ip_address("203.0.113.9"))),
    counters={"lo": (1, 1), "wan-up1": (1_500_000, 999)},
    tunnels={PathName("up1", "b", "up1"): (2_000, 300)},
)


def test_everything_is_in_the_tables() -> None:
    uplinks, paths = tables(snapshot(two_sites(), "a", STATUS, KERNEL, NOW))
    assert uplinks.title == "uplinks of a"
    assert " ".join(uplinks.headings) == (
        "uplink port address state endpoint subflows sent received datagrams since"
    )
    assert uplinks.rows == [
        ["up1", "up1", "192.0.2.1", "up", "1", "3", "1.5 MB", "999 B", DATAGRAMS, "2 h"],
        ["up2", "up2", "2001:db8:2::1", "down", "none", "1", "", "", "", "12 s"],
    ]
    assert " ".join(paths.headings) == "path state RTT loss subflows datagrams since why"
    assert paths.rows == [
        ["up1 to b/up1", "up", "30.2 ms", "1.6 %", "2", DATAGRAMS, "3 min", "it answers"],
        ["up2 to b/up2", "down", "", "", "1", "", "12 s", "port is down"],
    ]


@pytest.mark.parametrize("status", [None, replace(STATUS, site="b")], ids=["none", "another's"])
def test_without_an_application_the_kernel_is_shown(status: SiteStatus | None) -> None:
    found = snapshot(two_sites(), "a", status, KERNEL, NOW)
    assert not found.application
    uplinks, paths = tables(found)
    assert uplinks.rows[0] == [
        *("up1", "up1", "192.0.2.1", "unknown", "1", "3", "1.5 MB", "999 B", DATAGRAMS, "")
    ]
    assert paths.rows[0] == ["up1 to b/up1", "unknown", "", "", "2", DATAGRAMS, "", ""]


def test_paths_the_application_does_not_know_yet_are_unknown() -> None:
    _, paths = tables(snapshot(three_sites(), "a", STATUS, KERNEL, NOW))
    assert [(row[0], row[1]) for row in paths.rows] == [
        ("up1 to b/up1", "up"),
        ("up2 to b/up2", "down"),
        ("up1 to c/up1", "unknown"),
        ("up2 to c/up2", "unknown"),
    ]


def test_why_nothing_is_known_of_datagrams_is_one_line() -> None:
    unread = replace(KERNEL, tunnels={}, tunnels_unread="wg does not answer in a/fedsdn")
    *_, said = _blocks(snapshot(two_sites(), "a", STATUS, unread, NOW))
    assert said == "datagrams: unknown: wg does not answer in a/fedsdn"


def test_rates_are_those_since_the_earlier_snapshot() -> None:
    later = replace(KERNEL, counters={"wan-up1": (26_500_000, 500), "wan-up2": (1, 1)})
    before = snapshot(two_sites(), "a", STATUS, KERNEL, NOW)
    uplinks, _ = tables(snapshot(two_sites(), "a", STATUS, later, NOW + 2), before)
    assert uplinks.headings[6:] == [
        "sent",
        "received",
        "sent/s",
        "received/s",
        "datagrams",
        "since",
    ]
    assert uplinks.rows[0][8:10] == ["100.0 Mbit", ""], "fewer bytes: another interface"
    assert uplinks.rows[1][8:10] == ["", ""], "it was not there before"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 s"),
        (0.4, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (86399, "23 h"),
        (200_000, "2 d"),
    ],
)
def test_since_in_words(seconds: float, text: str) -> None:
    assert ago(NOW - seconds, NOW) == text


def test_since_what_is_not_known() -> None:
    assert ago(None, NOW) == ""


def test_counters_are_read_as_the_kernel_writes_them() -> None:
    text = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop
    lo:       7       1    0    0    0     0          0         0        8       1    0    0
wan-up1:1234567     12    0    0    0     0          0         0     4321      12    0    0
"""
    assert parse_counters(text) == {"lo": (8, 7), "wan-up1": (4321, 1234567)}
