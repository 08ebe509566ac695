"""The channel's messages: written and read, and nothing else taken."""

from __future__ import annotations

import json
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsdn.channel.connection import Connection, Direction
from fedsdn.channel.messages import (
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    METHODS,
    PARSE_ERROR,
    Answer,
    Call,
    ChannelError,
    Connections,
    Restore,
    Restored,
    connection_from,
    connection_message,
    decode,
    encode_answer,
    encode_error,
    restorations,
    restore,
)
from fedsdn.channel.report import Report
from fedsdn.pipeline.restore import Restoration
from fedsdn.socket_address import SocketAddress

PORTS = st.integers(1, 65535)


@st.composite
def wanted(draw: st.DrawFn) -> Restoration:
    addresses = st.builds(SocketAddress, st.ip_addresses(v=draw(st.sampled_from([4, 6]))), PORTS)
    return Restoration(draw(addresses), draw(addresses), draw(addresses))


@given(st.lists(wanted(), min_size=1, max_size=5), st.integers(0))
def test_what_is_asked_to_be_restored_is_read_as_it_was_written(
    asked: list[Restoration], number: int
) -> None:
    line = Call(restore(asked), number).encode()
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    call = decode(line)
    assert isinstance(call, Call)
    assert call.number == number
    assert isinstance(call.params, Restore)
    assert restorations(call.params) == asked


@given(
    st.builds(
        Connection,
        st.integers(0),
        st.sampled_from(Direction),
        st.just("b"),
        st.builds(SocketAddress, st.ip_addresses(), PORTS),
        st.builds(SocketAddress, st.ip_addresses(), PORTS),
        st.builds(SocketAddress, st.ip_addresses(), PORTS),
        st.integers(0, 2**32 - 1),
        st.floats(0, 1e10),
        st.integers(0),
        st.integers(0),
    )
)
def test_a_connection_is_read_as_it_was_written(connection: Connection) -> None:
    told = Connections([connection_message(connection)], [], [])
    call = decode(Call(told).encode())
    assert isinstance(call, Call)
    assert isinstance(call.params, Connections)
    assert [connection_from(one) for one in call.params.opened] == [connection]


def test_answers_and_errors() -> None:
    answer = decode(encode_answer(7, Restored([None])))
    assert isinstance(answer, Answer)
    assert (answer.number, answer.read(Restored)) == (7, Restored([None]))
    with pytest.raises(ChannelError, match="not today") as caught:
        decode(encode_error(ChannelError(-32001, "not today", 7)))
    assert (caught.value.code, caught.value.call) == (-32001, 7)


def call(method: str, params: object, **more: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "method": method, "params": params, **more}).encode()


PAIR = ["10.1.0.2", 1]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"", PARSE_ERROR),
        (b"{", PARSE_ERROR),
        (b"\xff", PARSE_ERROR),
        (b"[" * 100_000, PARSE_ERROR),
        (b"1", INVALID_REQUEST),
        (b"[]", INVALID_REQUEST),
        (b"{}", INVALID_REQUEST),
        (b'{"jsonrpc": "2.0"}', INVALID_REQUEST),
        (b'{"jsonrpc": "1.0", "method": "reload"}', INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": "x", "method": "reload"}', INVALID_REQUEST),
        (b'{"jsonrpc": "2.0", "id": null, "result": {}}', INVALID_REQUEST),
        (call("frobnicate", {}, id=3), METHOD_NOT_FOUND),
        (call("restore", {}), INVALID_PARAMS),
        (call("restore", {"connections": []}), INVALID_PARAMS),
        (call("restore", {"connections": [[PAIR, PAIR]]}), INVALID_PARAMS),
        (call("restore", {"connections": [[PAIR, PAIR, ["10.1.0.2", 0]]]}), INVALID_PARAMS),
        (call("restore", {"connections": [[PAIR, PAIR, PAIR]] * 1001}), INVALID_PARAMS),
        (call("hello", {"version": "one", "worker": 0, "pid": 1}), INVALID_PARAMS),
        (call("connections", {"opened": [], "moved": [], "closed": [[1, -1, 0]]}), INVALID_PARAMS),
        (call("connections", {"opened": [], "moved": [[1, 1]], "closed": []}), INVALID_PARAMS),
        (call("paths", {"anew": True}), INVALID_PARAMS),
        (call("needed", {"begun": ["b" * 33], "ended": []}), INVALID_PARAMS),
    ],
)
def test_what_is_no_message_is_refused(line: bytes, code: int) -> None:
    with pytest.raises(ChannelError) as caught:
        decode(line)
    assert caught.value.code == code


@pytest.mark.parametrize("pair", [["10.1.0", 1], ["fd00::1", 1], ["10.1.0.2%x", 1]])
def test_addresses_that_are_none_are_refused(pair: list[Any]) -> None:
    found = decode(call("restore", {"connections": [[PAIR, PAIR, pair]]}, id=5))
    assert isinstance(found, Call)
    assert isinstance(found.params, Restore)
    with pytest.raises(ChannelError) as caught:
        restorations(found.params, found.number)
    assert (caught.value.code, caught.value.call) == (INVALID_PARAMS, 5)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@given(
    st.binary()
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.builds(call, st.sampled_from([*METHODS]) | st.text(), JSON)
)
def test_any_line_is_a_message_or_a_channel_error(line: bytes) -> None:
    with suppress(ChannelError):
        found = decode(line)
        if isinstance(found, Call) and isinstance(found.params, Restore):
            restorations(found.params)


V4 = SocketAddress(ip_address("10.1.0.11"), 40000)


def test_a_report_tells_of_each_connection_once() -> None:
    report = Report()
    with report.carried(Direction.OUTBOUND, "b", V4, V4, V4, 7) as connection:
        [(opened, moved, closed)] = report.pages(10, traffic=True)
        assert (opened, moved, closed) == ([connection], [], [])
        assert [*report.pages(10, traffic=True)] == []
        connection.sent += 10
        assert [*report.pages(10, traffic=False)] == []
        assert [*report.pages(10, traffic=True)] == [([], [connection], [])]
        assert [*report.pages(10, traffic=True)] == []
        report.begin_again()
        assert [*report.pages(10, traffic=True)] == [([connection], [], [])]
    assert [*report.pages(10, traffic=True)] == [([], [], [connection])]
    assert [*report.pages(10, traffic=True)] == []


def test_a_report_of_many_has_several_pages() -> None:
    report = Report()
    inside = [report.carried(Direction.INBOUND, "b", V4, V4, V4, 7) for _ in range(7)]
    for one in inside:
        one.__enter__()
    assert [len(opened) for opened, _, _ in report.pages(3, traffic=True)] == [3, 3, 1]
    for one in inside:
        one.__exit__(None, None, None)
    assert [len(closed) for _, _, closed in report.pages(3, traffic=True)] == [3, 3, 1]
