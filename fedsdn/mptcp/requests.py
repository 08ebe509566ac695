"""Requests of a userspace path manager to the kernel (linux/mptcp_pm.h, generic netlink)."""

from __future__ import annotations

import os
import socket
import struct

from pyroute2.netlink import (
    NETLINK_GENERIC,
    NLA_F_NESTED,
    NLM_F_ACK,
    NLM_F_REQUEST,
)

from fedsdn.config.model import Address
from fedsdn.mptcp.family import family
from fedsdn.mptcp.netlink import GENERIC, HEADER, pack_attribute

_VERSION = 1
_ANNOUNCE, _SUBFLOW_CREATE = 8, 10
_LOCAL, _TOKEN, _REMOTE = 1, 4, 6
_FAMILY, _IDENTIFIER, _ADDRESS4, _ADDRESS6, _PORT, _FLAGS = 1, 2, 3, 4, 5, 6
_SIGNAL = 1
"""``MPTCP_PM_CMD_*``, ``MPTCP_PM_ATTR_*``, ``MPTCP_PM_ADDR_ATTR_*``, ``MPTCP_PM_ADDR_FLAG_*``."""

_SHORT, _UNSIGNED, _SIGNED = struct.Struct("=H"), struct.Struct("=I"), struct.Struct("=i")
_MOST_BYTES = 1 << 12


class SubflowRequests:
    """Opens subflows of connections in the network namespace where it was made."""

    def __init__(self) -> None:
        """Find the kernel's path manager.

        Raises:
            OSError: the kernel has none.

        """
        self._type = family().number
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def open_subflow(
        self, token: int, local: Address, identifier: int, remote: Address, port: int
    ) -> None:
        """Open a subflow of a connection; the kernel answers before the handshake.

        ``identifier`` is the address identifier of ``local`` (RFC 8684, section 3.2), the same for
        the whole life of a connection.

        Raises:
            OSError: the connection is gone, or not fully established (``ENOTCONN``).

        """
        request = b"".join(
            (
                pack_attribute(_TOKEN, _UNSIGNED.pack(token)),
                _address(_LOCAL, local, pack_attribute(_IDENTIFIER, bytes([identifier]))),
                _address(_REMOTE, remote, pack_attribute(_PORT, _SHORT.pack(port))),
            )
        )
        self._request(_SUBFLOW_CREATE, request)

    def announce(self, token: int, local: Address, identifier: int) -> None:
        """Announce an address to the peer of a connection (ADD_ADDR; RFC 8684, section 3.4.1).

        Raises:
            OSError: the connection is gone, or not fully established (``ENOTCONN``).

        """
        signalled = b"".join(
            (
                pack_attribute(_IDENTIFIER, bytes([identifier])),
                pack_attribute(_FLAGS, _UNSIGNED.pack(_SIGNAL)),
            )
        )
        request = pack_attribute(_TOKEN, _UNSIGNED.pack(token)) + _address(_LOCAL, local, signalled)
        self._request(_ANNOUNCE, request)

    def _request(self, command: int, attributes: bytes) -> None:
        """Ask, and take the answer, which comes at once: ``struct nlmsgerr``, with 0 for success.

        Raises:
            OSError: the kernel refuses.

        """
        body = GENERIC.pack(command, _VERSION) + attributes
        length = HEADER.size + len(body)
        self._socket.send(HEADER.pack(length, self._type, NLM_F_REQUEST | NLM_F_ACK, 0, 0) + body)
        answer = self._socket.recv(_MOST_BYTES)
        (code,) = _SIGNED.unpack_from(answer, HEADER.size)
        if code:
            raise OSError(-code, os.strerror(-code))


def _address(type_: int, address: Address, more: bytes) -> bytes:
    family, kind = (
        (socket.AF_INET, _ADDRESS4) if address.version == 4 else (socket.AF_INET6, _ADDRESS6)
    )
    fields = (
        pack_attribute(_FAMILY, _SHORT.pack(family)),
        pack_attribute(kind, address.packed),
        more,
    )
    return pack_attribute(type_ | NLA_F_NESTED, b"".join(fields))
