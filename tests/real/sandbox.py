"""Runs a program as a service of systemd/ would, as far as that needs no systemd: in its sandbox.

``python sandbox.py UNIT COMMAND...`` drops the capabilities that the unit does not list, and lets
the kernel refuse the system calls, address families and namespaces that systemd would refuse
(systemd.exec(5), libseccomp's seccomp.h). What a unit does with mounts and devices has no part in
it: vagrant/test has that.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

UNITS = Path(__file__).parents[2] / "systemd"

_KILL, _ALLOW, _ERROR = 0x80000000, 0x7FFF0000, 0x00050000
_MASKED_EQUAL = 7
_EVERY_BIT = (1 << 64) - 1
_FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16}
_LAST_FAMILY = 46
_NEW_NAMESPACES = {
    "cgroup": 0x02000000, "ipc": 0x08000000, "mnt": 0x00020000, "net": 0x40000000,
    "pid": 0x20000000, "user": 0x10000000, "uts": 0x04000000,
}  # fmt: skip
_PROT_WRITE, _PROT_EXEC = 2, 4
_PR_CAPBSET_DROP = 24
_CAPABILITIES = {
    "CAP_CHOWN": 0, "CAP_KILL": 5, "CAP_SETGID": 6, "CAP_SETUID": 7, "CAP_SETPCAP": 8,
    "CAP_NET_BIND_SERVICE": 10, "CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_ADMIN": 21,
}  # fmt: skip
_LAST_CAPABILITY = Path("/proc/sys/kernel/cap_last_cap")


def in_sandbox(unit: str, *command: str) -> list[str]:
    """Return the command that runs ``command`` as the service ``unit`` would run it."""
    return [sys.executable, __file__, unit, *command]


class _Comparison(ctypes.Structure):
    """``struct scmp_arg_cmp``: an argument of a system call, and what of it is compared."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("mask", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
    )


class _Filter:
    """A filter of system calls; what no rule is about has the outcome ``otherwise``."""

    def __init__(self, otherwise: int) -> None:
        self._library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._library.seccomp_init(ctypes.c_uint32(otherwise)))

    def rule(
        self, outcome: int, name: str, argument: int = 0, value: int | None = None, mask: int = 0
    ) -> None:
        number = self._library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            return  # another architecture's
        compared = _Comparison(argument, _MASKED_EQUAL, mask or _EVERY_BIT, value or 0)
        failed = self._library.seccomp_rule_add_array(
            self._context, ctypes.c_uint32(outcome), number, int(value is not None),
            ctypes.byref(compared),
        )  # fmt: skip
        if failed:
            raise OSError(-failed, f"no rule about {name}")

    def refuse(
        self, number: int, name: str, argument: int = 0, value: int | None = None, mask: int = 0
    ) -> None:
        self.rule(_ERROR | number, name, argument, value, mask)

    def load(self) -> None:
        failed = self._library.seccomp_load(self._context)
        if failed:
            raise OSError(-failed, "the filter is not loaded")


@functools.cache
def _sets() -> dict[str, list[str]]:
    """The members of systemd's sets of system calls."""
    sets: dict[str, list[str]] = {}
    listed = subprocess.run(
        ["systemd-analyze", "syscall-filter"], capture_output=True, text=True, check=True
    )
    for line in listed.stdout.splitlines():
        if line.startswith("@"):
            sets[line] = []
        elif line.strip() and not line.strip().startswith("#") and sets:
            sets[list(sets)[-1]].append(line.strip())
    return sets


def _calls(names: list[str]) -> Iterator[str]:
    for name in names:
        if name.startswith("@"):
            yield from _calls(_sets()[name])
        else:
            yield name


def _allowed(lines: list[str]) -> set[str]:
    """The system calls that a unit allows; a line with ``~`` takes some away again."""
    allowed: set[str] = set()
    for line in lines:
        names = set(_calls(line.removeprefix("~").split()))
        allowed = allowed - names if line.startswith("~") else allowed | names
    return allowed


def settings_of(unit: str) -> dict[str, list[str]]:
    """The values of each setting of a unit, one for each line."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / f"{unit}.service").read_text().splitlines():
        name, is_setting, value = line.partition("=")
        if is_setting and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def _drop_capabilities(kept: list[str]) -> None:
    numbers = {_CAPABILITIES[name] for name in kept}
    library = ctypes.CDLL(None, use_errno=True)
    for number in range(int(_LAST_CAPABILITY.read_text()) + 1):
        if number not in numbers and library.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "a capability is not dropped")


def _restrictions(settings: dict[str, list[str]]) -> _Filter:
    """What a system call may not be asked for, whoever may use it."""
    found = _Filter(_ALLOW)
    families = {_FAMILIES[name] for name in settings["RestrictAddressFamilies"][0].split()}
    for family in set(range(_LAST_FAMILY)) - families:
        found.refuse(errno.EAFNOSUPPORT, "socket", 0, family)
    found.refuse(errno.EPERM, "setns", 1, 0)
    for name in _NEW_NAMESPACES.keys() - set(settings["RestrictNamespaces"][0].split()):
        flag = _NEW_NAMESPACES[name]
        for call, argument in (("setns", 1), ("unshare", 0), ("clone", 0)):
            found.refuse(errno.EPERM, call, argument, flag, flag)
    if settings["MemoryDenyWriteExecute"] == ["yes"]:
        both = _PROT_WRITE | _PROT_EXEC
        found.refuse(errno.EPERM, "mmap", 2, both, both)
        found.refuse(errno.EPERM, "mprotect", 2, _PROT_EXEC, _PROT_EXEC)
    return found


def main() -> None:
    unit, *command = sys.argv[1:]
    settings = settings_of(unit)
    number = settings.get("SystemCallErrorNumber", [])
    allowed = _Filter(_ERROR | getattr(errno, number[0]) if number else _KILL)
    for name in _allowed(settings["SystemCallFilter"]):
        allowed.rule(_ALLOW, name)
    _drop_capabilities(settings["CapabilityBoundingSet"][0].split())
    os.umask(int(settings["UMask"][0], 8))
    _restrictions(settings).load()
    allowed.load()
    os.execvp(command[0], command)  # noqa: S606 -- the shell would be the one in the sandbox


if __name__ == "__main__":
    main()
