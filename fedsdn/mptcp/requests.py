"""Requests of a userspace path manager to the kernel (linux/mptcp_pm.h, generic netlink)."""

from __future__ import annotations

import os
import socket
import struct

from pyroute2.netlink import (
    CTRL_ATTR_FAMILY_ID,
    CTRL_ATTR_FAMILY_NAME,
    CTRL_ATTR_MCAST_GROUPS,
    CTRL_ATTR_MCAST_GRP_ID,
    CTRL_ATTR_MCAST_GRP_NAME,
    CTRL_CMD_GETFAMILY,
    GENL_ID_CTRL,
    NETLINK_ADD_MEMBERSHIP,
    NETLINK_GENERIC,
    NLA_F_NESTED,
    NLM_F_ACK,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    SOL_NETLINK,
)

from fedsdn.config.model import Address
from fedsdn.mptcp.netlink import HEADER, Attributes, pack_attribute, unpack_attributes

_GENERIC = struct.Struct("=BBxx")
"""Command and version (``struct genlmsghdr``)."""

_VERSION = 1
_FAMILY_NAME = b"mptcp_pm\0"
_EVENTS = b"mptcp_pm_events\0"

_ANNOUNCE, _SUBFLOW_CREATE = 8, 10
_LOCAL, _TOKEN, _REMOTE = 1, 4, 6
_FAMILY, _IDENTIFIER, _ADDRESS4, _ADDRESS6, _PORT, _FLAGS = 1, 2, 3, 4, 5, 6
_SIGNAL = 1
"""``MPTCP_PM_CMD_*``, ``MPTCP_PM_ATTR_*``, ``MPTCP_PM_ADDR_ATTR_*``, ``MPTCP_PM_ADDR_FLAG_*``."""

_SHORT, _UNSIGNED, _SIGNED = struct.Struct("=H"), struct.Struct("=I"), struct.Struct("=i")
_RECEIVED_AT_ONCE = 1 << 14


class SubflowRequests:
    """Opens subflows of connections in the network namespace where it was made.

    While it is open, the kernel takes subflows that peers open: it does so only for somebody who
    listens to its events (``mptcp_userspace_pm_active``), whether these are read or not.
    """

    def __init__(self) -> None:
        """Find the kernel's path manager.

        Raises:
            OSError: the kernel has none, or this process may not use it.

        """
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
        self._events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
        try:
            self._type, group = self._find()
            self._events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
            self._events.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Close the sockets."""
        self._socket.close()
        self._events.close()

    def open_subflow(
        self, token: int, local: Address, identifier: int, remote: Address, port: int
    ) -> None:
        """Have a subflow of a connection opened; the kernel does not wait until it is.

        ``identifier`` is the address identifier of ``local`` (RFC 8684, section 3.2), which must
        always be the same for one connection.

        Raises:
            OSError: the connection is gone, or not far enough yet (``ENOTCONN``).

        """
        request = b"".join(
            (
                pack_attribute(_TOKEN, _UNSIGNED.pack(token)),
                _address(_LOCAL, local, pack_attribute(_IDENTIFIER, bytes([identifier]))),
                _address(_REMOTE, remote, pack_attribute(_PORT, _SHORT.pack(port))),
            )
        )
        self._request(self._type, _SUBFLOW_CREATE, request)

    def announce(self, token: int, local: Address, identifier: int) -> None:
        """Announce an address to the peer of a connection (ADD_ADDR; RFC 8684, section 3.4.1).

        Raises:
            OSError: the connection is gone, or not far enough yet (``ENOTCONN``).

        """
        signalled = b"".join(
            (
                pack_attribute(_IDENTIFIER, bytes([identifier])),
                pack_attribute(_FLAGS, _UNSIGNED.pack(_SIGNAL)),
            )
        )
        request = pack_attribute(_TOKEN, _UNSIGNED.pack(token)) + _address(_LOCAL, local, signalled)
        self._request(self._type, _ANNOUNCE, request)

    def _find(self) -> tuple[int, int]:
        """Return the number of the path manager's family, and that of its events."""
        asked = pack_attribute(CTRL_ATTR_FAMILY_NAME, _FAMILY_NAME)
        answer = self._request(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, asked)
        groups = map(unpack_attributes, unpack_attributes(answer[CTRL_ATTR_MCAST_GROUPS]).values())
        (group,) = (
            one[CTRL_ATTR_MCAST_GRP_ID]
            for one in groups
            if bytes(one[CTRL_ATTR_MCAST_GRP_NAME]) == _EVENTS
        )
        return _SHORT.unpack(answer[CTRL_ATTR_FAMILY_ID])[0], _UNSIGNED.unpack(group)[0]

    def _request(self, type_: int, command: int, attributes: bytes) -> Attributes:
        """Ask and return what is answered, if anything is; the kernel answers at once."""
        body = _GENERIC.pack(command, _VERSION) + attributes
        length = HEADER.size + len(body)
        self._socket.send(HEADER.pack(length, type_, NLM_F_REQUEST | NLM_F_ACK, 0, 0) + body)
        answer: Attributes = {}
        while True:
            received = memoryview(self._socket.recv(_RECEIVED_AT_ONCE))
            _, kind, _, _, _ = HEADER.unpack_from(received)
            if kind != NLMSG_ERROR:
                answer = unpack_attributes(received[HEADER.size + _GENERIC.size :])
                continue
            (code,) = _SIGNED.unpack_from(received, HEADER.size)
            if code:
                raise OSError(-code, os.strerror(-code))
            return answer


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
