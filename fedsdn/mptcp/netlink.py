"""Messages and attributes of netlink(7): packed, unpacked, and read from sockets that listen.

For operations per connection: pyroute2 makes an object of each field, which takes seconds for
thousands of sockets.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

from pyroute2.netlink import NLA_F_NESTED

HEADER = struct.Struct("=IHHII")
"""Length, type, flags, sequence number, port (``struct nlmsghdr``)."""

GENERIC = struct.Struct("=BBxx")
"""Command and version (``struct genlmsghdr``), behind the header."""

_ATTRIBUTE = struct.Struct("=HH")
"""Length and type, before the value (``struct nlattr``)."""

Attributes = dict[int, memoryview]


def pack_attribute(type_: int, value: bytes) -> bytes:
    """Return an attribute, padded to the alignment of the next one."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, type_) + value + bytes(aligned(length) - length)


def unpack_attributes(packed: memoryview) -> Attributes:
    """Return attributes by type, the last one of each."""
    found = {}
    offset = 0
    while offset < len(packed):
        length, type_ = _ATTRIBUTE.unpack_from(packed, offset)
        found[type_ & ~NLA_F_NESTED] = packed[offset + _ATTRIBUTE.size : offset + length]
        offset += aligned(length)
    return found


def aligned(length: int) -> int:
    """Return the offset of the next message or attribute."""
    return (length + 3) & ~3


def queued(sock: socket.socket, most_bytes: int) -> Iterator[bytes | None]:
    """Read what the kernel has told a non-blocking socket; None stands for dropped messages.

    The kernel goes on dropping messages until the queue is empty.

    Raises:
        OSError: the socket cannot be read.

    """
    while True:
        try:
            yield sock.recv(most_bytes)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            yield None
