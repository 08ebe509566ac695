"""Packets made by hand, for what a kernel would not send (RFC 9293, RFC 768, RFC 791, RFC 8200)."""

from __future__ import annotations

import os
import socket
import struct
from ipaddress import ip_address
from types import TracebackType

from fedsdn.bench.guests import Guest

SYN, RST, PUSH, ACK = 0x02, 0x04, 0x08, 0x10
_TCP = struct.Struct("!HHIIBBHHH")
_UDP = struct.Struct("!HHHH")
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_IPV6 = struct.Struct("!IHBB16s16s")
_IPV6_FRAGMENT = struct.Struct("!BxHI")
_HEADER_WORDS = _TCP.size // 4 << 4
_WINDOW = 65_535
_MORE_FRAGMENTS = 0x2000
_FRAGMENT_UNIT = 8
_NEXT_IS_FRAGMENT = 44
_TTL = 64


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def segment(
    source: tuple[str, int],
    destination: tuple[str, int],
    flags: int,
    numbers: tuple[int, int] = (0, 0),
    data: bytes = b"",
) -> bytes:
    """Make a segment with its checksum; ``numbers`` are those of sequence and acknowledgement."""
    header = _TCP.pack(source[1], destination[1], *numbers, _HEADER_WORDS, flags, _WINDOW, 0, 0)
    summed = _summed(source[0], destination[0], socket.IPPROTO_TCP, header + data)
    return header[:16] + summed.to_bytes(2, "big") + header[18:] + data


def datagram(source: tuple[str, int], destination: tuple[str, int], data: bytes) -> bytes:
    """Make a datagram of UDP with its checksum."""
    length = _UDP.size + len(data)
    header = _UDP.pack(source[1], destination[1], length, 0)
    summed = _summed(source[0], destination[0], socket.IPPROTO_UDP, header + data)
    return _UDP.pack(source[1], destination[1], length, summed or 0xFFFF) + data


def _summed(source: str, destination: str, protocol: int, packet: bytes) -> int:
    """Return the checksum over a packet and its pseudo-header."""
    addresses = b"".join(ip_address(one).packed for one in (source, destination))
    if len(addresses) == 8:
        pseudo = addresses + struct.pack("!BBH", 0, protocol, len(packet))
    else:
        pseudo = addresses + struct.pack("!IHBB", len(packet), 0, 0, protocol)
    return checksum(pseudo + packet)


def fragments(
    source: str, destination: str, protocol: int, packet: bytes, parts: int
) -> list[bytes]:
    """Cut what IP carries into so many fragments, each with its header of IP."""
    size = -(-len(packet) // parts // _FRAGMENT_UNIT) * _FRAGMENT_UNIT
    number = int.from_bytes(os.urandom(2), "big")
    ends = tuple(ip_address(one).packed for one in (source, destination))
    made = []
    for start in range(0, len(packet), size):
        part, more = packet[start : start + size], start + size < len(packet)
        if len(ends[0]) == 4:
            place = start // _FRAGMENT_UNIT | (_MORE_FRAGMENTS if more else 0)
            header = _IPV4.pack(
                *(0x45, 0, _IPV4.size + len(part), number, place, _TTL, protocol, 0), *ends
            )
        else:
            extension = _IPV6_FRAGMENT.pack(protocol, start | more, number)
            length = len(extension) + len(part)
            header = _IPV6.pack(6 << 28, length, _NEXT_IS_FRAGMENT, _TTL, *ends) + extension
        made.append(header + part)
    return made


class Opening:
    """A client's end of a connection over IPv4 that no kernel has."""

    def __init__(self, client: Guest, address: str, listener: socket.socket) -> None:
        """Take a port of the client's from its kernel, which then lets it alone."""
        self._client = client
        self._reserved = client.open(4)
        self._reserved.bind((client.address(4), 0))
        self._source: tuple[str, int] = self._reserved.getsockname()
        self._destination: tuple[str, int] = (address, listener.getsockname()[1])
        self._raw = client.raw(4, socket.IPPROTO_TCP)
        self._raw.settimeout(listener.gettimeout())
        self._sequence = int.from_bytes(os.urandom(4), "big") >> 1
        self._acknowledged = 0
        self._filter = client.filtering(
            f"tcp sport {self._source[1]} tcp flags & rst == rst drop", hook="output"
        )

    def __enter__(self) -> Opening:
        self._filter.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._filter.__exit__(kind, error, trace)
        self._send(RST | ACK)
        self._raw.close()
        self._reserved.close()

    def connect(self) -> None:
        """Shake hands; raises TimeoutError without an answer."""
        self._send(SYN)
        while True:
            packet = self._raw.recv(1 << 16)
            header = packet[(packet[0] & 0x0F) * 4 :]
            fields = _TCP.unpack_from(header)
            if fields[0] == self._destination[1] and fields[1] == self._source[1]:
                break
        if fields[5] & RST:
            raise ConnectionRefusedError
        self._sequence += 1
        self._acknowledged = fields[2] + 1 & 0xFFFFFFFF
        self._send(ACK)

    def send(self, data: bytes, parts: int) -> None:
        """Send data once, in so many fragments, the last one first."""
        ends = (self._source[0], self._destination[0])
        cut = fragments(*ends, socket.IPPROTO_TCP, self._segment(ACK | PUSH, data), parts)
        with self._client.raw(4, socket.IPPROTO_RAW) as sock:
            for one in reversed(cut):
                sock.sendto(one, (self._destination[0], 0))
        self._sequence += len(data)

    def _segment(self, flags: int, data: bytes = b"") -> bytes:
        numbers = (self._sequence, self._acknowledged)
        return segment(self._source, self._destination, flags, numbers, data)

    def _send(self, flags: int) -> None:
        self._raw.sendto(self._segment(flags), (self._destination[0], 0))
