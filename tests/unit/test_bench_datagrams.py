"""What the behaviour bench sends by hand, and what it reads out of what programs print."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

import pytest

from fedsdn.bench.behaviour.datagram_programs import hops, pinged
from fedsdn.bench.behaviour.datagrams import crc32c
from fedsdn.bench.segments import checksum, datagram, fragments

ENDS = [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")]


@pytest.mark.parametrize("ends", ENDS)
def test_a_datagram_sums_up_to_nothing(ends: tuple[str, str]) -> None:
    made = datagram((ends[0], 1000), (ends[1], 53), b"odd")
    pseudo = b"".join(ip_address(one).packed for one in ends)
    assert checksum(pseudo + struct.pack("!HH", len(made), socket.IPPROTO_UDP) + made) == 0
    assert struct.unpack_from("!HHH", made) == (1000, 53, 11)


@pytest.mark.parametrize("parts", [1, 2, 12])
@pytest.mark.parametrize("ends", ENDS)
def test_fragments_make_the_whole(ends: tuple[str, str], parts: int) -> None:
    packet = bytes(range(256)) * 4 + b"odd"
    made = fragments(*ends, socket.IPPROTO_UDP, packet, parts)
    assert len(made) == parts
    put, lasts, numbers = bytearray(len(packet)), [], set()
    for one in made:
        if one[0] >> 4 == 4:
            length, number, place = struct.unpack_from("!HHH", one, 2)
            assert (one[9], length) == (socket.IPPROTO_UDP, len(one))
            start, more, part = (place & 0x1FFF) * 8, bool(place & 0x2000), one[20:]
        else:
            (length,) = struct.unpack_from("!H", one, 4)
            kind, place, number = struct.unpack_from("!BxHI", one, 40)
            assert (one[6], kind, length) == (44, socket.IPPROTO_UDP, len(one) - 40)
            start, more, part = place & ~7, bool(place & 1), one[48:]
        put[start : start + len(part)] = part
        lasts.append(not more)
        numbers.add(number)
    assert put == packet
    assert lasts == [False] * (parts - 1) + [True]
    assert len(numbers) == 1


def test_checksum_of_sctp() -> None:
    """RFC 3720, appendix B.4, and what everybody checks CRCs with."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ("4 packets transmitted, 4 received, 0% packet loss", "answers"),
        (
            "64 bytes (DUP!)\n4 packets transmitted, 4 received, +1 duplicates",
            "answers, some twice",
        ),
        ("4 packets transmitted, 0 received, +4 errors", "no answer"),
        ("", "no answer"),
    ],
)
def test_what_ping_says(said: str, word: str) -> None:
    assert pinged(said) == word


def test_what_traceroute_says() -> None:
    said = (
        "traceroute to 10.2.0.11 (10.2.0.11), 6 hops max, 60 byte packets\n"
        " 1  10.1.0.2  0.061 ms  0.03 ms 10.1.0.9  0.1 ms\n"
        " 2  * * *\n"
        " 3  fd00:2::11  30.1 ms !X  30.4 ms  30 ms\n"
    )
    names = {"10.1.0.2": "own proxy", "fd00:2::11": "server"}
    assert hops(said, names) == "own proxy or 10.1.0.9, ?, server"
