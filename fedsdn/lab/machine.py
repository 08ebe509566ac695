"""Whether this machine can run a lab."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

from fedsdn.errors import FedsdnError
from fedsdn.lab.switch import SCHEMA

_PACKAGES = {
    "openvswitch-switch": ("ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl", "ovs-ofctl"),
    "iproute2": ("ip", "ss"),
    "nftables": ("nft",),
    "ethtool": ("ethtool",),
    "util-linux": ("nsenter", "setsid"),
    "mount": ("mount",),
}
_TUN = Path("/dev/net/tun")


def check_root() -> None:
    """Check the right to create and enter namespaces.

    Raises:
        FedsdnError: we may not.

    """
    if os.geteuid() != 0:
        raise FedsdnError("found no root rights: a lab is made of namespaces, run this as root")


def check_machine() -> None:
    """Check this machine's prerequisites for a lab.

    Raises:
        FedsdnError: it cannot; says what is missing and what to do.

    """
    check_root()
    for package, commands in _PACKAGES.items():
        for command in commands:
            if shutil.which(command) is None:
                raise FedsdnError(f"found no {command}: install it, apt-get install {package}")
    if not Path(SCHEMA).exists():
        raise FedsdnError(f"found no {SCHEMA}: apt-get install --reinstall openvswitch-switch")
    if not _TUN.exists():
        raise FedsdnError(f"found no {_TUN}: load the kernel module, modprobe tun")
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_MPTCP).close()
    except OSError as error:
        raise FedsdnError(
            f"found no MPTCP over IPv6 in this kernel ({error.strerror}): boot one that has "
            "CONFIG_MPTCP and CONFIG_MPTCP_IPV6, and set sysctl net.mptcp.enabled=1"
        ) from error
