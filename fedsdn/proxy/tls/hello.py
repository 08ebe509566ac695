"""The beginning of a ClientHello, looked at before anything is spent on it: pure code.

OpenSSL would keep 128 KiB for what claims to be so long (``CLIENT_HELLO_MAX_LENGTH``), and wait for
it octet by octet. A peer's own has less than 1,100, in one segment.
"""

from __future__ import annotations

import struct

LONGEST = 4096
"""Octets of a ClientHello that is taken."""

_HEADERS = struct.Struct(">BxxHBBH")
"""Of a record, its type, version and length; of a handshake message, its type and length of three
octets (RFC 8446, sections 5.1 and 4)."""

HEADER_BYTES = _HEADERS.size
_RECORD_OF_HANDSHAKE = 22
_CLIENT_HELLO = 1
_LONGEST_RECORD = 1 << 14


def fault(first: bytes) -> str:
    """Say what is wrong with what came first, of which ``HEADER_BYTES`` do; empty if nothing is."""
    if first[:1] != bytes([_RECORD_OF_HANDSHAKE]):
        return f"it begins with {first[:1].hex()}, not with TLS"
    if len(first) < HEADER_BYTES:
        return f"its first segment has {len(first)} octets"
    _, record, message, more, length = _HEADERS.unpack_from(first)
    if not 0 < record <= _LONGEST_RECORD:
        return f"a record of {record} octets"
    if message != _CLIENT_HELLO:
        return f"a handshake message of type {message} comes first"
    if more or length > LONGEST:
        return f"a ClientHello of {(more << 16) + length} octets"
    return ""
