"""The last ended connections of a worker, in memory that outlives it.

One process writes, any may read, and nobody waits: a record that is being written has a checksum
that does not fit, and is left out. So a worker that is killed while it writes loses that record
alone. Whatever else a worker writes is left out too where it is no record.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from zlib import crc32

from fedsdn.channel.connection import Direction
from fedsdn.proxy.ended.record import FAULTS, Ended, Reason, Who
from fedsdn.socket_address import SocketAddress

RECORDS = 512
"""Records of one ring; the next one takes the place of the oldest."""

_RECORD_BYTES = 256
_CHECKSUM = struct.Struct("<I")
_FIELDS = struct.Struct("<QdIBBBB16sHB16sHBB")
"""Number, time, count, reason, who, direction; family, address and port of client and destination;
octets of the peer's name and of the detail, which follow."""

_MOST_PEER = 63
_MOST_DETAIL = _RECORD_BYTES - _CHECKSUM.size - _FIELDS.size - _MOST_PEER
_NUMBER = struct.Struct("<Q")
RING_BYTES = _NUMBER.size + RECORDS * _RECORD_BYTES
RINGS_BYTES = 2 * RING_BYTES

_REASONS, _WHO = tuple(Reason), tuple(Who)
_DIRECTIONS = (None, *Direction)


class Ring:
    """The last ``RECORDS`` ended connections, in ``RING_BYTES`` of shared memory, zero at first."""

    def __init__(self, memory: memoryview[int]) -> None:
        """Use memory that is shared by those who write and read."""
        self._memory = memory

    def put(self, ended: Ended) -> None:
        """Add a record; what is too long of its words is cut."""
        (number,) = _NUMBER.unpack_from(self._memory)
        content = _encode(number + 1, ended)
        start = _start(number)
        _NUMBER.pack_into(self._memory, 0, number + 1)
        self._memory[start : start + len(content)] = content

    def records(self) -> Iterator[Ended]:
        """Yield what is there, the oldest first."""
        (newest,) = _NUMBER.unpack_from(self._memory)
        for number in range(max(0, newest - RECORDS), newest):
            start = _start(number)
            found = _decode(bytes(self._memory[start : start + _RECORD_BYTES]), number + 1)
            if found is not None:
                yield found


class Rings:
    """A worker's ring of faults and its ring of all else, in ``RINGS_BYTES`` of shared memory.

    So VMs that have many connections refused leave what somebody ought to mend where it is.
    """

    def __init__(self, memory: memoryview[int]) -> None:
        """Use memory that is shared by those who write and read."""
        self._faults, self._others = Ring(memory[:RING_BYTES]), Ring(memory[RING_BYTES:])

    def put(self, ended: Ended) -> None:
        """Add a record."""
        (self._faults if ended.reason in FAULTS else self._others).put(ended)

    def records(self) -> Iterator[Ended]:
        """Yield what is there: the faults first, of each kind the oldest first."""
        yield from self._faults.records()
        yield from self._others.records()


def _start(number: int) -> int:
    return _NUMBER.size + number % RECORDS * _RECORD_BYTES


def _encode(number: int, ended: Ended) -> bytes:
    peer, detail = _cut(ended.peer, _MOST_PEER), _cut(ended.detail, _MOST_DETAIL)
    fields = _FIELDS.pack(
        number,
        ended.time,
        ended.count,
        _REASONS.index(ended.reason),
        _WHO.index(ended.who),
        _DIRECTIONS.index(ended.direction),
        *_packed(ended.client),
        *_packed(ended.destination),
        len(peer),
        len(detail),
    )
    content = fields + peer + detail
    return _CHECKSUM.pack(crc32(content)) + content


def _cut(text: str, most: int) -> bytes:
    return text.encode(errors="replace")[:most].decode(errors="ignore").encode()


def _packed(one: SocketAddress | None) -> tuple[int, bytes, int]:
    return (0, b"", 0) if one is None else (one.address.version, one.address.packed, one.port)


def _decode(data: bytes, number: int) -> Ended | None:
    """Read a record; None if it is not the one with this number, or not complete."""
    (checksum,) = _CHECKSUM.unpack_from(data)
    fields = _FIELDS.unpack_from(data, _CHECKSUM.size)
    peer_bytes, detail_bytes = fields[-2:]
    words = _CHECKSUM.size + _FIELDS.size
    stop = words + peer_bytes + detail_bytes
    if fields[0] != number or crc32(data[_CHECKSUM.size : stop]) != checksum:
        return None
    if not math.isfinite(fields[1]):
        return None
    try:
        return Ended(
            time=fields[1],
            count=fields[2],
            reason=_REASONS[fields[3]],
            who=_WHO[fields[4]],
            direction=_DIRECTIONS[fields[5]],
            client=_unpacked(*fields[6:9]),
            destination=_unpacked(*fields[9:12]),
            peer=data[words : words + peer_bytes].decode(),
            detail=data[words + peer_bytes : stop].decode(),
        )
    except (IndexError, UnicodeDecodeError):
        return None


def _unpacked(family: int, packed: bytes, port: int) -> SocketAddress | None:
    if not family:
        return None
    return SocketAddress(ip_address(packed[:4] if family == 4 else packed), port)
