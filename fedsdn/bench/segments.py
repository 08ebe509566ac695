"""TCP segments made by hand, for what a kernel would not send (RFC 9293, RFC 791)."""

from __future__ import annotations

import os
import socket
import struct
from ipaddress import ip_address
from types import TracebackType

from fedsdn.bench.guests import Guest

SYN, RST, PUSH, ACK = 0x02, 0x04, 0x08, 0x10
_TCP = struct.Struct("!HHIIBBHHH")
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_HEADER_WORDS = _TCP.size // 4 << 4
_WINDOW = 65_535
_MORE_FRAGMENTS = 0x2000
_FRAGMENT_UNIT = 8
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
    addresses = b"".join(ip_address(one[0]).packed for one in (source, destination))
    length = len(header) + len(data)
    if len(addresses) == 8:
        pseudo = addresses + struct.pack("!BBH", 0, socket.IPPROTO_TCP, length)
    else:
        pseudo = addresses + struct.pack("!IHBB", length, 0, 0, socket.IPPROTO_TCP)
    summed = checksum(pseudo + header + data)
    return header[:16] + summed.to_bytes(2, "big") + header[18:] + data


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

    def send(self, data: bytes, fragments: int) -> None:
        """Send data once, in so many fragments, the last one first."""
        whole = self._segment(ACK | PUSH, data)
        size = -(-len(whole) // fragments // _FRAGMENT_UNIT) * _FRAGMENT_UNIT
        number = int.from_bytes(os.urandom(2), "big")
        with self._client.raw(4, socket.IPPROTO_RAW) as sock:
            for start in reversed(range(0, len(whole), size)):
                part = whole[start : start + size]
                more = _MORE_FRAGMENTS if start + size < len(whole) else 0
                header = _IPV4.pack(
                    *(0x45, 0, _IPV4.size + len(part), number, more | start // _FRAGMENT_UNIT),
                    *(_TTL, socket.IPPROTO_TCP, 0),
                    *(ip_address(one[0]).packed for one in (self._source, self._destination)),
                )
                sock.sendto(header + part, (self._destination[0], 0))
        self._sequence += len(data)

    def _segment(self, flags: int, data: bytes = b"") -> bytes:
        numbers = (self._sequence, self._acknowledged)
        return segment(self._source, self._destination, flags, numbers, data)

    def _send(self, flags: int) -> None:
        self._raw.sendto(self._segment(flags), (self._destination[0], 0))
