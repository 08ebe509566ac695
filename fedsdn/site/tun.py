"""TUN devices that stay when nobody reads from them, with several queues.

Source: Linux ``Documentation/networking/tuntap.rst``, ``include/uapi/linux/if_tun.h``.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from pathlib import Path

from fedsdn.errors import FedsdnError

DEVICE = Path("/dev/net/tun")
_TUNSETIFF = 0x400454CA
_TUNSETPERSIST = 0x400454CB
_IFF_TUN, _IFF_MULTI_QUEUE, _IFF_NO_PI = 0x0001, 0x0100, 0x1000
_REQUEST = struct.Struct("16sH22x")


def make(name: str) -> None:
    """Make a device in the calling thread's namespace.

    Raises:
        FedsdnError: the kernel has no TUN.
        OSError: the kernel refuses.

    """
    try:
        queue = open_queue()
    except FileNotFoundError as error:
        raise FedsdnError(f"{DEVICE} is missing: load the kernel module, 'modprobe tun'") from error
    try:
        _attach(queue, name)
        fcntl.ioctl(queue, _TUNSETPERSIST, 1)
    finally:
        os.close(queue)


def open_queue() -> int:
    """Open what is to be a queue of a device of the calling thread's namespace, without blocking.

    Raises:
        OSError: there is no ``DEVICE``, or the process may not open it.

    """
    return os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def attach(queue: int, name: str) -> None:
    """Make it a queue of a device, for the first time or when another device had its name.

    The kernel deals packets out to such queues: by connection, or as ``steering`` says.

    Raises:
        OSError: there is no such device, or the process lacks CAP_NET_ADMIN.

    """
    socket.if_nametoindex(name)  # else the kernel would make one
    _attach(queue, name)


def _attach(queue: int, name: str) -> None:
    flags = _IFF_TUN | _IFF_MULTI_QUEUE | _IFF_NO_PI
    fcntl.ioctl(queue, _TUNSETIFF, _REQUEST.pack(name.encode(), flags))
