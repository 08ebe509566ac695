"""SOCKS5 (RFC 1928) with a private method that carries the client's address and port.

Pure code: bytes in, values out. ``docs/socks-extension.md`` has the exact bytes.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address

from fedsdn.socket_address import SocketAddress

SOCKS_VERSION = 5
METADATA_VERSION = 1
METHOD_CLIENT_METADATA = 0x80
"""First of the methods that RFC 1928 (section 3) reserves for private use."""

METHOD_NONE_ACCEPTABLE = 0xFF
COMMAND_CONNECT = 1
TYPE_IPV4, TYPE_IPV6 = 1, 4
_ADDRESS_BYTES = {TYPE_IPV4: 4, TYPE_IPV6: 16}
_PORT_BYTES = 2

_SHORTEST_REQUEST = 21
"""One method, IPv4 addresses."""

LONGEST_REQUEST = 299
"""255 methods, IPv6 addresses."""


class Reply(Enum):
    """The server's answer to CONNECT (RFC 1928, section 6)."""

    SUCCEEDED = 0
    FAILURE = 1
    NOT_ALLOWED = 2
    NETWORK_UNREACHABLE = 3
    HOST_UNREACHABLE = 4
    REFUSED = 5
    TIMED_OUT = 6
    COMMAND_NOT_SUPPORTED = 7
    ADDRESS_TYPE_NOT_SUPPORTED = 8


_BY_ERRNO = {
    errno.ECONNREFUSED: Reply.REFUSED,
    errno.EHOSTUNREACH: Reply.HOST_UNREACHABLE,
    errno.ENETUNREACH: Reply.NETWORK_UNREACHABLE,
    errno.ETIMEDOUT: Reply.TIMED_OUT,
    errno.EACCES: Reply.NOT_ALLOWED,
    errno.EPERM: Reply.NOT_ALLOWED,
}


def reply_for(error: OSError) -> Reply:
    """Reply that says why a connection to the destination failed."""
    return _BY_ERRNO.get(error.errno or 0, Reply.FAILURE)


class SocksError(Exception):
    """The other side does not speak our SOCKS; ``answer`` is what to send before closing."""

    def __init__(self, message: str, answer: bytes = b"") -> None:
        """Say what is wrong in a few words."""
        super().__init__(message)
        self.answer = answer


def encode_address(of: SocketAddress) -> bytes:
    """Address type, address and port (RFC 1928, section 5)."""
    kind = TYPE_IPV4 if of.address.version == 4 else TYPE_IPV6
    return bytes([kind]) + of.address.packed + of.port.to_bytes(_PORT_BYTES, "big")


@dataclass(frozen=True, slots=True)
class Request:
    """What the socksifier asks for: a connection to ``destination`` on behalf of ``client``."""

    client: SocketAddress
    destination: SocketAddress

    def encode(self) -> bytes:
        """Greeting, client metadata and CONNECT: all that leaves before the first data."""
        greeting = bytes([SOCKS_VERSION, 1, METHOD_CLIENT_METADATA])
        metadata = bytes([METADATA_VERSION]) + encode_address(self.client)
        connect = bytes([SOCKS_VERSION, COMMAND_CONNECT, 0]) + encode_address(self.destination)
        return greeting + metadata + connect


NO_METHOD = bytes([SOCKS_VERSION, METHOD_NONE_ACCEPTABLE])
_METHOD_SELECTION = bytes([SOCKS_VERSION, METHOD_CLIENT_METADATA])
_UNSPECIFIED = SocketAddress(IPv4Address(0), 0)


def encode_response(reply: Reply) -> bytes:
    """Make the method selection and the answer to CONNECT.

    The bound address is of no use to anybody, so it is all zero.
    """
    return _METHOD_SELECTION + bytes([SOCKS_VERSION, reply.value, 0]) + encode_address(_UNSPECIFIED)


class _Reader:
    """Reads fields off the front of ``data``, of a message that has ``least`` bytes or more."""

    def __init__(self, data: bytes, least: int) -> None:
        self._data = data
        self._position = 0
        self._least = least

    def take(self, count: int) -> bytes:
        end = self._position + count
        if end > len(self._data):
            raise _ShortError(max(end, self._least) - len(self._data))
        found = self._data[self._position : end]
        self._position = end
        return found

    def byte(self) -> int:
        return self.take(1)[0]

    def methods(self) -> bytes:
        count = self.byte()
        self._least += count - 1
        return self.take(count)

    def endpoint(self) -> SocketAddress:
        kind = self.byte()
        if kind not in _ADDRESS_BYTES:
            answer = encode_response(Reply.ADDRESS_TYPE_NOT_SUPPORTED)
            raise SocksError(f"address type {kind}", answer)
        self._least += _ADDRESS_BYTES[kind] - _ADDRESS_BYTES[TYPE_IPV4]
        raw = self.take(_ADDRESS_BYTES[kind])
        address = IPv4Address(raw) if kind == TYPE_IPV4 else IPv6Address(raw)
        return SocketAddress(address, int.from_bytes(self.take(_PORT_BYTES), "big"))


class _ShortError(Exception):
    """At least ``missing`` bytes have to follow."""

    def __init__(self, missing: int) -> None:
        super().__init__()
        self.missing = missing


def parse_request(data: bytes) -> Request | int:
    """Read a request that is all of ``data``, or say how many more bytes it takes, at least.

    Whoever reads no more than that never takes a byte of what follows the request. The longest
    request has ``LONGEST_REQUEST`` bytes.

    Raises:
        SocksError: whatever follows, it cannot become a request.

    """
    reader = _Reader(data, _SHORTEST_REQUEST)
    failure = encode_response(Reply.FAILURE)
    try:
        _expect("SOCKS version", reader.byte(), SOCKS_VERSION)
        if METHOD_CLIENT_METADATA not in reader.methods():
            raise SocksError("no method with client metadata offered", NO_METHOD)
        _expect("metadata version", reader.byte(), METADATA_VERSION, NO_METHOD)
        client = reader.endpoint()
        _expect("SOCKS version of CONNECT", reader.byte(), SOCKS_VERSION, failure)
        command, _reserved = reader.take(2)
        _expect("command", command, COMMAND_CONNECT, encode_response(Reply.COMMAND_NOT_SUPPORTED))
        destination = reader.endpoint()
    except _ShortError as short:
        return short.missing
    if client.address.version != destination.address.version:
        answer = encode_response(Reply.ADDRESS_TYPE_NOT_SUPPORTED)
        raise SocksError("client and destination of different families", answer)
    if not client.port or not destination.port:
        raise SocksError("port 0", failure)
    return Request(client, destination)


def parse_response(data: bytes) -> Reply | int:
    """Read an answer that is all of ``data``, or say how many more bytes it takes, at least.

    A code that this version does not know is a ``FAILURE``.

    Raises:
        SocksError: whatever follows, it cannot become an answer to a request of ours.

    """
    reader = _Reader(data, len(encode_response(Reply.SUCCEEDED)))
    try:
        _expect("SOCKS version", reader.byte(), SOCKS_VERSION)
        _expect("method", reader.byte(), METHOD_CLIENT_METADATA)
        _expect("SOCKS version of the reply", reader.byte(), SOCKS_VERSION)
        code, _reserved = reader.take(2)
        reader.endpoint()
    except _ShortError as short:
        return short.missing
    try:
        return Reply(code)
    except ValueError:
        return Reply.FAILURE


def _expect(what: str, found: int, wanted: int, answer: bytes = b"") -> None:
    if found != wanted:
        raise SocksError(f"{what} {found:#x} instead of {wanted:#x}", answer)
