"""Room for frames that wait for a lab's Open vSwitch in userspace.

It reads its ports by packet sockets, each of which holds as much as ``net.core.rmem_default`` says:
200 KiB, which are 10 ms of a wire's traffic. On a busy machine frames are lost there that no real
switch would lose: one of forty new connections waited a second for a SYN that was repeated. That
setting is the whole machine's, so it is not changed; the sockets are.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from fedsdn.lab.host import Host

_BYTES = 1 << 20
"""The kernel doubles it (socket(7)), and frames take up to twice their length: 50 ms of a wire."""

_SO_RCVBUFFORCE = 33
"""include/uapi/asm-generic/socket.h; beyond the host's ``rmem_max``."""

_PIDFD_GETFD = 438
"""pidfd_getfd(2), the same on all architectures; Python has no name for it."""

_VSWITCHD = "ovs-vswitchd"
_LIBC = ctypes.CDLL(None, use_errno=True)


def widen(host: Host) -> None:
    """Give all ports that the host's Open vSwitch has now room for more frames.

    The kernel's datapath has no such sockets.
    """
    children = Path(f"/proc/{host.process.pid}/task/{host.process.pid}/children")
    for child in children.read_text().split():
        with suppress(OSError):  # it has ended meanwhile
            if Path(f"/proc/{child}/comm").read_text().strip() == _VSWITCHD:
                for sock in _packet_sockets(int(child)):
                    sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BYTES)


def _packet_sockets(process: int) -> Iterator[socket.socket]:
    """Yield what a process has, each to be used until the next one."""
    pidfd = os.pidfd_open(process)
    try:
        for link in Path(f"/proc/{process}/fd").iterdir():
            with suppress(OSError):  # it has been closed meanwhile
                if not os.readlink(link).startswith("socket:"):
                    continue
                number = _LIBC.syscall(_PIDFD_GETFD, pidfd, int(link.name), 0)
                if number < 0:
                    continue
                with socket.socket(fileno=number) as sock:
                    if sock.family == socket.AF_PACKET:
                        yield sock
    finally:
        os.close(pidfd)
