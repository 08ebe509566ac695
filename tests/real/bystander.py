"""A machine that notes every frame that comes to it, to say what it should not have seen."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from fedsdn.lab.namespaces import Namespace

_ALL = 3
"""``ETH_P_ALL`` (packet(7))."""
_OTHERS, _OUTGOING = 3, 4
"""``PACKET_OTHERHOST``, ``PACKET_OUTGOING``."""
_TAG = 0x8100
_OFFSETS = {0x0800: (12, 16, 4), 0x86DD: (8, 24, 16)}
"""Of both addresses in the IP header, and their length, by the frame's type."""
_LONGEST = 1 << 16
_BUFFER = 64 << 20
_SO_RCVBUFFORCE = 33
_PACKET_STATISTICS = 6


@dataclass(frozen=True)
class Seen:
    """An IP packet that came to ``place``; ``foreign``: it is addressed to somebody else's MAC."""

    place: str
    source: str
    destination: str
    foreign: bool


class Bystander:
    """Listens to a device while a ``with`` block runs."""

    def __init__(self, namespace: Namespace, device: str = "eth0") -> None:
        self._place = f"{namespace.path.name}/{device}"
        self._sock = namespace.call(
            lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # nothing before bind()
        )
        self._sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        namespace.call(lambda: self._sock.bind((device, _ALL)))
        self._sock.setblocking(False)
        self._seen: list[Seen] = []

    def __enter__(self) -> Bystander:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def strangers(self) -> list[Seen]:
        """Return IP packets that were somebody else's."""
        return [one for one in self._all() if one.foreign]

    def count(self, source: str, destination: str) -> int:
        """Count packets between two addresses."""
        ends = (source, destination)
        return sum((one.source, one.destination) == ends for one in self._all())

    def _all(self) -> list[Seen]:
        self._seen += self._read()
        _, lost = struct.unpack("II", self._sock.getsockopt(263, _PACKET_STATISTICS, 8))
        assert lost == 0, f"{self._place}: {lost} frames did not fit"
        return self._seen

    def _read(self) -> Iterator[Seen]:
        while True:
            try:
                frame, (_, _, kind, _, _) = self._sock.recvfrom(_LONGEST)
            except BlockingIOError:
                return
            packet = _packet(frame)
            if packet is not None and kind != _OUTGOING:
                yield Seen(self._place, *packet, kind == _OTHERS)


def _packet(frame: bytes) -> tuple[str, str] | None:
    """Return both addresses of an IP packet; None for other frames."""
    at = 12
    if int.from_bytes(frame[at : at + 2]) == _TAG:
        at += 4
    found = _OFFSETS.get(int.from_bytes(frame[at : at + 2]))
    if found is None:
        return None
    source, destination, length = found
    header = frame[at + 2 :]
    ends = (header[start : start + length] for start in (source, destination))
    near, far = (str(ip_address(end)) for end in ends)
    return near, far
