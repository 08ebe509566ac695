"""What netlink lists, with the requests that remove exactly that, whoever made it.

pyroute2 has no words for everything that the kernel lists, so a request is made out of the bytes.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from pyroute2.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REQUEST,
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
        listed = bytes(message.data[message.offset + _HEADER.size : message.offset + length])
        if self._removal == RTM_DELRULE:
            listed = _with_priority(listed)
        if thing is None:
            self._by_kernel.append(listed)
        else:
            if self._removal == RTM_DELROUTE:
                listed = _named_once(listed)
            self._found.append((thing, _message(self._removal, listed)))

    def things(self) -> set[Thing | Foreign]:
        """Return all of them but for the kernel's own."""
        return {thing for thing, _ in self._found}

    def removals(self, wanted: set[Thing]) -> list[bytes]:
        """Return the requests to remove what is not wanted."""
        return [request for thing, request in self._found if thing not in wanted]

    def lost(self, now: Listed[Thing], addition: int) -> list[bytes]:
        """Return the requests to put back those of the kernel's own that are not there ``now``."""
        gone = (one for one in self._by_kernel if one not in now._by_kernel)
        return [_message(addition, one, NLM_F_CREATE | NLM_F_EXCL) for one in gone]


def _message(kind: int, listed: bytes, flags: int = 0) -> bytes:
    """Turn what the kernel listed into a request about exactly that."""
    length = _HEADER.size + len(listed)
    return _HEADER.pack(length, kind, NLM_F_REQUEST | NLM_F_ACK | flags, 1, 0) + listed


def _named_once(route: bytes) -> bytes:
    """Leave its next hops out of a route that names a next-hop object: the kernel takes one."""
    attributes = list(_attributes(route[_ROUTE_BYTES:]))
    if all(kind != _NEXT_HOP_OBJECT for kind, _ in attributes):
        return route
    kept = (data for kind, data in attributes if kind not in _NEXT_HOP)
    return route[:_ROUTE_BYTES] + b"".join(kept)


def _with_priority(rule: bytes) -> bytes:
    """Write priority 0 out: the kernel's list omits it, and in a request its absence means any."""
    if any(kind == _PRIORITY for kind, _ in _attributes(rule[_RULE_BYTES:])):
        return rule
    return rule + _ATTRIBUTE.pack(8, _PRIORITY) + struct.pack("=I", 0)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the attributes, each with its type; they begin at multiples of four bytes."""
    at = 0
    while at < len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        end = at + (length + 3) // 4 * 4
        yield kind, data[at:end]
        at = end


def send_all(requests: Iterable[bytes]) -> None:
    """Make requests in the calling thread's namespace; what is so already is no error.

    Raises:
        OSError: the kernel refuses.

    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.bind((0, 0))
        for request in requests:
            netlink.send(request)
            answer = netlink.recv(1 << 16)
            _, kind, *_ = _HEADER.unpack_from(answer)
            (error,) = _ERROR.unpack_from(answer, _HEADER.size)
            if kind == NLMSG_ERROR and error and -error not in _DONE:
                raise OSError(-error, os.strerror(-error))
