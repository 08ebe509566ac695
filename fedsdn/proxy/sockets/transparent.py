"""Plain TCP sockets with other hosts' addresses, towards the VMs.

MPTCP sockets refuse the options that TPROXY and foreign addresses need.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from fedsdn.pipeline.declarations import SocketMark
from fedsdn.proxy.sockets import tcp, traffic_class, vm_liveness
from fedsdn.proxy.sockets.earlier import Earlier, Patience
from fedsdn.socket_address import SocketAddress

_IP_TRANSPARENT = 19
_IPV6_TRANSPARENT = 75
"""include/uapi/linux/in.h and in6.h; Python does not have the names."""

ANY_PORT = 0

CONNECT_SECONDS = 20.0
"""Time-out for a VM's answer: five SYNs, at 0, 1, 3, 7 and 15 s."""

BUFFER_BYTES = 1 << 17
"""Send and receive buffer towards a VM: the bandwidth-delay product of 5 Gbit/s and 0.2 ms. Per
connection a VM takes no more of the host's memory, even if nobody reads (the kernel doubles it)."""

_UNSENT_BYTES = 1 << 16
"""Limit of unsent data towards a VM (``TCP_NOTSENT_LOWAT``, tcp(7))."""

_TCP_RTO_MAX_MS = 44
"""include/uapi/linux/tcp.h (Linux 6.15); Python does not have the name."""

_RTO_MAX_SECONDS = 12
"""Longest interval of retransmissions and zero-window probes towards a VM. The namespace's second
(``site.sysctls``) is for uplinks: 1,000 VMs that do not read would be probed 1,000 times a second.
A dead VM is given up after about 80 times this, as late as by any Linux host."""

REUSE_SECONDS = 3.0
"""How much earlier than we a client may see the end of its connection."""

_RETRY_SECONDS = 0.05


def listen(port: int, mark: SocketMark) -> socket.socket:
    """Listen for connections to foreign addresses, which TPROXY redirects to ``port``.

    Accepted sockets inherit the mark and all other options.

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


@dataclass(frozen=True, slots=True)
class Call:
    """A connection to a VM that is to be made."""

    destination: SocketAddress
    traffic_class: int
    begun: Callable[[], object]
    """Called when the SYN has been sent."""


async def connect_as(
    client: SocketAddress,
    call: Call,
    mark: SocketMark,
    reuse_seconds: float = REUSE_SECONDS,
) -> socket.socket:
    """Make a connection from the client's own address and port, or ``ANY_PORT``.

    The client may see the end of its last connection between the two before us, and reuse its port
    at once. So its end is waited for. If for ``reuse_seconds`` nothing has moved there, and the VM
    has acknowledged everything, it is ended, be it another worker's: its end was lost on the way
    here, or else the client had not begun this one. What the client had been told to have arrived
    may still wait for a VM that reads slowly: then it is left alone as long as anything moves, and
    ended if nothing has for ``CONNECT_SECONDS``. All of this and the new connection's handshake
    take no longer than ``reuse_seconds`` and ``CONNECT_SECONDS`` together.

    Raises:
        OSError: the connection failed; ``ETIMEDOUT`` when nobody answers, ``EADDRNOTAVAIL`` when
            there is a connection between the two that the destination has begun, or one of the
            client's with data on their way for ``CONNECT_SECONDS``.

    """
    clock = asyncio.get_running_loop().time
    last = clock() + reuse_seconds + CONNECT_SECONDS
    earlier = Earlier(client, call.destination, mark, Patience(reuse_seconds, CONNECT_SECONDS))
    while True:
        try:
            return await _attempt(client, call, mark, min(CONNECT_SECONDS, last - clock()))
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL or not earlier.try_again(clock()):
                raise
        await asyncio.sleep(_RETRY_SECONDS)


async def _attempt(
    client: SocketAddress, call: Call, mark: SocketMark, seconds: float
) -> socket.socket:
    sock = bound(client, mark)
    try:
        await connect(sock, call, seconds)
    except BaseException:
        sock.close()
        raise
    return sock


async def connect(sock: socket.socket, call: Call, seconds: float = CONNECT_SECONDS) -> None:
    """Connect a socket made by ``bound``.

    Raises:
        OSError: the connection failed; ``ETIMEDOUT`` when nobody answers in so many seconds.

    """
    try:
        async with asyncio.timeout(seconds):
            traffic_class.towards_vm(sock, call.traffic_class)
            address = tcp.mapped(call.destination.address), call.destination.port
            await tcp.connect(sock, address, call.begun)
    except TimeoutError as error:
        raise OSError(errno.ETIMEDOUT, f"{call.destination} does not answer") from error


def bound(own: SocketAddress, mark: SocketMark, *, alone: bool = False) -> socket.socket:
    """Make a socket bound to any host's address.

    With ``alone`` it is the only socket on that address and port, apart from those in TIME_WAIT.

    Raises:
        OSError: the process lacks CAP_NET_ADMIN, or the port is taken (``EADDRINUSE``).

    """
    sock = _socket(mark)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(not alone))
        # Any port is chosen when the destination is known: it may be in use towards another one.
        sock.setsockopt(socket.SOL_IP, tcp.IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((tcp.mapped(own.address), own.port))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(not alone))
    except OSError:
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
        # An urgent byte comes in its place among the others; left out, it would be lost.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        for option in (tcp.SO_SNDBUFFORCE, tcp.SO_RCVBUFFORCE):
            sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
        with suppress(OSError):  # before Linux 6.15, which has no namespace's one second, either
            sock.setsockopt(socket.IPPROTO_TCP, _TCP_RTO_MAX_MS, _RTO_MAX_SECONDS * 1000)
        tcp.prepare(sock)
        vm_liveness.watch(sock)
    except OSError:
        sock.close()
        raise
    return sock
