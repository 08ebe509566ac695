"""Events of the kernel's path manager (linux/mptcp_pm.h, generic netlink)."""

from __future__ import annotations

import ctypes
import socket
import struct

from pyroute2.netlink import NETLINK_ADD_MEMBERSHIP, NETLINK_GENERIC, SOL_NETLINK

from fedsdn.mptcp.family import family
from fedsdn.mptcp.netlink import GENERIC, HEADER, queued, unpack_attributes

_SUBFLOW_CLOSED = 11
_TOKEN = 1
"""``MPTCP_EVENT_SUB_CLOSED`` and ``MPTCP_ATTR_TOKEN``."""

_UNSIGNED = struct.Struct("=I")
_MOST_BYTES = 1 << 12
_QUEUE_BYTES = 1 << 22
"""Queue for about 5,000 events, which the kernel counts as 768 bytes each."""

_SO_RCVBUFFORCE, _SO_ATTACH_FILTER = 33, 26
"""include/uapi/asm-generic/socket.h."""

_FILTER = b"".join(
    struct.pack("=HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, HEADER.size),  # load the first byte of struct genlmsghdr: the event
        (0x15, 0, 1, _SUBFLOW_CLOSED),  # if it is not this one, skip one instruction
        (0x06, 0, 0, 0xFFFFFFFF),  # take all of it
        (0x06, 0, 0, 0),  # take nothing
    )
)
"""A program of the kernel's packet filter (``struct sock_filter``, linux/filter.h)."""


class SubflowEvents:
    """The ends of subflows in the network namespace in which it is made.

    While it is open, the kernel accepts subflows from peers: without a listener to its events it
    refuses them (``mptcp_userspace_pm_active``).
    """

    def __init__(self) -> None:
        """Listen from now on.

        Raises:
            OSError: the kernel has no path manager, or this process may not listen.

        """
        group = family().events
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_GENERIC
        )
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _QUEUE_BYTES)
            self._filter()
            # A socket without an address gets no events: it has the kernel's own, 0. And bind(2)
            # after joining a group would leave it.
            self._socket.bind((0, 0))
            self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()

    def fileno(self) -> int:
        """Return the descriptor, readable after the end of a subflow."""
        return self._socket.fileno()

    def ended(self) -> set[int] | None:
        """Return the tokens of the connections that lost a subflow since the last call.

        None: the kernel dropped events, and any connection may have lost one. There are no events
        of half-closed connections.
        """
        complete = True
        tokens = set()
        for event in queued(self._socket, _MOST_BYTES):
            if event is None:
                complete = False
            else:
                attributes = unpack_attributes(memoryview(event)[HEADER.size + GENERIC.size :])
                tokens.add(_UNSIGNED.unpack(attributes[_TOKEN])[0])
        return tokens if complete else None

    def _filter(self) -> None:
        """Leave out other events: four per connection to every worker, 40 µs of CPU in all."""
        instructions = ctypes.create_string_buffer(_FILTER, len(_FILTER))
        count = len(_FILTER) // struct.calcsize("=HBBI")
        program = struct.pack("@HP", count, ctypes.addressof(instructions))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
