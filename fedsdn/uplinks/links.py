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
from collections.abc import Callable, Iterable, Sequence, Set
from concurrent.futures import Executor

from pyroute2.netlink import NLM_F_REQUEST, NLMSG_ERROR
from pyroute2.netlink.rtnl import RTM_GETLINK

from fedsdn.mptcp.netlink import HEADER, pack_attribute
from fedsdn.uplinks.flapping import Flapping

_LOOK_SECONDS = 0.02
"""How often is looked: that costs half a per cent of a core, most of it for waking up."""

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

        One that is not there, or is set down, is none of these. One that comes and goes is one of
        them until it stays (``flapping``). ``executor`` has one thread.
        """
        self._names = names
        self._seen = seen
        self._executor = executor
        self._flapping = Flapping()
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
        """Look until others are without a carrier, for ``_TURN_SECONDS`` at most.

        If the kernel does not answer, it is as before.
        """
        end = time.monotonic() + _TURN_SECONDS
        try:
            with Carriers(names) as carriers:
                while True:
                    found = self._flapping.take(carriers.lost(), time.monotonic())
                    over = self._ended.is_set() or time.monotonic() > end
                    if found != self._lost or over:
                        return found
                    time.sleep(_LOOK_SECONDS)
        except OSError:
            self._ended.wait(_TURN_SECONDS)
            return self._lost


class Carriers:
    """Asks the kernel about some interfaces, all of them by one message."""

    def __init__(self, names: Sequence[str]) -> None:
        """Open a netlink socket, in the network namespace of the calling thread.

        Raises:
            OSError: there is none to be had.

        """
        self._names = [name for name in names if len(name.encode()) <= _LONGEST_NAME]
        self._requests = b"".join(_request(*numbered) for numbered in enumerate(self._names))
        self._answer = bytearray(_MOST_BYTES)
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _ANSWER_TIME)

    def __enter__(self) -> Carriers:
        """Return itself; the socket is closed at the end."""
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def lost(self) -> frozenset[str]:
        """Return which interfaces are set up and have no carrier.

        Raises:
            OSError: the kernel does not answer.

        """
        if not self._names:
            return frozenset()
        self._socket.send(self._requests)
        return frozenset(filter(None, [self._next_lost() for _ in self._names]))

    def _next_lost(self) -> str | None:
        """Read an answer; return whose it is if that one has lost its carrier."""
        self._socket.recv_into(self._answer)
        _, kind, _, number, _ = HEADER.unpack_from(self._answer)
        if kind == NLMSG_ERROR:
            return None
        _, _, _, flags, _ = _INTERFACE.unpack_from(self._answer, HEADER.size)
        return self._names[number] if flags & _UP and not flags & _LOWER_UP else None


def _request(number: int, name: str) -> bytes:
    """Write the question about an interface; ``number`` comes with the answer."""
    body = (
        _INTERFACE.pack(0, 0, 0, 0, 0)
        + pack_attribute(_NAME, name.encode() + b"\0")
        + pack_attribute(_EXTENT, _WITHOUT_COUNTERS)
    )
    return HEADER.pack(HEADER.size + len(body), RTM_GETLINK, NLM_F_REQUEST, number, 0) + body
