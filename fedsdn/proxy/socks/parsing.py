"""Reading SOCKS5 messages from bytes: pure code.

Each function returns the message, or how many more bytes it needs at least. A caller that reads no
more than that from a socket never reads beyond the message.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from fedsdn.proxy.socks.protocol import (
    COMMAND_CONNECT,
    GREETING,
    METADATA_VERSION,
    METHOD_CLIENT_METADATA,
    METHOD_NO_AUTHENTICATION,
    NO_METHOD,
    NUMBER_BYTES,
    PLAIN_SELECTION,
    PORT_BYTES,
    SELECTION,
    SOCKS_VERSION,
    TYPE_IPV4,
    TYPE_IPV6,
    TYPE_NAME,
    Reply,
    Request,
    SocksError,
    encode_reply,
)
from fedsdn.socket_address import SocketAddress

_ADDRESS_BYTES = {TYPE_IPV4: 4, TYPE_IPV6: 16}

_SHORTEST_GREETING = len(GREETING)
_SHORTEST_REQUEST = 27
_SHORTEST_CONNECT = 10
"""IPv4 addresses."""

_SHORTEST_REPLY = 8
"""A bound name of one letter, as another's server may have."""

_ECN = 0b11
"""The two bits of the traffic class that are ECN's (RFC 3168)."""


class _Reader:
    """Reads the fields of a message that has at least ``least`` bytes."""

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

    def number(self) -> int:
        return int.from_bytes(self.take(NUMBER_BYTES), "big")

    def methods(self) -> bytes:
        count = self.byte()
        self._least += count - 1
        return self.take(count)

    def address(self) -> SocketAddress:
        kind = self.byte()
        if kind not in _ADDRESS_BYTES:
            answer = encode_reply(Reply.ADDRESS_TYPE_NOT_SUPPORTED)
            raise SocksError(f"address type {kind}", answer)
        self._least += _ADDRESS_BYTES[kind] - _ADDRESS_BYTES[TYPE_IPV4]
        raw = self.take(_ADDRESS_BYTES[kind])
        address = IPv4Address(raw) if kind == TYPE_IPV4 else IPv6Address(raw)
        return SocketAddress(address, int.from_bytes(self.take(PORT_BYTES), "big"))

    def connect(self) -> SocketAddress:
        """Read a request to connect; port 0 is left to the caller."""
        self.expect("SOCKS version of CONNECT", SOCKS_VERSION, encode_reply(Reply.FAILURE))
        command, _reserved = self.take(2)
        if command != COMMAND_CONNECT:
            answer = encode_reply(Reply.COMMAND_NOT_SUPPORTED)
            raise SocksError(f"command {command:#x} instead of {COMMAND_CONNECT:#x}", answer)
        return self.address()

    def reply(self) -> Reply:
        """Read a reply, and its bound address of any type, which is not used."""
        self.expect("SOCKS version of the reply", SOCKS_VERSION)
        code, _reserved, kind = self.take(3)
        if kind == TYPE_NAME:
            self.take(self.byte() + PORT_BYTES)
        elif kind in _ADDRESS_BYTES:
            self.take(_ADDRESS_BYTES[kind] + PORT_BYTES)
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
    """At least ``missing`` bytes are needed."""

    def __init__(self, missing: int) -> None:
        super().__init__()
        self.missing = missing


def _parse_greeting(data: bytes, wanted: int, lacks: str) -> bytes | int:
    reader = _Reader(data, _SHORTEST_GREETING)
    try:
        reader.expect("SOCKS version", SOCKS_VERSION)
        methods = reader.methods()
    except _ShortError as short:
        return short.missing
    if wanted not in methods:
        raise SocksError(lacks, NO_METHOD)
    return methods


def _parse_selection(data: bytes, wanted: bytes) -> bytes | int:
    found = data[: len(wanted)]
    if found != wanted[: len(found)]:
        raise SocksError(f"method selection {found.hex()} instead of {wanted.hex()}")
    return len(wanted) - len(found) or found


# With client metadata, message by message; all return missing bytes, and raise SocksError if this
# is not the beginning of such a message


def parse_greeting(data: bytes) -> bytes | int:
    """Return the methods that a client offers; ours must be among them."""
    return _parse_greeting(data, METHOD_CLIENT_METADATA, "no method with client metadata offered")


def parse_selection(data: bytes) -> bytes | int:
    """Return the method that a server has selected; it must be ours."""
    return _parse_selection(data, SELECTION)


def parse_request(data: bytes) -> Request | int:
    """Return the client's metadata and request; the longest have ``LONGEST_REQUEST`` bytes."""
    reader = _Reader(data, _SHORTEST_REQUEST)
    try:
        reader.expect("metadata version", METADATA_VERSION, encode_reply(Reply.FAILURE))
        number, after = reader.number(), reader.number()
        traffic_class = reader.byte()
        client = reader.address()
        destination = reader.connect()
    except _ShortError as short:
        return short.missing
    if client.address.version != destination.address.version:
        answer = encode_reply(Reply.ADDRESS_TYPE_NOT_SUPPORTED)
        raise SocksError("client and destination of different families", answer)
    if not client.port or not destination.port:
        raise SocksError("port 0", encode_reply(Reply.FAILURE))
    if not number or number == after:
        raise SocksError(f"number {number} after {after}", encode_reply(Reply.FAILURE))
    if traffic_class & _ECN:
        raise SocksError(f"traffic class {traffic_class:#x}", encode_reply(Reply.FAILURE))
    return Request(client, destination, number, after, traffic_class)


def parse_reply(data: bytes) -> Reply | int:
    """Return the answer to CONNECT, of any server; its bound address may be of any type.

    A code that this version does not know is a ``FAILURE``.
    """
    reader = _Reader(data, _SHORTEST_REPLY)
    try:
        return reader.reply()
    except _ShortError as short:
        return short.missing


# Plain; as above


def parse_plain_greeting(data: bytes) -> bytes | int:
    """Return the methods that a client offers; ours must be among them."""
    return _parse_greeting(
        data, METHOD_NO_AUTHENTICATION, "no method without authentication offered"
    )


def parse_plain_selection(data: bytes) -> bytes | int:
    """Return the method that a server has selected; it must be ours."""
    return _parse_selection(data, PLAIN_SELECTION)


def parse_plain_connect(data: bytes) -> SocketAddress | int:
    """Return the destination of a client's CONNECT."""
    reader = _Reader(data, _SHORTEST_CONNECT)
    try:
        destination = reader.connect()
    except _ShortError as short:
        return short.missing
    if not destination.port:
        raise SocksError("port 0", encode_reply(Reply.FAILURE))
    return destination
