"""Connections as three views see them, joined; and conntrack's own words, read."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from fedsdn.channel.connection import Connection, Direction
from fedsdn.cli.connections import lines
from fedsdn.inspect.connections import (
    CONNTRACK,
    MPTCP,
    PROXY,
    ConnectionView,
    by_rate,
    document,
    joined,
)
from fedsdn.mptcp.subflows import Subflow, SubflowKind
from fedsdn.ovs.conntrack import Entry, parse_entries
from fedsdn.socket_address import SocketAddress

UPLINKS = {ip_address("192.0.2.1"): "up1", ip_address("2001:db8:2::1"): "up2"}
NEAR, FAR = (
    SocketAddress(ip_address("10.1.0.11"), 40000),
    SocketAddress(ip_address("10.2.0.11"), 80),
)
OWN = SocketAddress(ip_address("10.2.0.2"), 40000)
OUTBOUND = (
    "tcp,orig=(src=10.1.0.11,dst=10.2.0.11,sport=40000,dport=80),"
    "reply=(src=10.2.0.11,dst=10.1.0.11,sport=80,dport=40000),"
    "zone=65237,mark=1,protoinfo=(state=ESTABLISHED)"
)
TRANSLATED = (
    "tcp,orig=(src=10.2.0.2,dst=10.2.0.11,sport=40000,dport=80),"
    "reply=(src=10.2.0.11,dst=10.1.0.11,sport=80,dport=40000),"
    "zone=65237,mark=2,protoinfo=(state=SYN_SENT)"
)
ENTRY = Entry(NEAR, FAR, NEAR, 1, "ESTABLISHED")


def carried(token: int = 7, shown: SocketAddress = NEAR) -> Connection:
    return Connection(
        1, Direction.OUTBOUND, "b", NEAR, FAR, shown, token, since=100.0, sent=10, received=20
    )


def subflow(
    local: str = "192.0.2.1", token: int = 7, kind: SubflowKind = SubflowKind.FIRST
) -> Subflow:
    peer = ip_address("192.0.2.2")
    return Subflow(kind, token, ip_address(local), 1, peer, 1080, 30.0, 10, 100, 0, 200, 0)


def test_an_entry_is_as_the_vms_see_it() -> None:
    assert parse_entries([OUTBOUND]) == [ENTRY]
    [translated] = parse_entries([TRANSLATED])
    assert translated == Entry(NEAR, FAR, OWN, 2, "SYN_SENT")
    assert not translated.outbound


def test_ipv6_and_the_kernels_words_are_read() -> None:
    [entry] = parse_entries(
        [
            "tcp,orig=(src=fd00:1::11,dst=fd00:2::11,sport=1,dport=2),reply=(src=fd00:2::11,"
            "dst=fd00:1::11,sport=2,dport=1),zone=65237,mark=0x2,labels=0x0,"
            "protoinfo=(state_orig=TIME_WAIT,state_reply=TIME_WAIT)"
        ]
    )
    assert (str(entry.client), entry.mark, entry.ended) == ("[fd00:1::11]:1", 2, True)


@pytest.mark.parametrize("line", ["", "udp,orig=(src=1.2.3.4,dst=1.2.3.5)", "hello"])
def test_other_lines_are_left_out(line: str) -> None:
    assert parse_entries([line]) == []


def test_one_that_all_views_have_is_whole() -> None:
    [view] = joined([ENTRY], [carried()], [subflow(), subflow("2001:db8:2::1")], UPLINKS, 0)
    assert view.absent == ()
    assert (view.client, view.destination, view.peer, view.state) == (NEAR, FAR, "b", "ESTABLISHED")
    assert [(share.uplink, share.subflows) for share in view.shares] == [("up1", 1), ("up2", 1)]
    assert (view.sent, view.received, view.since) == (10, 20, 100.0)


def test_a_connection_is_found_by_what_the_vm_sees() -> None:
    """Where sources are not restored, that is the proxy's address."""
    entry = Entry(OWN, FAR, OWN, 2, "ESTABLISHED")
    [view] = joined([entry], [carried(shown=OWN)], [subflow()], UPLINKS, 0)
    assert (view.client, view.absent) == (NEAR, ())


def test_an_entry_that_the_other_end_left_behind_is_the_connections_own() -> None:
    turned = Entry(FAR, NEAR, FAR, 1, "ESTABLISHED")
    [found] = joined([turned], [carried()], [subflow()], UPLINKS, 0)
    assert found.absent == ()


def test_what_only_a_first_segment_has_made_is_outbound() -> None:
    [found] = joined([Entry(NEAR, FAR, NEAR, 0, "SYN_SENT")], [], [], UPLINKS, 0)
    assert found.direction is Direction.OUTBOUND


@pytest.mark.parametrize(
    ("entries", "connections", "subflows", "absent"),
    [
        ([], [carried()], [subflow()], (CONNTRACK,)),
        ([ENTRY], [carried()], [], (MPTCP,)),
        ([ENTRY], [], [], (PROXY, MPTCP)),
        ([], [], [subflow()], (CONNTRACK, PROXY)),
        ([ENTRY], [carried(token=0)], [], ()),
    ],
    ids=["no conntrack", "no subflow", "conntrack alone", "MPTCP alone", "plain TCP"],
)
def test_what_a_view_lacks_is_said(
    entries: list[Entry], connections: list[Connection], subflows: list[Subflow], absent: object
) -> None:
    [view] = joined(entries, connections, subflows, UPLINKS, 0)
    assert view.absent == absent
    shown = "\n".join(lines([view], now=104.0))
    assert ("not in every view" in shown) is bool(absent)


def test_what_has_ended_is_left_out_unless_somebody_carries_it() -> None:
    ended = Entry(NEAR, FAR, NEAR, 1, "TIME_WAIT")
    assert joined([ended], [], [], UPLINKS, 0) == []
    [view] = joined([ended], [carried()], [subflow()], UPLINKS, 0)
    assert view.state == "TIME_WAIT"


def test_plain_tcp_between_proxies_is_no_stray() -> None:
    assert joined([], [], [subflow(token=0, kind=SubflowKind.FALLBACK)], UPLINKS, 0) == []


def test_connections_that_wait_for_a_request_are_no_strays() -> None:
    subflows = [subflow(token=7), subflow(token=8), subflow(token=9)]
    assert len(joined([], [], subflows, UPLINKS, 2)) == 1
    assert joined([], [], subflows, UPLINKS, 3) == []


def test_the_fastest_comes_first() -> None:
    other = SocketAddress(ip_address("10.2.0.12"), 80)

    def views(first: int, second: int) -> list[ConnectionView]:
        return [
            ConnectionView(Direction.OUTBOUND, NEAR, FAR, sent=first, since=1.0),
            ConnectionView(Direction.OUTBOUND, NEAR, other, sent=second, since=2.0),
        ]

    found = [(rate, view.destination) for rate, view in by_rate(views(5, 90), views(1, 10), 2.0)]
    assert found == [(40.0, other), (2.0, FAR)]
    assert [rate for rate, _ in by_rate(views(5, 90), [], 2.0)] == [0.0, 0.0], "just seen"


def test_the_table_and_the_document_hold_what_a_person_asks_for() -> None:
    views = joined([ENTRY], [carried()], [subflow(), subflow()], UPLINKS, 0)
    text = "\n".join(lines(views, now=165.0))
    for word in ("outbound", "10.1.0.11:40000", "10.2.0.11:80", "up1 x2 30 ms", "1 min"):
        assert word in text
    assert document(views[0])["client"] == ["10.1.0.11", 40000]
    assert lines([], now=0.0) == ["0 connections"]
