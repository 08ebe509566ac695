"""What netlink lists, with the requests that remove exactly that, whoever made it.

pyroute2 has no words for everything that the kernel lists, so a request is made out of the bytes.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

from pyroute2.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    nlmsg,
)
from pyroute2.netlink.rtnl import RTM_DELROUTE, RTM_DELRULE

from fedsdn.site.entries import Foreign

_HEADER = struct.Struct("=IHHII")
"""Length, type, flags, number and port of a netlink message (netlink(7))."""
_ERROR = struct.Struct("=i")
_ATTRIBUTE = struct.Struct("=HH")
_ROUTE_BYTES = 12
"""Of ``struct rtmsg`` (rtnetlink(7)); attributes follow."""
_NEXT_HOP_OBJECT = 30
"""RTA_NH_ID."""
_NEXT_HOP = frozenset({4, 5, 9, 18, 21, 22})
"""RTA_OIF, RTA_GATEWAY, RTA_MULTIPATH, RTA_VIA, RTA_ENCAP_TYPE and RTA_ENCAP."""
_RULE_BYTES = 12
"""Of ``struct fib_rule_hdr``; attributes follow."""
_PRIORITY = 6
"""FRA_PRIORITY."""
_DONE = frozenset({errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENODEV, errno.EEXIST})

_AT_ONCE = 64
"""So many answers fit into a socket's buffer (``net.core.rmem_default``)."""
_MOST_BYTES = 1 << 16

Thing = TypeVar("Thing")


class Listed(Generic[Thing]):
    """Entries of a kind that are there, and the request to remove each."""

    def __init__(self, removal: int) -> None:
        self._removal = removal
        self._found: list[tuple[Thing | Foreign, bytes]] = []
        self._by_kernel: list[bytes] = []

    def add(self, thing: Thing | Foreign | None, message: nlmsg) -> None:
        """Take what a message was read as; what is None is the kernel's own."""
        length = message["header"]["length"]
        self.take(
            thing, bytes(message.data[message.offset + _HEADER.size : message.offset + length])
        )

    def take(self, thing: Thing | Foreign | None, listed: bytes) -> None:
        """Take what a message was read as, as ``add``; ``listed`` follows its header."""
        if thing is None:
            self._by_kernel.append(self._named(listed))
        else:
            self._found.append((thing, listed))

    def things(self) -> set[Thing | Foreign]:
        """Return all of them but for the kernel's own."""
        return {thing for thing, _ in self._found}

    def removals(self, wanted: set[Thing]) -> list[bytes]:
        """Return the requests to remove what is not wanted."""
        return [
            request(self._removal, self._named(listed))
            for thing, listed in self._found
            if thing not in wanted
        ]

    def lost(self, now: Listed[Thing], addition: int) -> list[bytes]:
        """Return the requests to put back those of the kernel's own that are not there ``now``."""
        gone = (one for one in self._by_kernel if one not in now._by_kernel)
        return [request(addition, one, NLM_F_CREATE | NLM_F_EXCL) for one in gone]

    def _named(self, listed: bytes) -> bytes:
        """Say what is listed so that a request about it means nothing else."""
        if self._removal == RTM_DELRULE:
            return _with_priority(listed)
        return _named_once(listed) if self._removal == RTM_DELROUTE else listed


def request(kind: int, body: bytes, flags: int = 0) -> bytes:
    """Write a request that is to be acknowledged."""
    length = _HEADER.size + len(body)
    return _HEADER.pack(length, kind, NLM_F_REQUEST | NLM_F_ACK | flags, 1, 0) + body


def list_all(kind: int, family: int) -> Iterator[bytes]:
    """Yield everything of a kind (RTM_GETROUTE, …) in the calling thread's namespace.

    Without the netlink headers.

    Raises:
        OSError: the kernel refuses.

    """
    body = struct.pack("=B11x", family)
    with _netlink() as netlink:
        netlink.send(
            _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + body
        )
        while True:
            part, at = netlink.recv(_MOST_BYTES), 0
            while at < len(part):
                length, answer, *_ = _HEADER.unpack_from(part, at)
                if answer == NLMSG_ERROR:
                    _raise(part, at)
                if answer == NLMSG_DONE:
                    return
                yield part[at + _HEADER.size : at + length]
                at += (length + 3) // 4 * 4


def _named_once(route: bytes) -> bytes:
    """Leave its next hops out of a route that names a next-hop object: the kernel takes one."""
    every = list(attributes(route[_ROUTE_BYTES:]))
    if all(kind != _NEXT_HOP_OBJECT for kind, _ in every):
        return route
    kept = (data for kind, data in every if kind not in _NEXT_HOP)
    return route[:_ROUTE_BYTES] + b"".join(kept)


def _with_priority(rule: bytes) -> bytes:
    """Write priority 0 out: the kernel's list omits it, and in a request its absence means any."""
    if any(kind == _PRIORITY for kind, _ in attributes(rule[_RULE_BYTES:])):
        return rule
    return rule + _ATTRIBUTE.pack(8, _PRIORITY) + struct.pack("=I", 0)


def attribute(kind: int, value: bytes) -> bytes:
    """Write an attribute; the next one begins at a multiple of four bytes."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the attributes, each with its type; they begin at multiples of four bytes."""
    at = 0
    while at < len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        end = at + (length + 3) // 4 * 4
        yield kind, data[at:end]
        at = end


def send_all(requests: Sequence[bytes], unless: frozenset[int] = _DONE) -> None:
    """Make requests in the calling thread's namespace, many in one write.

    An error that is in ``unless`` is none: what is so already.

    Raises:
        OSError: the kernel refuses one; those behind it may have been made.

    """
    with _netlink() as netlink:
        for first in range(0, len(requests), _AT_ONCE):
            part = requests[first : first + _AT_ONCE]
            netlink.send(b"".join(part))
            for answer in [netlink.recv(_MOST_BYTES) for _ in part]:
                _raise(answer, 0, unless)


def _netlink() -> socket.socket:
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    netlink.bind((0, 0))
    return netlink


def _raise(answer: bytes, at: int, unless: frozenset[int] = frozenset()) -> None:
    """Raise what an answer says, if that is an error."""
    _, kind, *_ = _HEADER.unpack_from(answer, at)
    (error,) = _ERROR.unpack_from(answer, at + _HEADER.size)
    if kind == NLMSG_ERROR and error and -error not in unless:
        raise OSError(-error, os.strerror(-error))
