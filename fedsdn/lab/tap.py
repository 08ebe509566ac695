"""TAP devices with virtio headers, so that segmentation is left to the receiver.

Source: Linux ``Documentation/networking/tuntap.rst``, ``include/uapi/linux/if_tun.h`` and
``virtio_net.h``.
"""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import suppress
from pathlib import Path

from fedsdn.namespace import within_file

_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_TUNSETVNETHDRSZ = 0x400454D8
_TUNSETVNETLE = 0x400454DC
_TUNSETCARRIER = 0x400454E2
_IFF_TAP_NO_PI_VNET_HDR = 0x0002 | 0x1000 | 0x4000
_TUN_F_CSUM = 0x01
_TUN_F_TSO = 0x02 | 0x04

_VIRTIO_HEADER = struct.Struct("<BBHHHH")
"""flags, gso_type, hdr_len, gso_size, csum_start, csum_offset."""
_GSO_TYPES = 0x7F
_GSO_NONE = 0
_GSO_UDP_L4 = 5
_UDP_HEADER = 8
_LONGEST_FRAME = 65536 + 64


class Tap:
    """A TAP device in the network namespace of process ``pid``; it ends with the descriptor."""

    def __init__(self, pid: int, name: str) -> None:
        with within_file(Path(f"/proc/{pid}/ns/net")):
            self._fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.ioctl(
                    self._fd,
                    _TUNSETIFF,
                    struct.pack("16sH22x", name.encode(), _IFF_TAP_NO_PI_VNET_HDR),
                )
            except OSError:
                os.close(self._fd)
                raise
        fcntl.ioctl(self._fd, _TUNSETVNETHDRSZ, struct.pack("i", _VIRTIO_HEADER.size))
        fcntl.ioctl(self._fd, _TUNSETVNETLE, struct.pack("i", 1))
        self.set_segmentation(offloaded=True)

    def fileno(self) -> int:
        """Return the descriptor, for selectors."""
        return self._fd

    def set_carrier(self, *, on: bool) -> None:
        """Plug the cable in, or pull it: the bridge's port sees its link go up or down."""
        fcntl.ioctl(self._fd, _TUNSETCARRIER, struct.pack("i", int(on)))

    def set_segmentation(self, *, offloaded: bool) -> None:
        """Switch TCP segmentation offload on or off."""
        fcntl.ioctl(self._fd, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO if offloaded else 0)

    def read(self) -> bytes | None:
        """Return the next frame with its virtio header, None if there is none now."""
        try:
            return os.read(self._fd, _LONGEST_FRAME)
        except BlockingIOError:
            return None

    def write(self, frame: bytes) -> None:
        """Deliver a frame; it is lost if the kernel refuses it (device down, no memory)."""
        with suppress(OSError):
            os.write(self._fd, frame)


def wire_bytes(frame: bytes) -> int:
    """Bytes that a frame with virtio header is on the wire, once cut into segments.

    Every segment repeats the headers; ``hdr_len`` is only a hint, so they are measured.
    """
    gso_type: int
    gso_size: int
    csum_start: int
    _flags, gso_type, _hdr_len, gso_size, csum_start, _offset = _VIRTIO_HEADER.unpack_from(frame)
    length = len(frame) - _VIRTIO_HEADER.size
    kind = gso_type & _GSO_TYPES
    if kind == _GSO_NONE or gso_size == 0:
        return length
    if kind == _GSO_UDP_L4:
        headers = csum_start + _UDP_HEADER
    else:
        headers = csum_start + 4 * (frame[_VIRTIO_HEADER.size + csum_start + 12] >> 4)
    segments = -(-(length - headers) // gso_size)
    return length + (segments - 1) * headers
