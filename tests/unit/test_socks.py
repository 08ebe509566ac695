"""The SOCKS wire: what is written is read, and nothing else gets through."""

from __future__ import annotations

import errno
from collections.abc import Callable
from ipaddress import ip_address
from typing import Literal, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsdn.proxy.socks.parsing import (
    parse_greeting,
    parse_plain_connect,
    parse_plain_greeting,
    parse_plain_selection,
    parse_reply,
    parse_request,
    parse_selection,
)
from fedsdn.proxy.socks.protocol import (
    GREETING,
    LONGEST_GREETING,
    LONGEST_REQUEST,
    METHOD_CLIENT_METADATA,
    NO_METHOD,
    PLAIN_GREETING,
    PLAIN_SELECTION,
    SELECTION,
    Reply,
    Request,
    SocksError,
    encode_address,
    encode_connect,
    encode_reply,
    reply_for,
)
from fedsdn.socket_address import SocketAddress

PORTS = st.integers(1, 65535)


def requests(version: Literal[4, 6]) -> st.SearchStrategy[Request]:
    endpoints = st.builds(SocketAddress, st.ip_addresses(v=version), PORTS)
    numbers = st.integers(1, (1 << 32) - 1)
    classes = st.integers(0, 63).map(lambda dscp: dscp << 2)
    built = st.builds(Request, endpoints, endpoints, numbers, st.just(0) | numbers, classes)
    return built.filter(lambda request: request.number != request.after)


REQUESTS = st.one_of(requests(4), requests(6))
ERROR_ANSWERS = {
    b"",
    NO_METHOD,
    *(encode_reply(reply) for reply in Reply if reply is not Reply.SUCCEEDED),
}
EXAMPLE = Request(
    SocketAddress(ip_address("10.1.0.11"), 45678),
    SocketAddress(ip_address("10.2.0.11"), 80),
    number=7,
)


class Wire:
    """Bytes that come in pieces, and how many of them were asked for."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.taken = 0

    def read(self, most: int, piece: int) -> bytes:
        found = self.data[self.taken : self.taken + min(most, piece)]
        self.taken += len(found)
        return found


@given(REQUESTS)
def test_a_request_is_read_as_it_was_written(request: Request) -> None:
    assert parse_request(request.encode()) == request


@given(
    st.sets(st.integers(0, 255).filter(lambda method: method != METHOD_CLIENT_METADATA)),
    st.integers(1, 100),
    st.binary(max_size=100),
    st.data(),
)
def test_a_greeting_in_pieces_is_read_to_its_last_byte_and_no_further(
    others: set[int], piece: int, following: bytes, data: st.DataObject
) -> None:
    methods = bytes(data.draw(st.permutations([METHOD_CLIENT_METADATA, *others])))
    encoded = b"\x05" + bytes([len(methods)]) + methods
    assert len(encoded) <= LONGEST_GREETING
    wire = Wire(encoded + following)
    assert read_in_pieces(parse_greeting, wire, piece) == methods
    assert wire.taken == len(encoded)


@given(REQUESTS, st.binary(max_size=100), st.data())
def test_a_request_in_pieces_is_read_to_its_last_byte_and_no_further(
    request: Request, following: bytes, data: st.DataObject
) -> None:
    encoded = request.encode()
    assert len(encoded) <= LONGEST_REQUEST
    wire, seen = Wire(encoded + following), b""
    while isinstance(found := parse_request(seen), int):
        assert found > 0
        more = wire.read(found, data.draw(st.integers(1, 100)))
        assert more, "it asks for more than the request has"
        seen += more
    assert found == request
    assert wire.taken == len(encoded)


@given(REQUESTS)
def test_a_request_that_comes_whole_is_read_in_few_pieces(request: Request) -> None:
    wire, seen, reads = Wire(request.encode()), b"", 0
    while isinstance(found := parse_request(seen), int):
        seen += wire.read(found, len(wire.data))
        reads += 1
    assert reads <= 3


Found = TypeVar("Found")


def outcome(parse: Callable[[bytes], Found], data: bytes) -> Found | SocksError:
    try:
        return parse(data)
    except SocksError as error:
        return error


@given(st.binary(max_size=LONGEST_REQUEST + 10))
def test_any_bytes_are_a_request_or_too_few_or_an_error(data: bytes) -> None:
    found = outcome(parse_request, data)
    if isinstance(found, SocksError):
        assert 0 < len(str(found)) < 80
        assert found.answer in ERROR_ANSWERS
    elif isinstance(found, int):
        assert 0 < found <= LONGEST_REQUEST - len(data)
    else:
        assert parse_request(found.encode()) == found


@given(REQUESTS, st.data())
def test_a_damaged_request_is_never_read_as_another_kind(
    request: Request, data: st.DataObject
) -> None:
    encoded = bytearray(request.encode())
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    found = outcome(parse_request, bytes(encoded))
    if isinstance(found, Request):
        assert found.client.address.version == found.destination.address.version
        assert found.client.port
        assert found.destination.port


V4 = EXAMPLE.encode()


@pytest.mark.parametrize(
    ("data", "message", "answer"),
    [
        (b"\x02", "metadata version 0x2", encode_reply(Reply.FAILURE)),
        (b"G", "metadata version 0x47", encode_reply(Reply.FAILURE)),
        (V4[:1] + bytes(4) + V4[5:], "number 0", encode_reply(Reply.FAILURE)),
        (V4[:5] + V4[1:5] + V4[9:], "number 7 after 7", encode_reply(Reply.FAILURE)),
        (V4[:9] + b"\x01" + V4[10:], "traffic class 0x1", encode_reply(Reply.FAILURE)),
        (V4[:10] + b"\x03", "address type 3", encode_reply(Reply.ADDRESS_TYPE_NOT_SUPPORTED)),
        (V4[:17] + b"\x04", "SOCKS version of CONNECT", encode_reply(Reply.FAILURE)),
        (V4[:18] + b"\x02\x00", "command 0x2", encode_reply(Reply.COMMAND_NOT_SUPPORTED)),
        (V4[:15] + b"\x00\x00" + V4[17:], "port 0", encode_reply(Reply.FAILURE)),
        (V4[:-2] + b"\x00\x00", "port 0", encode_reply(Reply.FAILURE)),
        (
            V4[:20] + encode_address(SocketAddress(ip_address("fd00:2::11"), 80)),
            "different families",
            encode_reply(Reply.ADDRESS_TYPE_NOT_SUPPORTED),
        ),
    ],
)
def test_what_is_wrong_is_said_and_answered(data: bytes, message: str, answer: bytes) -> None:
    with pytest.raises(SocksError, match=message) as raised:
        parse_request(data)
    assert raised.value.answer == answer


@pytest.mark.parametrize(
    ("data", "message", "answer"),
    [
        (b"\x04", "SOCKS version 0x4", b""),
        (b"G", "SOCKS version 0x47", b""),
        (b"\x05\x00", "no method", NO_METHOD),
        (b"\x05\x02\x00\x02", "no method", NO_METHOD),
    ],
)
def test_another_greeting_is_said_and_answered(data: bytes, message: str, answer: bytes) -> None:
    with pytest.raises(SocksError, match=message) as raised:
        parse_greeting(data)
    assert raised.value.answer == answer


def test_our_own_dialogue_begins_with_our_method() -> None:
    assert parse_greeting(GREETING) == bytes([METHOD_CLIENT_METADATA])
    assert parse_selection(SELECTION) == SELECTION
    assert parse_selection(SELECTION[:1]) == 1


@pytest.mark.parametrize("data", [NO_METHOD, b"\x05\x00", b"\x04", b"HTTP/1.1"])
def test_another_kind_of_server_is_an_error(data: bytes) -> None:
    with pytest.raises(SocksError):
        parse_selection(data)


@pytest.mark.parametrize("reply", list(Reply))
def test_an_answer_is_read_as_it_was_written(reply: Reply) -> None:
    assert parse_reply(encode_reply(reply)) is reply


def test_an_answer_with_an_unknown_code_is_a_failure() -> None:
    encoded = bytearray(encode_reply(Reply.SUCCEEDED))
    encoded[1] = 0x77
    assert parse_reply(bytes(encoded)) is Reply.FAILURE


@pytest.mark.parametrize(
    ("number", "reply"),
    [
        (errno.ECONNREFUSED, Reply.REFUSED),
        (errno.EHOSTUNREACH, Reply.HOST_UNREACHABLE),
        (errno.ENETUNREACH, Reply.NETWORK_UNREACHABLE),
        (errno.ETIMEDOUT, Reply.TIMED_OUT),
        (errno.EADDRNOTAVAIL, Reply.FAILURE),
    ],
)
def test_why_a_connection_failed_is_told(number: int, reply: Reply) -> None:
    assert reply_for(OSError(number, "")) is reply


def test_an_endpoint_reads_as_people_write_it() -> None:
    assert str(EXAMPLE.client) == "10.1.0.11:45678"
    assert str(SocketAddress(ip_address("fd00:1::11"), 80)) == "[fd00:1::11]:80"


# Plain SOCKS5

ADDRESSES = st.builds(SocketAddress, st.ip_addresses(), PORTS)
PLAIN_PARSERS = [
    parse_plain_greeting,
    parse_plain_selection,
    parse_plain_connect,
    parse_reply,
]
PLAIN_ANSWERS = {b"", NO_METHOD, *(encode_reply(reply) for reply in Reply)}


def read_in_pieces(parse: Callable[[bytes], Found | int], wire: Wire, piece: int) -> Found:
    seen = b""
    while isinstance(found := parse(seen), int):
        more = wire.read(found, piece)
        assert more, "it asks for more than there is"
        seen += more
    return found


@given(ADDRESSES, st.integers(1, 30), st.binary())
def test_a_plain_request_is_read_to_its_last_byte_and_no_further(
    destination: SocketAddress, piece: int, following: bytes
) -> None:
    encoded = encode_connect(destination)
    wire = Wire(encoded + following)
    assert read_in_pieces(parse_plain_connect, wire, piece) == destination
    assert wire.taken == len(encoded)


BOUND = st.one_of(
    ADDRESSES.map(encode_address),
    st.binary(min_size=1, max_size=255).map(
        lambda name: b"\x03" + bytes([len(name)]) + name + b"\x00\x50"
    ),
)


@given(st.sampled_from(Reply), BOUND, st.integers(1, 30), st.binary())
def test_a_plain_reply_with_any_bound_address_is_read_to_its_last_byte_and_no_further(
    reply: Reply, bound: bytes, piece: int, following: bytes
) -> None:
    encoded = encode_reply(reply)[:3] + bound
    wire = Wire(encoded + following)
    assert read_in_pieces(parse_reply, wire, piece) is reply
    assert wire.taken == len(encoded)


def test_the_plain_dialogue_begins_without_authentication() -> None:
    assert parse_plain_greeting(PLAIN_GREETING) == b"\x00"
    assert parse_plain_greeting(b"\x05\x03\x00\x01\x02") == b"\x00\x01\x02"  # as curl's
    assert parse_plain_selection(PLAIN_SELECTION) == PLAIN_SELECTION
    assert parse_plain_selection(b"\x05") == 1


@pytest.mark.parametrize(
    ("parse", "data", "message", "answer"),
    [
        (parse_plain_greeting, b"\x04\x01", "SOCKS version 0x4", b""),
        (parse_plain_greeting, b"\x05\x01\x02", "without authentication", NO_METHOD),
        (parse_plain_selection, b"\x05\xff", "method selection 05ff", b""),
        (parse_plain_connect, b"\x05\x03\x00", "command 0x3", b"\x05\x07"),
        (parse_plain_connect, b"\x05\x01\x00\x03", "address type 3", b"\x05\x08"),
        (parse_plain_connect, bytes.fromhex("05010001 0a02000b 0000"), "port 0", b"\x05\x01"),
        (parse_reply, b"\x05\x00\x00\x09", "address type 9", b""),
        (parse_reply, b"HTTP/1.1", "SOCKS version of the reply", b""),
    ],
)
def test_what_is_wrong_in_plain_socks_is_said_and_answered(
    parse: Callable[[bytes], object], data: bytes, message: str, answer: bytes
) -> None:
    with pytest.raises(SocksError, match=message) as raised:
        parse(data)
    assert raised.value.answer[:2] == answer
    assert raised.value.answer in PLAIN_ANSWERS


@given(st.sampled_from(PLAIN_PARSERS), st.binary(max_size=300))
def test_any_bytes_are_a_plain_message_or_too_few_or_an_error(
    parse: Callable[[bytes], object], data: bytes
) -> None:
    found = outcome(parse, data)
    if isinstance(found, SocksError):
        assert 0 < len(str(found)) < 80
        assert found.answer in PLAIN_ANSWERS
    elif isinstance(found, int):
        assert 0 < found <= 259
