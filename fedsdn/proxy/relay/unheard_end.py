"""An end of stream that a foreign proxy does not acknowledge.

Between two fedsdn proxies an end of stream is a record. Towards a foreign proxy it is a DATA_FIN
(RFC 8684, section 3.3.3), which Linux's receiver now and then leaves unacknowledged, though it has
all data and live subflows, until something wakes its worker. So keepalive probes repeat the
DATA_FIN, and an ADD_ADDR wakes that worker. If the peer answers these, and still does not
acknowledge, the connection is reset.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress

from fedsdn.mptcp.connection import subflow_infos
from fedsdn.proxy.ended.record import Reason, Who
from fedsdn.proxy.relay.stream import StreamRelay
from fedsdn.proxy.sockets import tcp

LOOK_SECONDS = 1.0

NUDGES_FROM = 3
"""Checks without acknowledgement after which each further one nudges the peer."""

LOOKS = 15
"""Checks without acknowledgement by a live peer after which the connection is reset."""

_HEARD_MILLISECONDS = 2500


class EndWatch:
    """Watches the end of one stream for its acknowledgement."""

    def __init__(
        self,
        relay: StreamRelay,
        far: socket.socket,
        nudge: Callable[[], None],
    ) -> None:
        """``nudge`` wakes the peer's worker."""
        self._relay = relay
        self._far = far
        self._nudge = nudge
        self._looks = 0
        """Checks without acknowledgement by a live peer."""

    def begin(self) -> None:
        """Start, once the end has been sent."""
        self._relay.later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        waiting = 0 if self._relay.over else tcp.unacknowledged(self._far)
        if not waiting:
            return
        if waiting > 1:
            self._looks = 0  # data come first
        elif self._looks < NUDGES_FROM or self._is_heard():
            self._looks += 1
        if self._looks >= LOOKS:
            self._relay.fail(Reason.END_UNHEARD, Who.PEER, "it answers, but acknowledges no end")
            return
        if self._looks >= NUDGES_FROM:
            self._ask_for_life()
            self._nudge()
        self.begin()

    def _is_heard(self) -> bool:
        """Whether the peer has answered on any subflow since the last check."""
        return any(info.last_ack_recv < _HEARD_MILLISECONDS for info in subflow_infos(self._far))

    def _ask_for_life(self) -> None:
        with suppress(OSError):  # before Linux 6.9
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL):
                self._far.setsockopt(socket.IPPROTO_TCP, option, 1)
