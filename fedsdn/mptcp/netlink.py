"""Messages and attributes of netlink(7), packed and unpacked.

pyroute2 makes an object of each field, which takes seconds for thousands of sockets; what is done
for every connection uses this.
"""

from __future__ import annotations

import struct

from pyroute2.netlink import NLA_F_NESTED

HEADER = struct.Struct("=IHHII")
"""Length, type, flags, sequence number, port (``struct nlmsghdr``)."""

GENERIC = struct.Struct("=BBxx")
"""Command and version (``struct genlmsghdr``), behind the header."""

_ATTRIBUTE = struct.Struct("=HH")
"""Length and type, before the value (``struct nlattr``)."""

Attributes = dict[int, memoryview]


def pack_attribute(type_: int, value: bytes) -> bytes:
    """Return an attribute, padded so that another may follow."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, type_) + value + bytes(aligned(length) - length)


def unpack_attributes(packed: memoryview) -> Attributes:
    """Return attributes by type; of two with the same type the last."""
    found = {}
    offset = 0
    while offset < len(packed):
        length, type_ = _ATTRIBUTE.unpack_from(packed, offset)
        found[type_ & ~NLA_F_NESTED] = packed[offset + _ATTRIBUTE.size : offset + length]
        offset += aligned(length)
    return found


def aligned(length: int) -> int:
    """Return where the next message or attribute begins."""
    return (length + 3) & ~3
