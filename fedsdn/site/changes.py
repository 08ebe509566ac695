"""What changes in the proxy's namespace and at its wires' outer ends, as the kernel tells it.

Plain sockets: only the kind of a message counts, of the host's links the name, and of neighbours
the address. The kernel tells of each neighbour that it learns, too: a filter leaves these out, and
so one that was entered for good and that somebody has made a learnt one.

Source: rtnetlink(7), Linux ``include/uapi/linux/rtnetlink.h``, ``nfnetlink.h``.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from itertools import islice

from pyroute2.netlink import NETLINK_ADD_MEMBERSHIP, SOL_NETLINK

from fedsdn import namespace
from fedsdn.mptcp.netlink import HEADER, aligned, queued
from fedsdn.pipeline.declarations import TUNNELS_TABLE
from fedsdn.site import routes
from fedsdn.site.setup import Part

_ATTRIBUTE = struct.Struct("=HH")
_LINK_BYTES = 16
"""Of ``struct ifinfomsg``, before a link's attributes."""
_IFNAME = 3

_LINK, _NEIGHBOURS, _RULES, _RULES_6 = 1, 3, 8, 19
_ADDRESSES, _ADDRESSES_6 = 5, 9
_ROUTES, _ROUTES_6 = 7, 11
_NETFILTER, _NFTABLES = 12, 7
"""NETLINK_NETFILTER and NFNLGRP_NFTABLES."""

_ROUTE_KINDS = (24, 25)
"""RTM_NEWROUTE and RTM_DELROUTE."""

_NEW_NEIGHBOUR, _NEIGHBOUR_GONE = 28, 29
"""RTM_NEWNEIGH and RTM_DELNEIGH."""
_NEIGHBOUR_BYTES, _STATE_AT, _PERMANENT = 12, 8, 0x80
"""Of ``struct ndmsg``, before a neighbour's attributes; where its state is; NUD_PERMANENT."""
_DST = 1

_SO_ATTACH_FILTER = 26
_INSTRUCTION, _PROGRAM = struct.Struct("=HBBI"), struct.Struct("@HP")
"""``struct sock_filter`` and ``struct sock_fprog`` (linux/filter.h)."""
_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_SET, _RETURN = 0x28, 0x15, 0x45, 0x06
_WHOLE, _NOTHING_OF_IT = 0xFFFFFFFF, 0

_OF_LINKS = frozenset(
    {Part.INTERFACES, Part.PORT_SYSCTLS, Part.ADDRESSES, Part.ROUTES, Part.NEIGHBOURS}
)
_OF_ADDRESSES = frozenset({Part.ADDRESSES, Part.ROUTES})
_OF_ROUTES, _OF_RULES = frozenset({Part.ROUTES}), frozenset({Part.RULES})
_PARTS = {
    **dict.fromkeys((16, 17), _OF_LINKS),  # RTM_NEWLINK, RTM_DELLINK; the kernel takes along
    **dict.fromkeys((20, 21), _OF_ADDRESSES),  # what depends on it, and tells of some of that only
    **dict.fromkeys(_ROUTE_KINDS, _OF_ROUTES),
    **dict.fromkeys((32, 33), _OF_RULES),
}
_OF_NEIGHBOURS = frozenset({Part.NEIGHBOURS})
_NOTHING: frozenset[Part] = frozenset()
_OF_NETWORK = frozenset().union(*_PARTS.values())


def _in_network_order(number: int) -> int:
    """Return what a filter reads of a 16-bit number that netlink has in the host's order."""
    return socket.ntohs(number)


_FILTER = ctypes.create_string_buffer(
    b"".join(
        _INSTRUCTION.pack(*instruction)
        for instruction in (
            (_LOAD, 0, 0, 4),
            (_JUMP_IF_EQUAL, 0, 2, _in_network_order(_NEW_NEIGHBOUR)),
            (_LOAD, 0, 0, HEADER.size + _STATE_AT),
            (_JUMP_IF_SET, 0, 1, _in_network_order(_PERMANENT)),
            (_RETURN, 0, 0, _WHOLE),
            (_RETURN, 0, 0, _NOTHING_OF_IT),
        )
    )
)
_NOT_LEARNT = _PROGRAM.pack(6, ctypes.addressof(_FILTER))
"""Filter that leaves out the neighbours that the kernel learns."""

_MOST_BYTES = 1 << 16
_MOST_MESSAGES = 200
"""So many are read of a socket at a time; more wait, or are dropped, which is noticed."""


class Changes:
    """Sockets that become readable when something has changed. One object per namespace."""

    def __init__(self, name: str) -> None:
        """Listen from now on.

        Raises:
            FedsdnError: there is no such namespace.
            OSError: this process may not listen.

        """
        self._opened = ExitStack()
        groups = (_LINK, _NEIGHBOURS, _ADDRESSES, _ADDRESSES_6)
        of_routes = (_ROUTES, _ROUTES_6, _RULES, _RULES_6)
        try:
            self._outside = self._listen(socket.NETLINK_ROUTE, _LINK)
            self._inside, self._filter = namespace.inside(
                name,
                lambda: (
                    self._listen(socket.NETLINK_ROUTE, *groups, *of_routes),
                    self._listen(_NETFILTER, _NFTABLES),
                ),
            )
        except BaseException:
            self.close()
            raise

    def _listen(self, protocol: int, *groups: int) -> socket.socket:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
        self._opened.enter_context(sock)
        sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _NOT_LEARNT)
        sock.bind((0, 0))
        for group in groups:
            sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        return sock

    def close(self) -> None:
        """Listen no more."""
        self._opened.close()

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """Those that become readable."""
        return self._outside, self._inside, self._filter

    def read(self, wires: Collection[str], neighbours: Collection[bytes]) -> frozenset[Part]:
        """Return the parts that may have changed since the last call.

        ``wires`` are the names of the wires between host and namespace, ``neighbours`` the
        addresses of those that are entered for good.
        """
        found: set[Part] = set()
        for message in _messages(self._outside):
            if message is None or (_kind(message) in _PARTS and _name(message) in wires):
                found |= _OF_LINKS
        for message in _messages(self._inside):
            found |= _OF_NETWORK if message is None else _parts(message, neighbours)
        if [*_messages(self._filter)]:  # all of them: what is left is news the next time
            found.add(Part.FILTER)
        return frozenset(found)


def _messages(sock: socket.socket) -> Iterator[memoryview | None]:
    """Read what waits; None stands for dropped messages."""
    for received in islice(queued(sock, _MOST_BYTES), _MOST_MESSAGES):
        if received is None:
            yield None
            continue
        left = memoryview(received)
        while len(left) >= HEADER.size:
            length, *_ = HEADER.unpack_from(left)
            yield left[:length]
            left = left[max(HEADER.size, aligned(length)) :]


def _kind(message: memoryview) -> int:
    kind: int = HEADER.unpack_from(message)[1]
    return kind


def _parts(message: memoryview, neighbours: Collection[bytes]) -> frozenset[Part]:
    """Return the parts that may have changed by what a message tells of."""
    kind = _kind(message)
    if kind in _ROUTE_KINDS and routes.table(bytes(message[HEADER.size :])) == TUNNELS_TABLE:
        return _NOTHING  # others keep that one, and change it with each path
    if kind == _NEIGHBOUR_GONE:
        gone = _attribute(message, _NEIGHBOUR_BYTES, _DST)
        return _OF_NEIGHBOURS if gone in neighbours else _NOTHING
    return _OF_NEIGHBOURS if kind == _NEW_NEIGHBOUR else _PARTS.get(kind, _NOTHING)


def _name(link: memoryview) -> str:
    """Return the name of a link (RTM_NEWLINK, RTM_DELLINK)."""
    return _attribute(link, _LINK_BYTES, _IFNAME).rstrip(b"\0").decode()


def _attribute(message: memoryview, skipped: int, wanted: int) -> bytes:
    """Return an attribute of a message, which begin so many bytes behind its header; or nothing."""
    at = HEADER.size + skipped
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        if kind == wanted:
            return bytes(message[at + _ATTRIBUTE.size : at + length])
        at += max(_ATTRIBUTE.size, aligned(length))
    return b""
