"""Plain TCP sockets with other hosts' addresses, towards the VMs.

Not MPTCP: it does not take the socket options that TPROXY and foreign addresses need.
"""

from __future__ import annotations

import asyncio
import errno
import socket

from fedsdn.pipeline.declarations import SocketMark
from fedsdn.proxy import tcp
from fedsdn.proxy.socks import Endpoint

_IP_TRANSPARENT = 19
_IPV6_TRANSPARENT = 75
"""include/uapi/linux/in.h and in6.h; Python does not have the names."""

CONNECT_SECONDS = 60.0
"""How long a VM may take to answer."""


def listen(port: int, mark: SocketMark) -> socket.socket:
    """Listen for connections to foreign addresses that TPROXY hands to ``port``.

    Accepted sockets inherit the mark and what ``tcp.prepare`` sets.

    Raises:
        OSError: the port is taken, or the process lacks CAP_NET_ADMIN.

    """
    listener = _socket(mark)
    try:
        listener.bind(("::", port))
        listener.listen(tcp.BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


async def connect_as(client: Endpoint, destination: Endpoint, mark: SocketMark) -> socket.socket:
    """Connect to ``destination`` from the client's own address and port.

    Raises:
        OSError: the connection failed; ``ETIMEDOUT`` when nobody answers.

    """
    sock = _socket(mark)
    try:
        sock.bind((tcp.mapped(client.address), client.port))
        async with asyncio.timeout(CONNECT_SECONDS):
            await tcp.connect(sock, (tcp.mapped(destination.address), destination.port))
    except TimeoutError as error:
        sock.close()
        raise OSError(errno.ETIMEDOUT, f"{destination} does not answer") from error
    except BaseException:
        sock.close()
        raise
    return sock


def _socket(mark: SocketMark) -> socket.socket:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # A VM's port may be one that another connection has too, or that the proxy listens on.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        sock.setsockopt(socket.SOL_IP, _IP_TRANSPARENT, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
        tcp.prepare(sock)
    except OSError:
        sock.close()
        raise
    return sock
