"""Which queue of a TUN device a packet comes to: all of a client to one port, to the same.

The kernel's own choice depends on the client's port, too; then two SYNs of one client could
overtake each other on their way through two workers.

Source: Linux ``include/uapi/linux/bpf.h``, ``drivers/net/tun.c`` (``tun_ebpf_select_queue``),
``Documentation/bpf/standardization/instruction-set.rst``.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import platform
import struct

_TUNSETSTEERINGEBPF = 0x800454E0
_SYSTEM_CALLS = {"x86_64": 321, "aarch64": 280}
_BPF_PROG_LOAD, _SOCKET_FILTER = 5, 1

_INSTRUCTION = struct.Struct("=BBhi")
_LOAD_REQUEST = struct.Struct("=IIQQIIQII")
"""The beginning of ``union bpf_attr``: type, instructions, licence, log, kernel version, flags."""

_PACKET_BYTE, _PACKET_WORD, _PACKET_HALF_AT = 0x30, 0x20, 0x48
"""Loads from the packet into register 0, the last one relative to another register."""

_MOVE, _MOVE_VALUE = 0xBF, 0xB7
_XOR, _MULTIPLY_VALUE = 0xAC, 0x24
_AND_VALUE, _SHIFT_LEFT, _SHIFT_RIGHT = 0x54, 0x64, 0x74
_JUMP_UNLESS, _EXIT = 0x55, 0x95

_RESULT, _CONTEXT, _ARGUMENT, _SUM, _OFFSET = 0, 6, 1, 7, 8
_ODD = 0x9E3779B1 - (1 << 32)
"""Spreads the bits of a word: 2 ** 32 divided by the golden ratio."""


def program() -> bytes:
    """Make the program: it sums up both addresses and the destination's port, of IPv4 or IPv6.

    A packet that is too short for that comes to the first queue.
    """
    ipv4 = [
        *_added(_PACKET_WORD, (12, 16)),
        (_PACKET_BYTE, 0, 0, 0, 0),
        (_AND_VALUE, _RESULT, 0, 0, 0xF),
        (_SHIFT_LEFT, _RESULT, 0, 0, 2),
        (_MOVE, _OFFSET, _RESULT, 0, 0),
        *_port(2),
    ]
    ipv6 = [*_added(_PACKET_WORD, range(8, 40, 4)), (_MOVE_VALUE, _OFFSET, 0, 0, 40), *_port(2)]
    begin = [
        (_MOVE, _CONTEXT, _ARGUMENT, 0, 0),
        (_MOVE_VALUE, _SUM, 0, 0, 0),
        (_PACKET_BYTE, 0, 0, 0, 0),
        (_SHIFT_RIGHT, _RESULT, 0, 0, 4),
        (_JUMP_UNLESS, _RESULT, 0, len(ipv4), 4),
    ]
    return b"".join(
        _INSTRUCTION.pack(code, to | source << 4, offset, value)
        for code, to, source, offset, value in begin + ipv4 + ipv6
    )


_Code = tuple[int, int, int, int, int]
"""Operation, destination, source, offset, value."""


def _added(load: int, offsets: range | tuple[int, ...]) -> list[_Code]:
    return [code for offset in offsets for code in ((load, 0, 0, 0, offset), *_add())]


def _add() -> list[_Code]:
    return [(_XOR, _SUM, _RESULT, 0, 0), (_MULTIPLY_VALUE, _SUM, 0, 0, _ODD)]


def _port(offset: int) -> list[_Code]:
    return [
        (_PACKET_HALF_AT, 0, _OFFSET, 0, offset),
        *_add(),
        (_MOVE, _RESULT, _SUM, 0, 0),
        (_SHIFT_RIGHT, _RESULT, 0, 0, 16),
        (_EXIT, 0, 0, 0, 0),
    ]


def load() -> int:
    """Have the kernel load ``program``: a descriptor of it.

    Raises:
        OSError: the kernel refuses, or is of a machine whose system calls are not known here.

    """
    return _load(program())


def steer(queue: int, loaded: int) -> None:
    """Have the device of a queue choose queues by a program that is ``loaded``.

    Raises:
        OSError: the kernel refuses.

    """
    fcntl.ioctl(queue, _TUNSETSTEERINGEBPF, struct.pack("=i", loaded))


def _load(code: bytes) -> int:
    number = _SYSTEM_CALLS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, "bpf(2) is not known for this machine")
    held, licence = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"")
    request = _LOAD_REQUEST.pack(
        *(_SOCKET_FILTER, len(code) // _INSTRUCTION.size),
        *(ctypes.addressof(held), ctypes.addressof(licence)),
        *(0, 0, 0, 0, 0),
    )
    libc = ctypes.CDLL(None, use_errno=True)
    loaded = int(libc.syscall(number, _BPF_PROG_LOAD, request, len(request)))
    if loaded < 0:
        raise OSError(ctypes.get_errno(), "bpf(2) refuses the program")
    return loaded
