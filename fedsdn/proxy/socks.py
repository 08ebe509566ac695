"""SOCKS5 (RFC 1928) with a private method that carries the client's address and port.

Pure code: bytes in, values out. ``docs/socks-extension.md`` has the exact bytes.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address

from fedsdn.config.model import Address

SOCKS_VERSION = 5
METADATA_VERSION = 1
METHOD_CLIENT_METADATA = 0x80
"""First of the methods that RFC 1928 (section 3) reserves for private use."""

METHOD_NONE_ACCEPTABLE = 0xFF
COMMAND_CONNECT = 1
TYPE_IPV4, TYPE_IPV6 = 1, 4
_ADDRESS_BYTES = {TYPE_IPV4: 4, TYPE_IPV6: 16}
_PORT_BYTES = 2


class Reply(IntEnum):
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
    """The other side does not speak our SOCKS; ``reply`` is what to answer, if anything."""

    def __init__(self, message: str, reply: Reply = Reply.FAILURE) -> None:
        """Say what is wrong in a few words."""
        super().__init__(message)
        self.reply = reply


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One side of a TCP connection."""

    address: Address
    port: int

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{host}:{self.port}"

    def encode(self) -> bytes:
        """Address type, address and port (RFC 1928, section 5)."""
        kind = TYPE_IPV4 if self.address.version == 4 else TYPE_IPV6
        return bytes([kind]) + self.address.packed + self.port.to_bytes(_PORT_BYTES, "big")


@dataclass(frozen=True, slots=True)
class Request:
    """What the socksifier asks for: a connection to ``destination`` on behalf of ``client``."""

    client: Endpoint
    destination: Endpoint

    def encode(self) -> bytes:
        """Greeting, client metadata and CONNECT: all that leaves before the first data."""
        greeting = bytes([SOCKS_VERSION, 1, METHOD_CLIENT_METADATA])
        metadata = bytes([METADATA_VERSION]) + self.client.encode()
        connect = bytes([SOCKS_VERSION, COMMAND_CONNECT, 0]) + self.destination.encode()
        return greeting + metadata + connect


METHOD_SELECTION = bytes([SOCKS_VERSION, METHOD_CLIENT_METADATA])
NO_METHOD = bytes([SOCKS_VERSION, METHOD_NONE_ACCEPTABLE])
_UNSPECIFIED = Endpoint(IPv4Address(0), 0)


def encode_reply(reply: Reply) -> bytes:
    """Answer to CONNECT; the bound address is of no use to anybody, so it is all zero."""
    return bytes([SOCKS_VERSION, reply, 0]) + _UNSPECIFIED.encode()


RESPONSE_BYTES = len(METHOD_SELECTION) + len(encode_reply(Reply.SUCCEEDED))
"""Length of the server's whole answer, method selection included."""


_SHORTEST_REQUEST = 21
"""Length of a request with one method and IPv4 addresses."""


class _Reader:
    """Reads fields off the front of some bytes; ``_ShortError`` when they are not there yet."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def take(self, count: int) -> bytes:
        end = self._position + count
        if end > len(self._data):
            raise _ShortError(end)
        found = self._data[self._position : end]
        self._position = end
        return found

    def byte(self) -> int:
        return self.take(1)[0]

    def endpoint(self) -> Endpoint:
        kind = self.byte()
        if kind not in _ADDRESS_BYTES:
            raise SocksError(f"address type {kind}", Reply.ADDRESS_TYPE_NOT_SUPPORTED)
        raw = self.take(_ADDRESS_BYTES[kind])
        address = IPv4Address(raw) if kind == TYPE_IPV4 else IPv6Address(raw)
        return Endpoint(address, int.from_bytes(self.take(_PORT_BYTES), "big"))


class _ShortError(Exception):
    """The input would have to be at least ``length`` bytes long."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length


def parse_request(data: bytes) -> Request | int:
    """Read a request that is all of ``data``, or say how many bytes it takes more, at least.

    Whoever reads no more than that never takes a byte of what follows the request.

    Raises:
        SocksError: whatever follows, it cannot become a request.

    """
    reader = _Reader(data)
    try:
        _expect("SOCKS version", reader.byte(), SOCKS_VERSION)
        methods = reader.take(reader.byte())
        if METHOD_CLIENT_METADATA not in methods:
            raise SocksError("no method with client metadata offered", Reply.NOT_ALLOWED)
        _expect("metadata version", reader.byte(), METADATA_VERSION)
        client = reader.endpoint()
        _expect("SOCKS version", reader.byte(), SOCKS_VERSION)
        command = reader.byte()
        if command != COMMAND_CONNECT:
            raise SocksError(f"command {command}", Reply.COMMAND_NOT_SUPPORTED)
        reader.byte()  # reserved
        destination = reader.endpoint()
    except _ShortError as short:
        return max(short.length, _SHORTEST_REQUEST) - len(data)
    return Request(client, destination)


def parse_response(data: bytes) -> Reply | None:
    """Read the server's answer off the front of ``data``; None while it is not all there.

    Raises:
        SocksError: it is no answer to a request of ours.

    """
    reader = _Reader(data)
    try:
        _expect("SOCKS version", reader.byte(), SOCKS_VERSION)
        method = reader.byte()
        if method != METHOD_CLIENT_METADATA:
            raise SocksError(f"server chose method {method:#x}")
        _expect("SOCKS version", reader.byte(), SOCKS_VERSION)
        code = reader.byte()
        reader.byte()
        reader.endpoint()
    except _ShortError:
        return None
    try:
        return Reply(code)
    except ValueError:
        return Reply.FAILURE


def _expect(what: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise SocksError(f"{what} {found} instead of {wanted}")
