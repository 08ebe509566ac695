"""A TCP socket that is in the way of a new connection: found by its two ends, and ended.

It may be another process's, or nobody's any more.
"""

from __future__ import annotations

import struct
from contextlib import closing
from dataclasses import dataclass

from fedsdn.errors import FedsdnError
from fedsdn.mptcp.info import SYN_SENT, unpack_tcp_info
from fedsdn.mptcp.sock_diag import SockDiag, SocketId
from fedsdn.socket_address import SocketAddress

_INFO, _MARK = 2, 15
"""``INET_DIAG_INFO`` and ``INET_DIAG_MARK`` of linux/inet_diag.h; the latter is told to who has
CAP_NET_ADMIN, and of sockets in TIME_WAIT neither is told."""

_UNSIGNED = struct.Struct("=I")


@dataclass(frozen=True, slots=True)
class Standing:
    """A connection that stands between two ends, and how far it is.

    ``acknowledged`` and ``unacknowledged`` are the bytes that its remote end has said to have, and
    those that it is still to be given; the end of the stream counts as one.
    """

    socket: SocketId
    acknowledged: int
    unacknowledged: int


def standing_between(local: SocketAddress, remote: SocketAddress, mark: int) -> Standing | None:
    """Return the connection between two ends, here in this network namespace, if it has ``mark``.

    Raises:
        FedsdnError: the kernel refuses.
        OSError: it does not answer.

    """
    with closing(SockDiag()) as kernel:
        found = kernel.between(local, remote)
    if found is None or not {_INFO, _MARK} <= found.attributes.keys():
        return None
    (has,) = _UNSIGNED.unpack(found.attributes[_MARK])
    if has != mark:
        return None
    acknowledged = unpack_tcp_info(found.attributes[_INFO]).bytes_acked
    # A SYN that nobody has answered is no data.
    unacknowledged = 0 if found.state == SYN_SENT else found.unacknowledged
    return Standing(found.name, acknowledged, unacknowledged)


def end(standing: Standing, local: SocketAddress, remote: SocketAddress) -> bool:
    """End a connection that ``standing_between`` returned; its remote end is sent a reset.

    Returns whether it was still there. Of a socket that no process has any more, older kernels
    throw the data away and leave it where it is, then without timers, until the host is restarted
    ("tcp: fix forever orphan socket caused by tcp_abort": in Linux 6.11, and in later releases of
    older series, of 6.1 from 6.1.132 on, of 6.10 from 6.10.8 on). So it is looked for again.

    Raises:
        FedsdnError: the kernel refuses, or the socket is still there.
        OSError: it does not answer.

    """
    with closing(SockDiag()) as kernel:
        ended = kernel.destroy([standing.socket]) == 1
        left = kernel.between(local, remote)
    if ended and left and left.name == standing.socket:
        raise FedsdnError(
            "this kernel does not end sockets that no process has any more: "
            "use Linux 6.11, 6.1.132 or newer"
        )
    return ended
