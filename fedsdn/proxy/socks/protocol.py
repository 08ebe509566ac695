"""SOCKS5 (RFC 1928), with a private method that carries the client's address and port, and plain.

Pure code: bytes in, values out. ``docs/socks-extension.md`` has the exact bytes.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address

from fedsdn.socket_address import SocketAddress

SOCKS_VERSION = 5
METADATA_VERSION = 2
METHOD_CLIENT_METADATA = 0x80
"""First of the methods that RFC 1928 (section 3) reserves for private use."""

METHOD_NO_AUTHENTICATION = 0
"""The method of plain SOCKS5: nothing is said between greeting and request."""

METHOD_NONE_ACCEPTABLE = 0xFF
COMMAND_CONNECT = 1
TYPE_IPV4, TYPE_NAME, TYPE_IPV6 = 1, 3, 4
_ADDRESS_BYTES = {TYPE_IPV4: 4, TYPE_IPV6: 16}
_PORT_BYTES = 2

_SHORTEST_REQUEST = 21
"""One method, IPv4 addresses."""

_SHORTEST_CONNECT = 10
_SHORTEST_RESPONSE = 12
"""IPv4 addresses."""

_SHORTEST_REPLY = 8
"""Of any server: a bound name of one letter."""

_SHORTEST_GREETING = 3

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
    ASK_AGAIN = 0x80
    """Of our servers: Multipath TCP has fallen back to TCP, and nothing was done."""


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
        return greeting + metadata + encode_connect(self.destination)


PLAIN_GREETING = bytes([SOCKS_VERSION, 1, METHOD_NO_AUTHENTICATION])
PLAIN_SELECTION = bytes([SOCKS_VERSION, METHOD_NO_AUTHENTICATION])
NO_METHOD = bytes([SOCKS_VERSION, METHOD_NONE_ACCEPTABLE])
_METHOD_SELECTION = bytes([SOCKS_VERSION, METHOD_CLIENT_METADATA])
_UNSPECIFIED = SocketAddress(IPv4Address(0), 0)


def encode_connect(destination: SocketAddress) -> bytes:
    """Make a request to connect (RFC 1928, section 4)."""
    return bytes([SOCKS_VERSION, COMMAND_CONNECT, 0]) + encode_address(destination)


def encode_reply(reply: Reply) -> bytes:
    """Make the answer to CONNECT (RFC 1928, section 6).

    The bound address is of no use to anybody, so it is all zero.
    """
    return bytes([SOCKS_VERSION, reply.value, 0]) + encode_address(_UNSPECIFIED)


def encode_response(reply: Reply) -> bytes:
    """Make the method selection and the answer to CONNECT, which leave together."""
    return _METHOD_SELECTION + encode_reply(reply)


class _Reader:
    """Reads fields off the front of ``data``, of a message that has ``least`` bytes or more.

    ``answer`` makes what a client is told whose request is refused.
    """

    def __init__(self, data: bytes, least: int, answer: Callable[[Reply], bytes]) -> None:
        self._data = data
        self._position = 0
        self._least = least
        self._answer = answer

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

    def address(self) -> SocketAddress:
        kind = self.byte()
        if kind not in _ADDRESS_BYTES:
            answer = self._answer(Reply.ADDRESS_TYPE_NOT_SUPPORTED)
            raise SocksError(f"address type {kind}", answer)
        self._least += _ADDRESS_BYTES[kind] - _ADDRESS_BYTES[TYPE_IPV4]
        raw = self.take(_ADDRESS_BYTES[kind])
        address = IPv4Address(raw) if kind == TYPE_IPV4 else IPv6Address(raw)
        return SocketAddress(address, int.from_bytes(self.take(_PORT_BYTES), "big"))

    def connect(self) -> SocketAddress:
        """Read a request to connect; port 0 is left to the caller."""
        self.expect("SOCKS version of CONNECT", SOCKS_VERSION, self._answer(Reply.FAILURE))
        command, _reserved = self.take(2)
        if command != COMMAND_CONNECT:
            answer = self._answer(Reply.COMMAND_NOT_SUPPORTED)
            raise SocksError(f"command {command:#x} instead of {COMMAND_CONNECT:#x}", answer)
        return self.address()

    def reply(self) -> Reply:
        """Read a reply, and a bound address of any type, which is of no use."""
        self.expect("SOCKS version of the reply", SOCKS_VERSION)
        code, _reserved, kind = self.take(3)
        if kind == TYPE_NAME:
            self.take(self.byte() + _PORT_BYTES)
        elif kind in _ADDRESS_BYTES:
            self.take(_ADDRESS_BYTES[kind] + _PORT_BYTES)
        else:
            raise SocksError(f"address type {kind}")
        try:
            return Reply(code)
        except ValueError:
            return Reply.FAILURE

    def expect(self, what: str, wanted: int, answer: bytes = b"") -> None:
        found = self.byte()
        if found != wanted:
            raise SocksError(f"{what} {found:#x} instead of {wanted:#x}", answer)


class _ShortError(Exception):
    """At least ``missing`` bytes have to follow."""

    def __init__(self, missing: int) -> None:
        super().__init__()
        self.missing = missing


# With client metadata


def parse_request(data: bytes) -> Request | int:
    """Read a request that is all of ``data``, or say how many more bytes it takes, at least.

    Whoever reads no more than that never takes a byte of what follows the request. The longest
    request has ``LONGEST_REQUEST`` bytes.

    Raises:
        SocksError: whatever follows, it cannot become a request.

    """
    reader = _Reader(data, _SHORTEST_REQUEST, encode_response)
    try:
        reader.expect("SOCKS version", SOCKS_VERSION)
        if METHOD_CLIENT_METADATA not in reader.methods():
            raise SocksError("no method with client metadata offered", NO_METHOD)
        reader.expect("metadata version", METADATA_VERSION, NO_METHOD)
        client = reader.address()
        destination = reader.connect()
    except _ShortError as short:
        return short.missing
    if client.address.version != destination.address.version:
        answer = encode_response(Reply.ADDRESS_TYPE_NOT_SUPPORTED)
        raise SocksError("client and destination of different families", answer)
    if not client.port or not destination.port:
        raise SocksError("port 0", encode_response(Reply.FAILURE))
    return Request(client, destination)


def parse_response(data: bytes) -> Reply | int:
    """Read an answer that is all of ``data``, or say how many more bytes it takes, at least.

    A code that this version does not know is a ``FAILURE``.

    Raises:
        SocksError: whatever follows, it cannot become an answer to a request of ours.

    """
    reader = _Reader(data, _SHORTEST_RESPONSE, encode_response)
    try:
        reader.expect("SOCKS version", SOCKS_VERSION)
        reader.expect("method", METHOD_CLIENT_METADATA)
        return reader.reply()
    except _ShortError as short:
        return short.missing


# Plain, message by message; all four return the missing bytes, and raise, as those above


def parse_plain_greeting(data: bytes) -> bytes | int:
    """Read a client's greeting: the methods that it offers, of which one must be ours."""
    reader = _Reader(data, _SHORTEST_GREETING, encode_reply)
    try:
        reader.expect("SOCKS version", SOCKS_VERSION)
        methods = reader.methods()
    except _ShortError as short:
        return short.missing
    if METHOD_NO_AUTHENTICATION not in methods:
        raise SocksError("no method without authentication offered", NO_METHOD)
    return methods


def parse_plain_selection(data: bytes) -> bytes | int:
    """Read the method that a server has selected, which must be ours."""
    if len(data) < len(PLAIN_SELECTION):
        return len(PLAIN_SELECTION) - len(data)
    found = data[: len(PLAIN_SELECTION)]
    if found != PLAIN_SELECTION:
        raise SocksError(f"method selection {found.hex()} instead of {PLAIN_SELECTION.hex()}")
    return found


def parse_plain_connect(data: bytes) -> SocketAddress | int:
    """Read a client's request to connect: the destination."""
    reader = _Reader(data, _SHORTEST_CONNECT, encode_reply)
    try:
        destination = reader.connect()
    except _ShortError as short:
        return short.missing
    if not destination.port:
        raise SocksError("port 0", encode_reply(Reply.FAILURE))
    return destination


def parse_plain_reply(data: bytes) -> Reply | int:
    """Read a server's answer to CONNECT, with a bound address of any type."""
    reader = _Reader(data, _SHORTEST_REPLY, encode_reply)
    try:
        return reader.reply()
    except _ShortError as short:
        return short.missing
