"""Sees at once that a network interface has lost its carrier.

The kernel tells of lost carriers once a second and no more often, whichever interface of whichever
namespace was the last one (``linkwatch_nextevent`` in Linux ``net/core/link_watch.c``): where
virtual machines come and go, a lost uplink is told of half a second late, and of two that are lost
together the second one a second late. Open vSwitch hears of it that way. The interface's flag
changes at once, so it is looked at.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Set
from concurrent.futures import Executor
from contextlib import suppress

from pyroute2.netlink import NLM_F_REQUEST, NLMSG_ERROR
from pyroute2.netlink.rtnl import RTM_GETLINK

from fedsdn.mptcp.netlink import HEADER, pack_attribute

_LOOK_SECONDS = 0.02
"""How often is looked: at four interfaces that costs half a per cent of a core."""

_TURN_SECONDS = 1.0
"""After so long it is asked again which interfaces count; and after a failure it is tried again."""

_INTERFACE = struct.Struct("=BxHiII")
"""``struct ifinfomsg``: family, type, index, flags, change."""
_NAME, _EXTENT = 3, 29
_WITHOUT_COUNTERS = struct.pack("=I", 1 << 3)
_UP, _LOWER_UP = 0x1, 0x10000
_LONGEST_NAME = 15
"""A port of a bridge may have a longer one, an interface may not."""
_MOST_BYTES = 1 << 16
_ANSWER_TIME = struct.pack("@ll", 5, 0)


class Links:
    """A task of the application's event loop."""

    def __init__(
        self,
        names: Callable[[], Iterable[str]],
        seen: Callable[[Set[str]], None],
        executor: Executor,
    ) -> None:
        """Prepare; ``seen`` is told which interfaces are without a carrier, when others are.

        One that is not there, or is set down, is none of these. ``executor`` has one thread.
        """
        self._names = names
        self._seen = seen
        self._executor = executor
        self._lost: frozenset[str] = frozenset()
        self._ended = threading.Event()

    async def run(self) -> None:
        """Look for ever."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                names = tuple(self._names())
                found = await loop.run_in_executor(self._executor, self._look_until, names)
                if found != self._lost:
                    self._lost = found
                    self._seen(found)
        finally:
            self._ended.set()

    def _look_until(self, names: tuple[str, ...]) -> frozenset[str]:
        """Look until others are without a carrier, for ``_TURN_SECONDS`` at most."""
        end = time.monotonic() + _TURN_SECONDS
        requests = [(name, _request(name)) for name in names if len(name.encode()) <= _LONGEST_NAME]
        with suppress(OSError), _socket() as asking:
            while time.monotonic() < end:
                found = frozenset(name for name, request in requests if _is_lost(asking, request))
                if found != self._lost or self._ended.is_set():
                    return found
                time.sleep(_LOOK_SECONDS)
            return found
        self._ended.wait(_TURN_SECONDS)
        return frozenset()


def _socket() -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _ANSWER_TIME)
    return opened


def _request(name: str) -> bytes:
    """Write the question about an interface."""
    body = (
        _INTERFACE.pack(0, 0, 0, 0, 0)
        + pack_attribute(_NAME, name.encode() + b"\0")
        + pack_attribute(_EXTENT, _WITHOUT_COUNTERS)
    )
    return HEADER.pack(HEADER.size + len(body), RTM_GETLINK, NLM_F_REQUEST, 1, 0) + body


def _is_lost(asking: socket.socket, request: bytes) -> bool:
    """Whether an interface is set up and has no carrier.

    Raises:
        OSError: the kernel does not answer.

    """
    asking.send(request)
    answer = asking.recv(_MOST_BYTES)
    _, kind, *_ = HEADER.unpack_from(answer)
    if kind == NLMSG_ERROR:
        return False
    _, _, _, flags, _ = _INTERFACE.unpack_from(answer, HEADER.size)
    return bool(flags & _UP) and not flags & _LOWER_UP
