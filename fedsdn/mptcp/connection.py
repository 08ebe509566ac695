"""The kernel's state of one connection, read from its socket (getsockopt(2), linux/mptcp.h)."""

from __future__ import annotations

import ctypes
import ipaddress
import socket
import struct
from enum import Enum, auto
from functools import lru_cache

from fedsdn.config.model import Address, AddressPair
from fedsdn.mptcp.info import (
    CLOSED,
    FALLBACK,
    MPTCP_INFO_BYTES,
    SYN_SENT,
    TCP_INFO_BYTES,
    MptcpInfo,
    TcpInfo,
    unpack_mptcp_info,
    unpack_tcp_info,
)

_SOL_MPTCP = 284
_MPTCP_INFO = 1
_MPTCP_TCPINFO = 2
_MPTCP_SUBFLOW_ADDRS = 3
_SO_PROTOCOL = 38
"""include/uapi/asm-generic/socket.h; Python has no name for it."""

_HEADER = struct.Struct("=IIII")
"""``struct mptcp_subflow_data``: its own size, number of subflows, size of the data of each in the
kernel and in the buffer."""

_MOST_SUBFLOWS = 16
_SOCKADDR_BYTES = 128
_FAMILY = struct.Struct("=H")
_IPV4 = slice(4, 8)
_IPV6 = slice(8, 24)
"""Where ``struct sockaddr_in`` and ``sockaddr_in6`` have the address."""

_UNANSWERED = (socket.IPPROTO_TCP, socket.TCP_INFO, 4)
"""The first octets of ``struct tcp_info``: state, ``ca_state``, ``retransmits``, ``probes``."""

_libc = ctypes.CDLL(None)


class Carrier(Enum):
    """The protocol of a connection between sites."""

    MPTCP = auto()
    FALLEN_BACK = auto()
    """TCP under a Multipath TCP socket (RFC 8684, section 3.7)."""
    TCP = auto()
    """TCP from the start, with a TCP socket."""


def carrier(sock: socket.socket) -> Carrier:
    """Return the protocol of a connection at this moment: it may fall back to TCP later."""
    if not _mptcp_info(sock).flags & FALLBACK:
        return Carrier.MPTCP
    plain = sock.getsockopt(socket.SOL_SOCKET, _SO_PROTOCOL) == socket.IPPROTO_TCP
    return Carrier.TCP if plain else Carrier.FALLEN_BACK


def token(sock: socket.socket) -> int:
    """Return a connection's name in this namespace; 0 if it is plain TCP, or has ended."""
    info = _mptcp_info(sock)
    return 0 if info.flags & FALLBACK else info.token


def tcp_info(sock: socket.socket) -> TcpInfo:
    """Return the state of a TCP socket.

    Raises:
        OSError: it is none.

    """
    return unpack_tcp_info(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES))


def unanswered(sock: socket.socket) -> int:
    """Return how many retransmissions and probes of a TCP socket in a row had no answer.

    Raises:
        OSError: it is none.

    """
    _, _, retransmissions, probes = sock.getsockopt(*_UNANSWERED)
    return retransmissions + probes


def subflow_infos(sock: socket.socket) -> list[TcpInfo]:
    """Return the state of each subflow; nothing if the connection is plain TCP."""
    return list(map(unpack_tcp_info, _each(sock, _MPTCP_TCPINFO, TCP_INFO_BYTES)))


def open_pairs(sock: socket.socket) -> dict[AddressPair, bool]:
    """Return the addresses of the open subflows; False for those in the handshake."""
    names = _each(sock, _MPTCP_SUBFLOW_ADDRS, 2 * _SOCKADDR_BYTES)
    return {
        (_address(name[:_SOCKADDR_BYTES]), _address(name[_SOCKADDR_BYTES:])): (
            info.state != SYN_SENT
        )
        for name, info in zip(names, subflow_infos(sock), strict=False)
        if info.state != CLOSED  # the first subflow stays in the kernel's list
    }


def _mptcp_info(sock: socket.socket) -> MptcpInfo:
    """Return flags and token. A socket that was accepted as plain TCP has no such option."""
    try:
        return unpack_mptcp_info(sock.getsockopt(_SOL_MPTCP, _MPTCP_INFO, MPTCP_INFO_BYTES))
    except OSError:
        return MptcpInfo(FALLBACK, 0)


def _each(sock: socket.socket, option: int, size: int) -> list[bytes]:
    room = _HEADER.size + _MOST_SUBFLOWS * size
    buffer = ctypes.create_string_buffer(_HEADER.pack(_HEADER.size, 0, 0, size), room)
    length = ctypes.c_uint(room)
    if _libc.getsockopt(sock.fileno(), _SOL_MPTCP, option, buffer, ctypes.byref(length)):
        return []
    _, count, _, _ = _HEADER.unpack_from(buffer)
    found = buffer.raw[_HEADER.size :]
    return [found[at * size : (at + 1) * size] for at in range(min(count, _MOST_SUBFLOWS))]


@lru_cache(maxsize=1024)
def _parse(packed: bytes) -> Address:
    address = ipaddress.ip_address(packed)
    mapped = None if isinstance(address, ipaddress.IPv4Address) else address.ipv4_mapped
    return mapped or address


def _address(name: bytes) -> Address:
    (family,) = _FAMILY.unpack_from(name)
    return _parse(name[_IPV4 if family == socket.AF_INET else _IPV6])
