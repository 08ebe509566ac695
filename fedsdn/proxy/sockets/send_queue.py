"""Keeps what waits to be sent to a peer short, so that a lost uplink is a short silence.

What was under way on a subflow that dies is sent again behind what already waits on the others, and
behind what else is not acknowledged yet (net/mptcp/protocol.c, ``__mptcp_retransmit_pending_data``:
all of it is sent again, in order). The kernel lets several times what a path holds wait there
(net/ipv4/tcp_input.c, ``tcp_sndbuf_expand``: up to three congestion windows, reckoned generously):
half a second at full speed. A send buffer a little larger than what the paths hold without a queue
keeps them as full.
"""

from __future__ import annotations

import socket
import struct
import time
from collections import deque
from contextlib import suppress

from fedsdn.mptcp.connection_info import tcp_infos
from fedsdn.proxy.sockets import tcp
from fedsdn.site.sysctls import BUFFER_BYTES

_ADJUST_BYTES = 1 << 19
"""The buffer is adjusted whenever so many bytes have been sent."""

_PROBING = 1.25
_DELAY_MICROSECONDS = 10000.0
"""A path is filled by its bandwidth-delay product, a quarter more to find out whether there is more
bandwidth, and what is sent while acknowledgements or this process are late. BBR lets twice the
product be under way, of which half only waits before the wire."""

_SETTLED = 1.0
_GROWING = 2.0
"""Size of the send buffer, in what the paths hold: while this still grows, there must be enough to
find out how much more it can be."""

_GROWTH = 1.05

_DIP_SECONDS = 0.5
"""Windows that are smaller for a shorter time are no reason: BBR shrinks one to four segments for
200 ms, every ten seconds, to measure the round-trip time."""

_LEAST_BYTES = 1 << 19
"""Slow wires are served by slow machines, too, whose acknowledgements come in lumps: with half of
this, two of 6 Mbit/s between emulated processors were filled to 0.96 instead of 0.98."""

_SND_MSS = struct.Struct("=16xI")
_SND_CWND = struct.Struct("=80xI")
_PACING_RATE = struct.Struct("=104xQ")
_MIN_RTT = struct.Struct("=148xI")
_UNKNOWN_RTT = 0xFFFFFFFF
"""Fields of ``struct tcp_info`` (linux/tcp.h)."""


class SendQueue:
    """The send buffer of one connection to a peer."""

    def __init__(self, sock: socket.socket) -> None:
        """Leave it to the kernel until much is sent."""
        self._sock = sock
        self.paths_hold = 0
        """How many bytes the paths hold without a queue; 0 while that is not known."""
        self._sent = 0
        self._recent: deque[tuple[float, int]] = deque()

    def sent(self, amount: int) -> None:
        """Note that so many bytes were given to the socket."""
        self._sent += amount
        if self._sent >= _ADJUST_BYTES:
            self._sent = 0
            self._adjust()

    def _adjust(self) -> None:
        paths = _paths(self._sock)
        if paths:
            # What the slowest path carries is acknowledged last, and the others must go on until
            # then (RFC 8684, section 3.3.1 reckons the receive buffer in the same way).
            longest = max(span for _, span in paths)
            held = round(sum(held * longest / span for held, span in paths))
            before = self._largest()
            self._recent.append((time.monotonic(), held))
            self.paths_hold = max(held, before)
            factor = _GROWING if held > _GROWTH * before else _SETTLED
            size = max(_LEAST_BYTES, round(self.paths_hold * factor))
            size = min(size, BUFFER_BYTES)
            with suppress(OSError):
                # The kernel takes it twice, to make room for its own overhead (socket(7)).
                self._sock.setsockopt(socket.SOL_SOCKET, tcp.SO_SNDBUFFORCE, size // 2)

    def _largest(self) -> int:
        """Return the most that the paths held in the last moments."""
        oldest = time.monotonic() - _DIP_SECONDS
        while self._recent and self._recent[0][0] < oldest:
            self._recent.popleft()
        return max((held for _, held in self._recent), default=0)


def _paths(sock: socket.socket) -> list[tuple[float, float]]:
    """Bytes that each path should hold, and for what time in µs that is, for each subflow.

    None if it is plain TCP.
    """
    found = []
    for info in tcp_infos(sock):
        (mss,), (cwnd,) = _SND_MSS.unpack_from(info), _SND_CWND.unpack_from(info)
        (rate,), (rtt,) = _PACING_RATE.unpack_from(info), _MIN_RTT.unpack_from(info)
        if rtt != _UNKNOWN_RTT:
            span = _PROBING * rtt + _DELAY_MICROSECONDS
            found.append((min(mss * cwnd, rate * span / 1e6), span))
    return found
