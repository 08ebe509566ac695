"""Users and capabilities that processes of fedsdn have, and giving up the others.

Source: capabilities(7), Linux ``include/uapi/linux/capability.h`` and ``prctl.h``.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Collection
from enum import IntEnum
from pathlib import Path

PROXY_USER = 60911
"""User and group of the proxy's workers, and of nobody else.

A number that systemd gives to nobody (its ``UIDS-GIDS.md``: unused) needs no account, and is the
same on every host and in every lab; ``sysusers.d/fedsdn.conf`` gives it a name."""


class Capability(IntEnum):
    """Those that processes of fedsdn keep."""

    KILL = 5
    SETGID = 6
    SETUID = 7
    SETPCAP = 8
    NET_BIND_SERVICE = 10
    NET_ADMIN = 12
    NET_RAW = 13


WORKER = frozenset({Capability.NET_BIND_SERVICE, Capability.NET_ADMIN, Capability.NET_RAW})
"""Clients' ports below 1024; clients' addresses, marks, subflows; held SYNs."""

FIRST_PROCESS = WORKER | {Capability.KILL, Capability.SETGID, Capability.SETUID}
"""Of the proxy's first process, once it is in its namespace: to start workers, and to end them."""

_LAST = Path("/proc/sys/kernel/cap_last_cap")
_VERSION_3 = 0x20080522
_HEADER = struct.Struct("=Ii")
_SETS = struct.Struct("=6I")
"""Effective, permitted and inheritable capabilities: the lower 32 of each, then the upper ones."""

_PR_SET_KEEPCAPS, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 8, 24, 38


def keep_only(capabilities: Collection[Capability]) -> None:
    """Give up all others, for the calling thread and what it starts, also if root executes it.

    Raises:
        OSError: the kernel refuses.

    """
    if Capability.SETPCAP in _permitted():
        for number in range(int(_LAST.read_text()) + 1):
            if number not in capabilities:
                _prctl(_PR_CAPBSET_DROP, number)
    _set(capabilities)


def become_worker() -> None:
    """Be the proxy's user from now on, with no more than workers need; for a thread that is alone.

    What it executes has no capability at all.

    Raises:
        OSError: the process is root, and the kernel refuses.

    """
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    if os.geteuid() == 0:
        _prctl(_PR_SET_KEEPCAPS, 1)
        os.setgroups([])
        os.setresgid(PROXY_USER, PROXY_USER, PROXY_USER)
        os.setresuid(PROXY_USER, PROXY_USER, PROXY_USER)
    _set(WORKER)


def _permitted() -> set[int]:
    header, sets = _header(), ctypes.create_string_buffer(_SETS.size)
    _call(ctypes.CDLL(None, use_errno=True).capget(header, sets))
    _, low, _, _, high, _ = _SETS.unpack(sets.raw)
    bits = low | high << 32
    return {number for number in range(64) if bits >> number & 1}


def _set(capabilities: Collection[Capability]) -> None:
    """Have only these of those that the thread has."""
    bits = sum(1 << number for number in set(capabilities) & _permitted())
    low, high = bits & 0xFFFFFFFF, bits >> 32
    sets = _SETS.pack(low, low, 0, high, high, 0)
    _call(ctypes.CDLL(None, use_errno=True).capset(_header(), sets))


def _header() -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(_HEADER.pack(_VERSION_3, 0), _HEADER.size)


def _prctl(option: int, value: int) -> None:
    _call(ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0))


def _call(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
