"""Keeps the send queue towards a peer short, so that the loss of an uplink is a short silence.

Data in flight on a dead subflow are retransmitted behind the queues of the others, and behind all
other unacknowledged data (net/mptcp/protocol.c, ``__mptcp_retransmit_pending_data``: all of it, in
order). The kernel queues several bandwidth-delay products there (net/ipv4/tcp_input.c,
``tcp_sndbuf_expand``: up to three congestion windows, estimated generously): half a second at full
speed. A send buffer slightly above the bandwidth-delay product of the paths keeps them as full.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress

from fedsdn.mptcp.connection import subflow_infos
from fedsdn.mptcp.info import UNKNOWN_RTT, TcpInfo
from fedsdn.proxy.sockets import tcp
from fedsdn.site.sysctls import BUFFER_BYTES

_ADJUST_BYTES = 1 << 19
"""Bytes sent between two adjustments of the buffer."""

_PROBING = 1.25
_DELAY_MICROSECONDS = 10000.0
"""A path is filled by its bandwidth-delay product, a quarter more to probe for bandwidth, and the
bytes sent while acknowledgements or this process are late. BBR keeps twice the product in flight,
of which half only waits before the wire."""

_SETTLED = 1.0
_GROWING = 2.0
"""Size of the send buffer, in multiples of what the paths hold: while this still grows, there must
be enough data to find its limit."""

_GROWTH = 1.05

_DIP_SECONDS = 0.5
"""A smaller window for a shorter time changes nothing: every ten seconds BBR reduces it to four
segments for 200 ms, to measure the round-trip time."""

_LEAST_BYTES = 1 << 19
"""Slow wires also have slow machines behind them, whose acknowledgements come in bursts: with half
of this, two wires of 6 Mbit/s between emulated processors were filled to 0.96 instead of 0.98."""

MOST_BYTES = BUFFER_BYTES
"""The kernel's own limit per connection (``tcp_wmem``), which ``SO_SNDBUFFORCE`` ignores. Uneven
paths ask for more: 1 Gbit/s at 10 ms beside 10 Mbit/s at 600 ms for 183 MiB, for one hundredth more
throughput. A few such connections would exhaust the host's TCP memory."""


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
        """Note that ``amount`` bytes were written to the socket."""
        self._sent += amount
        if self._sent >= _ADJUST_BYTES:
            self._sent = 0
            self._adjust()

    def _adjust(self) -> None:
        held = paths_hold(subflow_infos(self._sock))
        if held:
            before = self._largest()
            self._recent.append((time.monotonic(), held))
            self.paths_hold = max(held, before)
            with suppress(OSError):
                # The kernel doubles the value, for its own overhead (socket(7)).
                size = buffer_bytes(held, before) // 2
                self._sock.setsockopt(socket.SOL_SOCKET, tcp.SO_SNDBUFFORCE, size)

    def _largest(self) -> int:
        """Return the most that the paths held recently."""
        oldest = time.monotonic() - _DIP_SECONDS
        while self._recent and self._recent[0][0] < oldest:
            self._recent.popleft()
        return max((held for _, held in self._recent), default=0)


def paths_hold(subflows: Iterable[TcpInfo]) -> int:
    """Return how many bytes the paths of a connection hold without a queue; 0: not known yet.

    Data on the slowest path are acknowledged last, and the others must not stall until then (RFC
    8684, section 3.3.1 calculates the receive buffer in the same way).
    """
    paths = [
        (min(info.snd_mss * info.snd_cwnd, info.pacing_rate * span / 1e6), span)
        for info in subflows
        if info.min_rtt != UNKNOWN_RTT
        for span in [_PROBING * info.min_rtt + _DELAY_MICROSECONDS]
    ]
    longest = max((span for _, span in paths), default=0.0)
    return round(sum(held * longest / span for held, span in paths))


def buffer_bytes(held: int, before: int) -> int:
    """Return the size of the send buffer for paths that hold ``held``, and held ``before``."""
    factor = _GROWING if held > _GROWTH * before else _SETTLED
    size = round(max(held, before) * factor)
    return min(max(_LEAST_BYTES, size), MOST_BYTES)
