"""What the kernel tells about the subflows of one connection (linux/mptcp.h)."""

from __future__ import annotations

import ctypes
import ipaddress
import socket
import struct
from functools import lru_cache

from fedsdn.config.model import Address, AddressPair

_SOL_MPTCP = 284
_MPTCP_TCPINFO = 2
_MPTCP_SUBFLOW_ADDRS = 3
_HEADER = struct.Struct("=IIII")
"""``struct mptcp_subflow_data``: its own size, number of subflows, size of what follows for each,
as the kernel has it and as it is asked for."""

_MOST_SUBFLOWS = 16
_TCP_INFO_BYTES = 152
_SOCKADDR_BYTES = 128
_SYN_SENT, _CLOSED = 2, 7
"""``TCP_SYN_SENT`` and ``TCP_CLOSE`` of net/tcp_states.h, in the first byte of
``struct tcp_info``."""

_FAMILY = struct.Struct("=H")
_IPV4 = slice(4, 8)
_IPV6 = slice(8, 24)
"""Where ``struct sockaddr_in`` and ``sockaddr_in6`` have the address."""

_libc = ctypes.CDLL(None)


def tcp_infos(sock: socket.socket) -> list[bytes]:
    """Return the beginning of ``struct tcp_info`` of each subflow; nothing if it is plain TCP."""
    return _each(sock, _MPTCP_TCPINFO, _TCP_INFO_BYTES)


def open_pairs(sock: socket.socket) -> dict[AddressPair, bool]:
    """Return the addresses of the subflows that are there; False for those being opened.

    A connection's first subflow stays in the kernel's list when it has been closed.
    """
    names = _each(sock, _MPTCP_SUBFLOW_ADDRS, 2 * _SOCKADDR_BYTES)
    return {
        (_address(name[:_SOCKADDR_BYTES]), _address(name[_SOCKADDR_BYTES:])): info[0] != _SYN_SENT
        for name, info in zip(names, tcp_infos(sock), strict=False)
        if info[0] != _CLOSED
    }


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
