"""docs/socks-extension.md says what the code does, to the octet."""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

from fedsdn.proxy.socks.parsing import (
    parse_greeting,
    parse_reply,
    parse_request,
)
from fedsdn.proxy.socks.protocol import (
    GREETING,
    LONGEST_REQUEST,
    METADATA_VERSION,
    METHOD_CLIENT_METADATA,
    NO_METHOD,
    PLAIN_GREETING,
    PLAIN_SELECTION,
    SELECTION,
    Reply,
    Request,
    SocksError,
    encode_connect,
    encode_reply,
)
from fedsdn.socket_address import SocketAddress

DOCUMENT = (Path(__file__).parents[2] / "docs/socks-extension.md").read_text()


def request(client: str, destination: str) -> Request:
    return Request(
        SocketAddress(ip_address(client), 40000),
        SocketAddress(ip_address(destination), 80),
        number=1,
    )


def test_the_example_is_what_a_client_sends() -> None:
    (example,) = re.findall(r"```\n(.*)\n```", DOCUMENT)
    assert bytes.fromhex(example) == GREETING + request("10.1.0.11", "10.2.0.11").encode()


def test_the_lengths_are_right() -> None:
    lengths = [
        len(request("10.1.0.11", "10.2.0.11").encode()),
        len(request("fd00:1::11", "fd00:2::11").encode()),
    ]
    assert f"{lengths[0]} octets with IPv4 addresses, {lengths[1]} with IPv6." in DOCUMENT
    assert lengths[1] == LONGEST_REQUEST


def test_the_example_is_what_a_server_answers() -> None:
    (example,) = re.findall(r"connected, are\n`(.*)`", DOCUMENT)
    assert bytes.fromhex(example) == SELECTION + encode_reply(Reply.SUCCEEDED)


def test_every_reply_is_listed() -> None:
    (table,) = re.findall(r"\| reply \| meaning.*\n\|---.*\n((?:\|.*\n)*)", DOCUMENT)
    listed = [int(row.split("`")[1], 16) for row in table.splitlines()]
    assert listed == [reply.value for reply in Reply]


def test_method_and_version_are_the_codes() -> None:
    assert f"methods | `{METHOD_CLIENT_METADATA:02x}`: client metadata" in DOCUMENT
    assert f"version of the metadata | `{METADATA_VERSION:02x}`" in DOCUMENT


@pytest.mark.parametrize(
    ("row", "parse", "received", "answer"),
    [
        ("no method `80` among those offered", parse_greeting, "05 01 00", NO_METHOD),
        (
            "metadata of another version than `03`",
            parse_request,
            "02",
            encode_reply(Reply.FAILURE),
        ),
    ],
)
def test_what_is_no_request_gets_the_answer_listed(
    row: str, parse: Callable[[bytes], object], received: str, answer: bytes
) -> None:
    with pytest.raises(SocksError) as caught:
        parse(bytes.fromhex(received))
    assert caught.value.answer == answer
    (line,) = [line for line in DOCUMENT.splitlines() if row in line]
    assert bytes.fromhex(line.split("|")[2].strip(" `")) == answer


def test_a_client_reads_an_ipv6_bound_address_too() -> None:
    answer = encode_reply(Reply.SUCCEEDED)[:3] + b"\x04" + bytes(16 + 2)
    assert parse_reply(answer[:10]) == len(answer) - 10
    assert parse_reply(answer) is Reply.SUCCEEDED


def test_the_plain_dialogue_is_what_is_sent_and_read() -> None:
    section = DOCUMENT.partition("## Plain SOCKS5\n")[2].partition("\n## ")[0]
    examples = [bytes.fromhex(row.split("`")[1]) for row in section.splitlines() if "| `05" in row]
    destination = request("10.1.0.11", "10.2.0.11").destination
    assert examples == [
        PLAIN_GREETING,
        PLAIN_SELECTION,
        encode_connect(destination),
        encode_reply(Reply.SUCCEEDED),
    ]
