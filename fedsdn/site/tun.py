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
        queue = _attached(name)
    except FileNotFoundError as error:
        raise FedsdnError(f"{DEVICE} is missing: load the kernel module, 'modprobe tun'") from error
    try:
        fcntl.ioctl(queue, _TUNSETPERSIST, 1)
    finally:
        os.close(queue)


def open_queue(name: str) -> int:
    """Open a queue of a device in the calling thread's namespace: a non-blocking descriptor.

    The kernel deals packets out to the queues that are open: by connection, or as ``steering``
    says.

    Raises:
        OSError: there is no such device, or the kernel refuses.

    """
    socket.if_nametoindex(name)  # else the kernel would make one
    return _attached(name)


def _attached(name: str) -> int:
    queue = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    flags = _IFF_TUN | _IFF_MULTI_QUEUE | _IFF_NO_PI
    try:
        fcntl.ioctl(queue, _TUNSETIFF, _REQUEST.pack(name.encode(), flags))
    except OSError:
        os.close(queue)
        raise
    return queue
