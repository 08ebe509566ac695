"""The first segment of a connection, read from an IP packet, and the answers to it.

Pure code. IPv4 is RFC 791, IPv6 RFC 8200, TCP RFC 9293, ICMP RFC 792, ICMPv6 RFC 4443.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address

from fedsdn.config.model import Address
from fedsdn.socket_address import SocketAddress

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10

_TCP, _ICMP, _ICMP6 = 6, 1, 58
_TCP_HEADER = struct.Struct("!HHIIBBHHH")
_IPV4_HEADER = struct.Struct("!BBHHHBBH4s4s")
_IPV6_HEADER = struct.Struct("!IHBB16s16s")
_FRAGMENT = 44
_EXTENSIONS = frozenset((0, 43, 60))
"""Hop-by-hop options, routing, destination options (RFC 8200, section 4)."""

_AUTHENTICATION = 51
_HOPS = 64
_DONT_FRAGMENT = 0x4000
_FRAGMENTED = 0x3FFF
"""More fragments, or an offset (RFC 791)."""

_ICMP_BYTES = 576
"""Longest ICMP error (RFC 1812, section 4.3.2.3)."""

_ICMP6_BYTES = 1280
"""Longest ICMPv6 error: the minimum MTU (RFC 4443, section 3.1)."""

_ICMP_UNREACHABLE, _ICMP6_UNREACHABLE = 3, 1


class Unreachable(Enum):
    """Why a destination is not reached: the codes of ICMP and of ICMPv6."""

    NETWORK = (0, 0)
    HOST = (1, 3)
    PROHIBITED = (13, 1)
    """Administratively (RFC 1812, section 5.2.7.1; RFC 4443, section 3.1)."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A TCP segment that a VM has sent, in its IP ``packet``."""

    packet: bytes
    client: SocketAddress
    destination: SocketAddress
    flags: int
    sequence: int
    length: int
    """How many sequence numbers it takes: its data, and one for SYN."""
    traffic_class: int
    """The octet of the IP header with DSCP and ECN (RFC 2474, RFC 3168)."""

    @property
    def opens(self) -> bool:
        """Whether it is the first segment of a connection: no listener takes one with FIN."""
        return self.flags & (FIN | SYN | RST | ACK) == SYN

    @property
    def resets(self) -> bool:
        """Whether it ends a connection at once."""
        return bool(self.flags & RST)


def read_segment(packet: bytes) -> Segment | None:
    """Read an IP packet; None if it is no TCP segment, whole and intact."""
    found = _transport(packet)
    if found is None:
        return None
    source, destination, traffic_class, start, stop = found
    if stop - start < _TCP_HEADER.size or stop > len(packet):
        return None
    source_port, port, sequence, _, offset, flags, *_ = _TCP_HEADER.unpack_from(packet, start)
    data = stop - start - (offset >> 4) * 4
    tcp = packet[start:stop]
    if _checksum(_pseudo(source, destination, _TCP, tcp) + tcp):
        return None
    if data < 0 or (offset >> 4) * 4 < _TCP_HEADER.size or not source_port or not port:
        return None
    return Segment(
        packet=packet,
        client=SocketAddress(source, source_port),
        destination=SocketAddress(destination, port),
        flags=flags,
        sequence=sequence,
        length=data + bool(flags & SYN),
        traffic_class=traffic_class,
    )


def _transport(packet: bytes) -> tuple[Address, Address, int, int, int] | None:
    """Return source, destination, traffic class, and where TCP begins and ends; None if nowhere."""
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= _IPV4_HEADER.size:
        first, tos, length, _, fragment, _, protocol, _, one, other = _IPV4_HEADER.unpack_from(
            packet
        )
        start = (first & 0xF) * 4
        if protocol != _TCP or fragment & _FRAGMENTED or start < _IPV4_HEADER.size:
            return None
        return IPv4Address(one), IPv4Address(other), tos, start, length
    if version == 6 and len(packet) >= _IPV6_HEADER.size:
        first, length, following, _, one, other = _IPV6_HEADER.unpack_from(packet)
        start = _behind_extensions(packet, following)
        if start is None:
            return None
        stop = _IPV6_HEADER.size + length
        return IPv6Address(one), IPv6Address(other), first >> 20 & 0xFF, start, stop
    return None


def _behind_extensions(packet: bytes, following: int) -> int | None:
    """Return where TCP begins in an IPv6 packet; None if there is none in it, or not all of it."""
    at = _IPV6_HEADER.size
    while following != _TCP:
        if at + 8 > len(packet):
            return None
        if following in _EXTENSIONS:
            size = (packet[at + 1] + 1) * 8
        elif following == _AUTHENTICATION:
            size = (packet[at + 1] + 2) * 4  # RFC 4302, section 2.2
        elif following == _FRAGMENT and not int.from_bytes(packet[at + 2 : at + 4], "big") & 0xFFF9:
            size = 8  # the only fragment (RFC 6946)
        else:
            return None
        following = packet[at]
        at += size
    return at


def reset_of(segment: Segment) -> bytes:
    """Make the answer of a closed port (RFC 9293, section 3.10.7.1), as an IP packet."""
    acknowledged = (segment.sequence + segment.length) & 0xFFFFFFFF
    ports = segment.destination.port, segment.client.port
    header = (*ports, 0, acknowledged, _TCP_HEADER.size // 4 << 4, RST | ACK, 0)
    own, other = segment.destination.address, segment.client.address
    blank = _TCP_HEADER.pack(*header, 0, 0)
    sealed = _TCP_HEADER.pack(*header, _checksum(_pseudo(own, other, _TCP, blank) + blank), 0)
    return _packet(own, other, _TCP, sealed)


def unreachable(segment: Segment, why: Unreachable, own: Address) -> bytes:
    """Make an ICMP error about a segment, from ``own`` to its sender, as an IP packet."""
    code, code6 = why.value
    to = segment.client.address
    if own.version == 4:
        room = _ICMP_BYTES - _IPV4_HEADER.size - 8
        error = struct.pack("!BBHI", _ICMP_UNREACHABLE, code, 0, 0) + segment.packet[:room]
        return _packet(own, to, _ICMP, _sealed_icmp(error, b""))
    room = _ICMP6_BYTES - _IPV6_HEADER.size - 8
    error = struct.pack("!BBHI", _ICMP6_UNREACHABLE, code6, 0, 0) + segment.packet[:room]
    return _packet(own, to, _ICMP6, _sealed_icmp(error, _pseudo(own, to, _ICMP6, error)))


def _sealed_icmp(message: bytes, pseudo: bytes) -> bytes:
    return message[:2] + _checksum(pseudo + message).to_bytes(2, "big") + message[4:]


def _packet(source: Address, destination: Address, protocol: int, content: bytes) -> bytes:
    ends = source.packed, destination.packed
    if source.version == 4:
        length = _IPV4_HEADER.size + len(content)
        blank = _IPV4_HEADER.pack(0x45, 0, length, 0, _DONT_FRAGMENT, _HOPS, protocol, 0, *ends)
        check = _checksum(blank)
        header = _IPV4_HEADER.pack(
            0x45, 0, length, 0, _DONT_FRAGMENT, _HOPS, protocol, check, *ends
        )
        return header + content
    return _IPV6_HEADER.pack(6 << 28, len(content), protocol, _HOPS, *ends) + content


def _pseudo(source: Address, destination: Address, protocol: int, content: bytes) -> bytes:
    """Make the pseudo-header that is summed up with the content (RFC 8200, section 8.1).

    Its form of IPv6 gives the same sum as that of IPv4.
    """
    return source.packed + destination.packed + struct.pack("!II", len(content), protocol)


def _checksum(data: bytes) -> int:
    """Sum 16-bit words up in one's complement (RFC 1071)."""
    even = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(even) // 2}H", even))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
