"""SOCKS5 (RFC 1928), with a private method that carries the client's address and port, and plain.

The messages as values, and writing them; ``parsing`` reads them. Pure code.
``docs/socks-extension.md`` has the exact bytes.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address

from fedsdn.socket_address import SocketAddress

SOCKS_VERSION = 5
METADATA_VERSION = 3
METHOD_CLIENT_METADATA = 0x80
"""First of the methods that RFC 1928 (section 3) reserves for private use."""

METHOD_NO_AUTHENTICATION = 0
"""The method of plain SOCKS5: nothing is sent between greeting and request."""

METHOD_NONE_ACCEPTABLE = 0xFF
COMMAND_CONNECT = 1
TYPE_IPV4, TYPE_NAME, TYPE_IPV6 = 1, 3, 4
PORT_BYTES = 2

LONGEST_GREETING = 257
"""255 methods."""

LONGEST_REQUEST = 51
"""IPv6 addresses."""

NUMBER_BYTES = 4


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
    OPENED_BY_BOTH = 0x81
    """Of our servers: the VM here opens the same connection, and its SYN goes to the client."""
    LEAVING = 0x82
    """Of our servers, and no answer: they take no more requests on this connection. A request that
    was under way is answered behind it."""


_BY_ERRNO = {
    errno.ECONNREFUSED: Reply.REFUSED,
    errno.EHOSTUNREACH: Reply.HOST_UNREACHABLE,
    errno.ENETUNREACH: Reply.NETWORK_UNREACHABLE,
    errno.ETIMEDOUT: Reply.TIMED_OUT,
    errno.EACCES: Reply.NOT_ALLOWED,
    errno.EPERM: Reply.NOT_ALLOWED,
}


def reply_for(error: OSError) -> Reply:
    """Return the reply for a failed connection to the destination."""
    return _BY_ERRNO.get(error.errno or 0, Reply.FAILURE)


class SocksError(Exception):
    """The other side does not speak our SOCKS; ``answer`` is sent before closing."""

    def __init__(self, message: str, answer: bytes = b"") -> None:
        """Say what is wrong in a few words."""
        super().__init__(message)
        self.answer = answer


def encode_address(of: SocketAddress) -> bytes:
    """Address type, address and port (RFC 1928, section 5)."""
    kind = TYPE_IPV4 if of.address.version == 4 else TYPE_IPV6
    return bytes([kind]) + of.address.packed + of.port.to_bytes(PORT_BYTES, "big")


@dataclass(frozen=True, slots=True)
class Request:
    """What the socksifier asks for: a connection to ``destination`` on behalf of ``client``.

    ``number`` names it among the requests of its site. The server connects to the VM when it has
    begun to do so for request ``after``; 0: at once. ``traffic_class`` is the octet of the VM's
    SYN with its DSCP (RFC 2474); the bits of ECN are 0.
    """

    client: SocketAddress
    destination: SocketAddress
    number: int
    after: int = 0
    traffic_class: int = 0

    def encode(self) -> bytes:
        """Write client metadata and CONNECT."""
        return (
            bytes([METADATA_VERSION])
            + self.number.to_bytes(NUMBER_BYTES, "big")
            + self.after.to_bytes(NUMBER_BYTES, "big")
            + bytes([self.traffic_class])
            + encode_address(self.client)
            + encode_connect(self.destination)
        )


GREETING = bytes([SOCKS_VERSION, 1, METHOD_CLIENT_METADATA])
SELECTION = bytes([SOCKS_VERSION, METHOD_CLIENT_METADATA])
PLAIN_GREETING = bytes([SOCKS_VERSION, 1, METHOD_NO_AUTHENTICATION])
PLAIN_SELECTION = bytes([SOCKS_VERSION, METHOD_NO_AUTHENTICATION])
NO_METHOD = bytes([SOCKS_VERSION, METHOD_NONE_ACCEPTABLE])
_UNSPECIFIED = SocketAddress(IPv4Address(0), 0)


def encode_connect(destination: SocketAddress) -> bytes:
    """Make a request to connect (RFC 1928, section 4)."""
    return bytes([SOCKS_VERSION, COMMAND_CONNECT, 0]) + encode_address(destination)


def encode_reply(reply: Reply) -> bytes:
    """Make the answer to CONNECT (RFC 1928, section 6).

    The bound address is not used, so it is all zero.
    """
    return bytes([SOCKS_VERSION, reply.value, 0]) + encode_address(_UNSPECIFIED)
