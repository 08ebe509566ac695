"""The kernel's part in the liveness of VMs: probes, and a socket that does not answer its VM.

A muted socket has a filter (``SO_ATTACH_FILTER``, Linux, Documentation/networking/filter.rst) that
drops all of its VM's segments but SYNs and resets before TCP sees them. So nothing is acknowledged,
no probe of the VM is answered, and what it sends waits with it, as it would if the other VM were
gone. A reset still ends the connection, and a SYN is still answered by a challenge (RFC 5961).
"""

from __future__ import annotations

import ctypes
import socket
import struct

IDLE_SECONDS = 10
"""Idle time after which a VM is probed (TCP keepalive)."""

PROBE_SECONDS = 5
"""Interval of the first probes without an answer."""

LONGEST_PROBE_SECONDS = 75
"""Longest interval of probes, as in tcp(7). With ``MOST_PROBES`` an idle connection to a VM that
says nothing ends after more than two hours, as by tcp(7)'s keepalive."""

MOST_PROBES = 127
"""Unanswered probes after which the kernel resets a connection: ``MAX_TCP_KEEPCNT``."""

MUTED_IDLE_SECONDS = 600
"""Idle time after which a muted VM is probed: one that has given up answers by a reset. Seldom,
because some systems take any segment for a sign of life (4.4BSD: ``t_rcvtime``)."""

_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
"""include/uapi/asm-generic/socket.h; Python does not have the names."""

_INSTRUCTION = struct.Struct("=HBBI")
_PROGRAM = struct.Struct("@HP")
"""``struct sock_filter`` and ``struct sock_fprog`` (linux/filter.h)."""

_FLAGS_OCTET = 13
_SYN_OR_RESET = 0x06
"""In the header of TCP (RFC 9293, section 3.1), where a TCP socket's filter begins to read."""

_LOAD_OCTET, _JUMP_IF_SET, _RETURN = 0x30, 0x45, 0x06
_WHOLE, _NOTHING = 0xFFFFFFFF, 0

_FILTER = ctypes.create_string_buffer(
    b"".join(
        _INSTRUCTION.pack(*instruction)
        for instruction in (
            (_LOAD_OCTET, 0, 0, _FLAGS_OCTET),
            (_JUMP_IF_SET, 0, 1, _SYN_OR_RESET),
            (_RETURN, 0, 0, _WHOLE),
            (_RETURN, 0, 0, _NOTHING),
        )
    )
)
_MUTE = _PROGRAM.pack(4, ctypes.addressof(_FILTER))


def watch(sock: socket.socket) -> None:
    """Have a VM probed when it is idle.

    Raises:
        OSError: the connection is gone.

    """
    probe_every(sock, PROBE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, MOST_PROBES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_SECONDS)


def probe_every(sock: socket.socket, seconds: int) -> None:
    """Set the interval of probes without an answer.

    Raises:
        OSError: the connection is gone.

    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, seconds)


def mute(sock: socket.socket) -> None:
    """Answer the VM no more.

    Raises:
        OSError: the connection is gone.

    """
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _MUTE)
    probe_every(sock, LONGEST_PROBE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, MUTED_IDLE_SECONDS)


def unmute(sock: socket.socket) -> None:
    """Answer the VM again; it is probed at once.

    Raises:
        OSError: the connection is gone.

    """
    sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
    probe_every(sock, PROBE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, IDLE_SECONDS)
