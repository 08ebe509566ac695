"""``struct tcp_info`` (linux/tcp.h) and ``struct mptcp_info`` (linux/mptcp.h).

Only the fields in use are unpacked, into named tuples: thousands of sockets are read at a time.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from pyroute2.netlink.diag import SS_CLOSE, SS_ESTABLISHED, SS_SYN_SENT, inet_diag_msg

ESTABLISHED, SYN_SENT, CLOSED = SS_ESTABLISHED, SS_SYN_SENT, SS_CLOSE
"""States of TCP (net/tcp_states.h). In ``ESTABLISHED`` neither end has finished sending."""


class TcpInfo(NamedTuple):
    """The state of a TCP socket, under the kernel's names and in its order.

    ``state`` is ``ESTABLISHED``, ``SYN_SENT``, ... ``options`` are what both ends use: ``ECN``, ...
    ``unacked`` and ``snd_cwnd`` are in segments of ``snd_mss`` bytes. ``last_data_recv`` and
    ``last_ack_recv`` are ms since something came, in whole ticks of the kernel's clock. ``rtt``
    (smoothed) and ``min_rtt`` are in µs, ``pacing_rate`` in bytes per second. ``bytes_sent`` counts
    what was retransmitted, too, and ``bytes_retrans`` only that; ``notsent_bytes`` wait in the send
    buffer.
    """

    state: int
    options: int
    snd_mss: int
    unacked: int
    last_data_recv: int
    last_ack_recv: int
    rtt: int
    snd_cwnd: int
    pacing_rate: int
    bytes_acked: int
    bytes_received: int
    notsent_bytes: int
    min_rtt: int
    bytes_sent: int
    bytes_retrans: int


class MptcpInfo(NamedTuple):
    """The state of a Multipath TCP connection.

    ``flags`` contains ``FALLBACK`` if the connection is plain TCP. ``token`` is its name within the
    network namespace.
    """

    flags: int
    token: int


ECN, SYN_DATA = 8, 32
"""``TCPI_OPT_ECN``; ``TCPI_OPT_SYN_DATA``: data in the SYN were acknowledged with it."""

FALLBACK = 0x1
"""``MPTCP_INFO_FLAG_FALLBACK``."""

UNKNOWN_RTT = 0xFFFFFFFF
"""``min_rtt`` before the first acknowledgement."""


def _tcp_layout() -> struct.Struct:
    codes = {name.removeprefix("tcpi_"): code for name, code in inet_diag_msg.tcp_info.fields}
    used = [
        code if name in TcpInfo._fields else f"{struct.calcsize(code)}x"
        for name, code in codes.items()
    ]
    return struct.Struct("=" + "".join(used))


_TCP = _tcp_layout()
_MPTCP = struct.Struct("=8xII")

TCP_INFO_BYTES = _TCP.size
MPTCP_INFO_BYTES = _MPTCP.size


def unpack_tcp_info(packed: bytes | memoryview, offset: int = 0) -> TcpInfo:
    """Return the ``struct tcp_info`` that begins at ``offset``.

    Raises:
        struct.error: it is shorter than that of Linux 6.1.

    """
    return TcpInfo._make(_TCP.unpack_from(packed, offset))


def unpack_mptcp_info(packed: bytes) -> MptcpInfo:
    """Return a ``struct mptcp_info``.

    Raises:
        struct.error: it is too short.

    """
    return MptcpInfo._make(_MPTCP.unpack_from(packed))
