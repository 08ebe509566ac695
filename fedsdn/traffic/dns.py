"""As much of DNS over UDP as one question and its answer need (RFC 1035, section 4)."""

from __future__ import annotations

import struct
from ipaddress import IPv6Address, ip_address

_HEADER = struct.Struct("!HHHHHH")
_QUESTION = struct.Struct("!HH")
_RECORD = struct.Struct("!HHHIH")
_A, _AAAA = 1, 28
_INTERNET = 1
_ASKED, _ANSWERED = 0x0100, 0x8580
"""Flags of a question that wishes recursion, and of an answer with authority."""
_NAME_ABOVE = 0xC00C
"""A pointer to the question's name, behind the header."""
_SECONDS = 60


def kind_of(address: str) -> int:
    """Return the type of records that hold addresses like this one."""
    return _AAAA if ip_address(address).version == 6 else _A


def question(number: int, name: str, kind: int) -> bytes:
    """Ask for the records of a kind."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return (
        _HEADER.pack(number, _ASKED, 1, 0, 0, 0) + labels + b"\0" + _QUESTION.pack(kind, _INTERNET)
    )


def answer(asked: bytes, address: str) -> bytes | None:
    """Answer a question with an address, whatever the name; None if it is no question."""
    if len(asked) <= _HEADER.size + _QUESTION.size:
        return None
    number, flags, questions, *_ = _HEADER.unpack_from(asked)
    if flags & ~_ASKED or questions != 1:
        return None
    kind, data = kind_of(address), ip_address(address).packed
    record = _RECORD.pack(_NAME_ABOVE, kind, _INTERNET, _SECONDS, len(data)) + data
    return _HEADER.pack(number, _ANSWERED, 1, 1, 0, 0) + asked[_HEADER.size :] + record


def addresses(answered: bytes, number: int) -> list[str]:
    """Return the address of an answer as above to the question ``number``; none if it is none."""
    if len(answered) < _HEADER.size:
        return []
    said, flags, _, answers, *_ = _HEADER.unpack_from(answered)
    if (said, flags, answers) != (number, _ANSWERED, 1):
        return []
    for kind, size in ((_A, 4), (_AAAA, IPv6Address(0).max_prefixlen // 8)):
        start = len(answered) - size - _RECORD.size
        record = _RECORD.pack(_NAME_ABOVE, kind, _INTERNET, _SECONDS, size)
        if start > 0 and answered[start : start + _RECORD.size] == record:
            return [str(ip_address(answered[-size:]))]
    return []
