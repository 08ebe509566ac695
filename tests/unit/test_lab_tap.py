from __future__ import annotations

import struct

import pytest

from fedsdn.lab.tap import wire_bytes

ETHERNET, IPV4, IPV6, TCP, UDP = 14, 20, 40, 32, 8
GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, GSO_ECN = 0, 1, 4, 5, 0x80


def frame(gso_type: int, gso_size: int, headers_before: int, transport: int, data: int) -> bytes:
    """Return a frame behind its virtio header; the hint hdr_len is wrong, as it may be."""
    virtio = struct.pack("<BBHHHH", 1, gso_type, 0, gso_size, headers_before, 16)
    header = bytearray(transport)
    if transport != UDP:
        header[12] = transport // 4 << 4
    return virtio + bytes(headers_before) + header + bytes(data)


def test_an_ordinary_frame_is_as_long_as_it_is() -> None:
    assert wire_bytes(frame(GSO_NONE, 0, ETHERNET + IPV4, TCP, 1448)) == 1514


@pytest.mark.parametrize("ecn", [0, GSO_ECN])
def test_every_segment_of_a_tcp_super_frame_has_headers(ecn: int) -> None:
    before = ETHERNET + IPV4
    assert wire_bytes(frame(GSO_TCPV4 | ecn, 1448, before, TCP, 10 * 1448)) == 10 * 1514
    assert wire_bytes(frame(GSO_TCPV4 | ecn, 1448, before, TCP, 1448 + 1)) == 1514 + 66 + 1


def test_ipv6_super_frame() -> None:
    assert wire_bytes(frame(GSO_TCPV6, 1428, ETHERNET + IPV6, TCP, 3 * 1428)) == 3 * 1514


def test_udp_super_frame() -> None:
    assert wire_bytes(frame(GSO_UDP_L4, 1200, ETHERNET + IPV4, UDP, 3 * 1200)) == 3 * 1242
