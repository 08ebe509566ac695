"""An end of stream that another's proxy does not take notice of.

Between two of our own proxies an end of stream is a record. Towards another's it is a DATA_FIN
(RFC 8684, section 3.3.3), which now and then is never acknowledged although all data were and the
subflows live: Linux's receiver has noted it, and waits for somebody to wake its worker. So the peer
is asked for signs of life, whose segments have the DATA_FIN again, and is sent an announcement,
which wakes that worker. A peer that answers, and still does not acknowledge, is given up.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from contextlib import suppress

from fedsdn.mptcp.connection_info import tcp_infos
from fedsdn.proxy.relay.direction import Owner
from fedsdn.proxy.sockets import tcp

LOOK_SECONDS = 1.0

NUDGES_FROM = 3
"""After so many looks at an end that is not acknowledged the peer is nudged, at each look."""

LOOKS = 15
"""After so many at which the peer had just been heard, the connection is given up."""

_HEARD_MILLISECONDS = 2500
_LAST_ACK_RECV = struct.Struct("=56xI")
"""``tcpi_last_ack_recv``: milliseconds since the last acknowledgement (linux/tcp.h)."""


class EndWatch:
    """Looks after the end of one stream, from when it was sent."""

    def __init__(
        self, relay: Owner, far: socket.socket, nudge: Callable[[], None], count: Callable[[], None]
    ) -> None:
        """``nudge`` has the peer's worker woken; ``count`` is told when the peer is given up."""
        self._relay = relay
        self._far = far
        self._nudge = nudge
        self._count = count
        self._looks = 0
        """At an end that was not acknowledged, by a peer that is heard."""

    def begin(self) -> None:
        """Look from now on."""
        self._relay.loop.call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        waiting = 0 if self._relay.over else tcp.unacknowledged(self._far)
        if not waiting:
            return
        if waiting > 1:
            self._looks = 0  # data come first
        elif self._looks < NUDGES_FROM or self._is_heard():
            self._looks += 1
        if self._looks >= LOOKS:
            self._count()
            self._relay.abort()
            return
        if self._looks >= NUDGES_FROM:
            self._ask_for_life()
            self._nudge()
        self.begin()

    def _is_heard(self) -> bool:
        """Whether the peer has answered on any subflow since the last look."""
        ages = (_LAST_ACK_RECV.unpack_from(info)[0] for info in tcp_infos(self._far))
        return any(age < _HEARD_MILLISECONDS for age in ages)

    def _ask_for_life(self) -> None:
        with suppress(OSError):  # before Linux 6.9
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL):
                self._far.setsockopt(socket.IPPROTO_TCP, option, 1)
