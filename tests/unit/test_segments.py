"""Reading a VM's first segment, and writing the answers to it."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsdn.proxy.opening.segments import (
    ACK,
    FIN,
    RST,
    SYN,
    Unreachable,
    read_segment,
    reset_of,
    unreachable,
)
from fedsdn.socket_address import SocketAddress

CLIENT = {4: "10.1.0.11", 6: "fd00:1::11"}
DESTINATION = {4: "10.2.0.11", 6: "fd00:2::11"}
OWN = {4: "10.1.0.2", 6: "fd00:1::2"}
OPTIONS = bytes.fromhex("020405b40402080a00000001000000000103030a")


def tcp(flags: int = SYN, data: bytes = b"", options: bytes = OPTIONS, sequence: int = 7) -> bytes:
    words = (20 + len(options)) // 4
    header = struct.pack("!HHIIBBHHH", 40000, 80, sequence, 0, words << 4, flags, 65535, 0, 0)
    return header + options + data


def sealed(family: int, content: bytes, behind: int = 0) -> bytes:
    """Write the checksum into a TCP segment ``behind`` extension headers."""
    ends = b"".join(ip_address(ends[family]).packed for ends in (CLIENT, DESTINATION))
    segment = content[behind:]
    wrong = checksum(ends + struct.pack("!II", len(segment), 6) + segment)
    right = struct.pack("!H", 0xFFFF - wrong)
    return content[: behind + 16] + right + content[behind + 18 :]


def ip(
    family: int, content: bytes, protocol: int = 6, traffic_class: int = 0, behind: int = 0
) -> bytes:
    one, other = (ip_address(ends[family]).packed for ends in (CLIENT, DESTINATION))
    if len(content) >= behind + 20:
        content = sealed(family, content, behind)
    if family == 4:
        length = 20 + len(content)
        head = struct.pack("!BBHHHBBH", 0x45, traffic_class, length, 1, 0, 64, protocol, 0)
        return head + one + other + content
    word = 6 << 28 | traffic_class << 20
    return struct.pack("!IHBB", word, len(content), protocol, 64) + one + other + content


def checksum(data: bytes) -> int:
    """Return 0 for data that hold their right checksum."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    return total % 0xFFFF


@pytest.mark.parametrize("family", [4, 6])
def test_a_syn_is_read(family: int) -> None:
    packet = ip(family, tcp(), traffic_class=0xB8)
    segment = read_segment(packet)
    assert segment is not None
    assert segment.packet == packet
    assert segment.client == SocketAddress(ip_address(CLIENT[family]), 40000)
    assert segment.destination == SocketAddress(ip_address(DESTINATION[family]), 80)
    assert (segment.sequence, segment.length, segment.traffic_class) == (7, 1, 0xB8)
    assert segment.opens
    assert not segment.resets


def test_data_on_a_syn_take_sequence_numbers() -> None:
    segment = read_segment(ip(4, tcp(data=b"fast open")))
    assert segment is not None
    assert segment.length == 10


@pytest.mark.parametrize("flags", [RST, RST | ACK])
def test_a_reset_is_one(flags: int) -> None:
    segment = read_segment(ip(6, tcp(flags, options=b"")))
    assert segment is not None
    assert segment.resets
    assert not segment.opens


def test_a_syn_with_fin_opens_nothing() -> None:
    segment = read_segment(ip(4, tcp(SYN | FIN)))
    assert segment is not None
    assert not segment.opens


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("place", [1, 4, 16, 25])
def test_a_segment_that_was_damaged_is_none(family: int, place: int) -> None:
    packet = bytearray(ip(family, tcp()))
    packet[len(packet) - len(tcp()) + place] ^= 0x10
    assert read_segment(bytes(packet)) is None


EXTENSIONS = {
    "hop-by-hop options": (0, bytes([6, 0, 1, 4, 0, 0, 0, 0])),
    "destination options": (60, bytes([6, 1, 1, 12]) + bytes(12)),
    "routing": (43, bytes([6, 2, 4, 0]) + bytes(20)),
    "the only fragment": (44, bytes([6, 0, 0, 0, 0, 0, 0, 9])),
    "two": (0, bytes([60, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0])),
}


@pytest.mark.parametrize("case", EXTENSIONS)
def test_extension_headers_are_passed_over(case: str) -> None:
    protocol, extension = EXTENSIONS[case]
    segment = read_segment(ip(6, extension + tcp(), protocol, behind=len(extension)))
    assert segment is not None
    assert (segment.client.port, segment.length) == (40000, 1)


NO_SEGMENTS = {
    "nothing": b"",
    "UDP": ip(4, tcp(), protocol=17),
    "UDP over IPv6": ip(6, tcp(), protocol=17),
    "half of a header": ip(4, tcp()[:10]),
    "cut short": ip(4, tcp())[:-1],
    "a fragment": ip(4, tcp())[:6] + b"\x20\0" + ip(4, tcp())[8:],
    "a fragment over IPv6": ip(6, bytes([6, 0, 0, 9, 0, 0, 0, 9]) + tcp(), 44),
    "an endless extension header": ip(6, bytes([6, 255, 0, 0, 0, 0, 0, 0]), 0),
    "port 0": ip(4, b"\0\0" + tcp()[2:]),
    "a data offset of 4": ip(4, tcp()[:12] + b"\x10" + tcp()[13:]),
    "a data offset behind the end": ip(4, tcp(options=b"")[:12] + b"\xf0" + tcp(options=b"")[13:]),
    "another version": b"\x70" + ip(4, tcp())[1:],
}


@pytest.mark.parametrize("case", NO_SEGMENTS)
def test_what_is_no_whole_segment_is_none(case: str) -> None:
    assert read_segment(NO_SEGMENTS[case]) is None


@given(st.binary(max_size=120))
def test_any_bytes_are_read_or_not(packet: bytes) -> None:
    segment = read_segment(packet)
    assert segment is None or segment.packet == packet


@pytest.mark.parametrize("family", [4, 6])
def test_a_refusal_acknowledges_the_syn(family: int) -> None:
    segment = read_segment(ip(family, tcp(sequence=0xFFFFFFFF)))
    assert segment is not None
    answer = read_segment(reset_of(segment))
    assert answer is not None
    assert (answer.client, answer.destination) == (segment.destination, segment.client)
    assert (answer.flags, answer.sequence) == (RST | ACK, 0)
    content = answer.packet[-20:]
    assert content[8:12] == bytes(4)
    ends = answer.client.address.packed + answer.destination.address.packed
    assert checksum(ends + struct.pack("!II", 20, 6) + content) == 0


CODES = {Unreachable.NETWORK: (0, 0), Unreachable.HOST: (1, 3), Unreachable.PROHIBITED: (13, 1)}


@pytest.mark.parametrize("why", Unreachable)
def test_an_error_quotes_the_syn(why: Unreachable) -> None:
    for family, kind, size, longest in ((4, 3, 20, 576), (6, 1, 40, 1280)):
        segment = read_segment(ip(family, tcp(data=bytes(1400))))
        assert segment is not None
        packet = unreachable(segment, why, ip_address(OWN[family]))
        assert len(packet) == longest
        error = packet[size:]
        assert tuple(error[:2]) == (kind, CODES[why][family == 6])
        assert segment.packet.startswith(error[8:])
        ends = packet[size - 8 : size] if family == 4 else packet[8:40]
        assert ends == ip_address(OWN[family]).packed + segment.client.address.packed
        pseudo = ends + struct.pack("!II", len(error), 58) if family == 6 else b""
        assert checksum(pseudo + error) == 0
        assert family == 6 or checksum(packet[:20]) == 0
