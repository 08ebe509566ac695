"""What plain and Multipath TCP sockets have in common: connecting, names, and how they end.

A connection of the proxy's ends by reset unless it was told to ``end_in_order``. So an error, a
crash or a killed worker can never make half of a transfer look like all of it.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import select
import socket
import struct
import termios
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

from fedsdn.config.model import Address
from fedsdn.socket_address import SocketAddress

BACKLOG = 4096
"""Connections that wait in the kernel until they are accepted."""

SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
"""include/uapi/asm-generic/socket.h: buffers that the host's ``wmem_max`` does not limit."""

IP_BIND_ADDRESS_NO_PORT = 24
"""include/uapi/linux/in.h; Python has the name from 3.12 on."""

_SIOCATMARK = 0x8905
"""include/uapi/asm-generic/sockios.h; Python has no name for it."""

_RTO_MAX = Path("/proc/sys/net/ipv4/tcp_rto_max_ms")
_LINGER = struct.Struct("ii")
_INT = struct.Struct("i")
_DISCONNECTED = struct.pack("H14x", socket.AF_UNSPEC)
_libc = ctypes.CDLL(None)


def prepare(sock: socket.socket) -> None:
    """Set what every connection has: no waiting for fuller segments, keepalive, end by reset.

    Raises:
        OSError: the connection is gone.

    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER.pack(1, 0))


def end_in_order(sock: socket.socket) -> None:
    """Let ``close`` send what is still to be sent, and then the end of the stream."""
    with suppress(OSError):  # reset by the other side: no order any more
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER.pack(0, 0))
        # Whoever had its port alone does not need it in TIME_WAIT. (MPTCP refuses, and never had.)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def reset(sock: socket.socket) -> None:
    """Reset a connection, without closing the socket; nothing happens if it is gone already.

    By connect(2) with ``AF_UNSPEC``, which Python's ``connect`` cannot say: some kernels take no
    notice of ``SO_LINGER`` when a Multipath TCP socket is closed.
    """
    _libc.connect(sock.fileno(), _DISCONNECTED, len(_DISCONNECTED))


def unacknowledged(sock: socket.socket) -> int:
    """How many bytes of what was given to a socket have not been acknowledged (SIOCOUTQ, tcp(7)).

    The end of the stream counts as one. Of a connection that is over, none.
    """
    try:
        answer = fcntl.ioctl(sock, termios.TIOCOUTQ, _INT.pack(0))
    except OSError:
        return 0
    (waiting,) = _INT.unpack(answer)
    return int(waiting)


def longest_rto_seconds() -> float:
    """How long TCP waits at most before it repeats a segment, in this namespace.

    The kernel's constant where it has no ``tcp_rto_max_ms`` (before Linux 6.15).
    """
    try:
        return int(_RTO_MAX.read_text()) / 1000
    except OSError:
        return 120.0


def is_broken(sock: socket.socket) -> bool:
    """Whether a connection has been reset or has failed; the error stays to be read."""
    return _happens(sock, select.POLLERR)


def at_urgent_octet(sock: socket.socket) -> bool:
    """Whether the next octet to read is the urgent one (SIOCATMARK, tcp(7))."""
    try:
        (is_next,) = _INT.unpack(fcntl.ioctl(sock, _SIOCATMARK, _INT.pack(0)))
    except OSError:
        return False
    return bool(is_next)


def _nobody_told() -> None:
    pass


async def connect(
    sock: socket.socket, address: tuple[str, int], begun: Callable[[], object] = _nobody_told
) -> None:
    """Connect a non-blocking socket to a numeric address; ``begun`` is called behind the SYN.

    asyncio's own ``sock_connect`` refuses MPTCP sockets: it looks their protocol up by number.

    Raises:
        OSError: the connection failed.

    """
    with suppress(BlockingIOError):
        sock.connect(address)
        return
    begun()
    await _writable(sock)
    while not _is_connected(sock):
        await _writable(sock)


async def _writable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    writable: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not writable.done():
            writable.set_result(None)

    loop.add_writer(sock.fileno(), wake)
    try:
        await writable
    finally:
        loop.remove_writer(sock.fileno())


def _is_connected(sock: socket.socket) -> bool:
    """Whether a socket is connected, and not on its way; raises OSError if that has failed.

    Linux puts an ICMP error into the queue of an IPv4 connection's errors, which wakes whoever
    waits, and lets the connection fail after that (5.9 and later, ``tcp_v4_err``): in between, the
    socket has no error, and is not connected.
    """
    over = _happens(sock, select.POLLHUP)  # asked first: what ends a connection has set its error
    if number := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise OSError(number, os.strerror(number))
    try:
        sock.getpeername()
    except OSError:
        if over:
            raise
        with suppress(BlockingIOError):
            sock.recvmsg(0, 0, socket.MSG_ERRQUEUE)  # or it would wake us again and again
        return False
    return True


def _happens(sock: socket.socket, event: int) -> bool:
    """Whether poll(2) tells now of an event that nobody has to ask for."""
    poll = select.poll()
    poll.register(sock, 0)
    return any(events & event for _, events in poll.poll(0))


def mapped(address: Address) -> str:
    """Address for a dual-stack socket (RFC 4291, section 2.5.5.2)."""
    return f"::ffff:{address}" if address.version == 4 else str(address)


def unmapped(text: str) -> Address:
    """Address that a dual-stack socket reports."""
    address = ip_address(text.partition("%")[0])
    if address.version == 6 and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def socket_address(name: tuple[str, int, int, int]) -> SocketAddress:
    """Address and port that a dual-stack socket reports: address, port, flow label and scope."""
    return SocketAddress(unmapped(name[0]), name[1])
