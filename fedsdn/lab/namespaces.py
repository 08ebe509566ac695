"""Linux namespaces: unshare(2) and setns(2), which Python 3.11 does not have."""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fedsdn.namespace import within_file

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

SOCKET_SECONDS = 20.0
"""Time-out of the sockets that ``Namespace`` makes."""
_BACKLOG = 2000
_FRESH_PORTS = itertools.cycle(range(22000, 32000))
"""Clients take their own ports from 32768 on (``ip_local_port_range``)."""

Result = TypeVar("Result")

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags: int) -> None:
    """Move this process (for ``CLONE_NEWPID``: its children) into new namespaces.

    Raises:
        OSError: the kernel refuses.

    """
    if _libc.unshare(flags):
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")


class Namespace:
    """A network namespace in which this process makes sockets."""

    def __init__(self, path: Path) -> None:
        """Name it by its file."""
        self.path = path

    def call(self, work: Callable[[], Result]) -> Result:
        """Return the result of ``work``, done inside."""
        with within_file(self.path):
            return work()

    def open(self, address: str, protocol: int = 0) -> socket.socket:
        """Make a TCP socket for the address's family."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = self.call(lambda: socket.socket(family, socket.SOCK_STREAM, protocol))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.settimeout(SOCKET_SECONDS)
        return sock

    def raw(self, family: int) -> socket.socket:
        """Make a socket that sends packets with their headers."""
        kind = socket.AF_INET6 if family == 6 else socket.AF_INET
        return self.call(lambda: socket.socket(kind, socket.SOCK_RAW, socket.IPPROTO_RAW))

    def listen(self, address: str, port: int = 0) -> socket.socket:
        """Make a listening socket; port 0: one that this process has not used lately.

        A proxy that has seen somebody listen on a port answers for it for some minutes.
        """
        sock = self.open(address)
        try:
            if port:
                sock.bind((address, port))
            else:
                _bind_anew(sock, address)
            sock.listen(_BACKLOG)
        except OSError:
            sock.close()
            raise
        return sock

    def connect(
        self, address: str, port: int, source: tuple[str, int] | None = None, protocol: int = 0
    ) -> socket.socket:
        """Open a connection."""
        sock = self.open(address, protocol)
        try:
            if source is not None:
                sock.bind(source)
            connect(sock, (address, port))
        except OSError:
            sock.close()
            raise
        return sock


def _bind_anew(sock: socket.socket, address: str) -> None:
    for port in _FRESH_PORTS:
        try:
            sock.bind((address, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return


def connect(sock: socket.socket, address: tuple[str, int]) -> None:
    """Connect within the socket's time-out, and wait in the kernel for it, as most applications do.

    Python waits in poll(2) instead, which tells of an ICMP error a moment before the socket has it
    (Linux, ``tcp_v4_err``), and then takes the connection for open.

    Raises:
        TimeoutError: it took too long.
        OSError: it failed.

    """
    limit = sock.gettimeout()
    sock.settimeout(None)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(limit or 0.0))
    try:
        sock.connect(address)
    except BlockingIOError as error:
        raise TimeoutError from error
    finally:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(0.0))
        sock.settimeout(limit)


def _timeval(seconds: float) -> bytes:
    """``struct timeval``; 0 is for ever."""
    return struct.pack("ll", *divmod(round(seconds * 1_000_000), 1_000_000))
