"""A TCP socket that is in the way of a new connection: found by its two ends, and ended.

It may be another process's.
"""

from __future__ import annotations

import struct
from contextlib import closing

from fedsdn.mptcp.sock_diag import SockDiag
from fedsdn.socket_address import SocketAddress

_MARK = 15
"""``INET_DIAG_MARK`` of linux/inet_diag.h, told to who has CAP_NET_ADMIN."""

_UNSIGNED = struct.Struct("=I")


def end_between(local: SocketAddress, remote: SocketAddress, mark: int) -> bool:
    """End the connection between two ends, here in this network namespace, if it has ``mark``.

    Its remote end is sent a reset. Returns whether there was one.

    Raises:
        FedsdnError: the kernel refuses.

    """
    with closing(SockDiag()) as kernel:
        found = kernel.between(local, remote)
        if found is None:
            return False
        name, _, attributes = found
        (has,) = _UNSIGNED.unpack(attributes.get(_MARK, bytes(_UNSIGNED.size)))
        return has == mark and kernel.destroy([name]) == 1
