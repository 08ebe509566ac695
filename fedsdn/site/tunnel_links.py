"""The tunnels' interfaces in the proxy's namespace: made, read, and ended.

WireGuard is the kernel's where it has it, else the program ``wireguard-go``: a process for each
interface, inside the namespace, that ends with it, as it does when somebody deletes the interface.
Both are told keys and peers in the same way (``fedsdn.tunnels.configure``), by the application.

Source: wg(8), ``https://git.zx2c4.com/wireguard-go/about/``, ip-link(8).
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink import nlmsg
from pyroute2.netlink.exceptions import NetlinkError

from fedsdn import namespace
from fedsdn.errors import FedsdnError
from fedsdn.pipeline.declarations import is_tunnel_name
from fedsdn.site import links
from fedsdn.site.values import TunnelLink, Vxlan
from fedsdn.tunnels.plan import TunnelKind

PROGRAM = "wireguard-go"
_SOCKETS = Path("/run/wireguard")
"""Where the program has a socket for each interface, and ``wg`` looks for it."""

_MISSING = frozenset({errno.EOPNOTSUPP, errno.ENOTSUP})
_STARTS_SECONDS = _ENDS_SECONDS = 10.0
_LOOK_SECONDS = 0.01
_UP = 0x1
_TUN = 1  # IFF_TUN


def read(link: nlmsg) -> TunnelLink | None:
    """Read the interface of a tunnel that is up; None for anything else."""
    if not link["flags"] & _UP:
        return None
    name, mtu = link.get_attr("IFLA_IFNAME"), link.get_attr("IFLA_MTU")
    if _is_wireguard(link):
        return TunnelLink(name, mtu)
    vxlan = _vxlan(link)
    return None if vxlan is None else TunnelLink(name, mtu, vxlan)


def leads_there(link: nlmsg, wanted: TunnelLink) -> bool:
    """Whether an interface needs no more than its MTU, or to be up, to be the wanted one."""
    return _is_wireguard(link) if wanted.vxlan is None else _vxlan(link) == wanted.vxlan


def _is_wireguard(link: nlmsg) -> bool:
    if links.kind(link) == TunnelKind.WIREGUARD:
        return True
    data = link.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")
    return bool(
        links.kind(link) == "tun"
        and data is not None
        and (data.get_attr("IFLA_TUN_TYPE"), data.get_attr("IFLA_TUN_PERSIST")) == (_TUN, 0)
        and is_tunnel_name(link.get_attr("IFLA_IFNAME"))
    )


def _vxlan(link: nlmsg) -> Vxlan | None:
    data = link.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")
    if links.kind(link) != TunnelKind.VXLAN or data is None:
        return None
    local, remote = (
        data.get_attr(f"IFLA_VXLAN_{end}") or data.get_attr(f"IFLA_VXLAN_{end}6")
        for end in ("LOCAL", "GROUP")
    )
    if not local or not remote or data.get_attr("IFLA_VXLAN_LEARNING"):
        return None
    return Vxlan(
        identifier=data.get_attr("IFLA_VXLAN_ID"),
        local=ip_address(local),
        remote=ip_address(remote),
        port=data.get_attr("IFLA_VXLAN_PORT"),
        mac=link.get_attr("IFLA_ADDRESS"),
    )


def create(netlink: IPRoute, name: str, wanted: TunnelLink) -> None:
    """Make an interface in the namespace called ``name``, to which ``netlink`` is open.

    Raises:
        FedsdnError: it is to be WireGuard's, and nothing here speaks that.
        NetlinkError: the kernel refuses.

    """
    if wanted.vxlan is None:
        _create_wireguard(netlink, name, wanted.name)
    else:
        netlink.link("add", **_request(wanted.name, wanted.vxlan))
        # Those of inner packets: Open vSwitch's userspace datapath knows of an outer one only.
        namespace.inside(name, lambda: links.leave_no_checksum(wanted.name))
    # Before it is up, or it would have a link-local address.
    setting = Path(f"/proc/sys/net/ipv6/conf/{wanted.name}/addr_gen_mode")
    namespace.inside(name, lambda: setting.write_text("1"))


def _create_wireguard(netlink: IPRoute, name: str, interface: str) -> None:
    try:
        netlink.link("add", ifname=interface, kind=TunnelKind.WIREGUARD.value)
    except NetlinkError as error:
        if error.code not in _MISSING:
            raise
        namespace.inside(name, lambda: _start(interface))


def _start(interface: str) -> None:
    if shutil.which(PROGRAM) is None:
        raise FedsdnError(
            "this kernel has no WireGuard ('modprobe wireguard' fails), and the program "
            f"{PROGRAM} is not installed: install package {PROGRAM}"
        )
    # It may run for a namespace that has lost its name, and would remove the new one's socket.
    _end_programs(pid for pid, of in processes().items() if of == interface)
    # Nothing of ours that may be secret, or that it takes for its own (WG_TUN_FD), is in its
    # environment. A session of its own: nothing that ends with a terminal ends it.
    environment = {"PATH": os.environ.get("PATH", os.defpath)}
    try:
        done = subprocess.run(
            [PROGRAM, interface],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,
            timeout=_STARTS_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise FedsdnError(
            f"{PROGRAM} {interface} does not start within {_STARTS_SECONDS:.0f} s: look at the "
            "load of this host and at the kernel's log (dmesg)"
        ) from error
    if done.returncode:
        lines = (done.stdout + done.stderr).splitlines()
        said = next((line for line in lines if line.startswith("ERROR")), "it does not say why")
        raise FedsdnError(f"{PROGRAM} {interface} does not start: {said}")
    # The process that stays sets the MTU once more, before it answers.
    try:
        subprocess.run(
            ["wg", "show", interface, "listen-port"],
            capture_output=True,
            check=True,
            timeout=_STARTS_SECONDS,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise FedsdnError(f"{PROGRAM} {interface} does not answer: {error}") from error


def _request(name: str, vxlan: Vxlan) -> dict[str, object]:
    suffix = "" if vxlan.local.version == 4 else "6"
    return {
        "ifname": name,
        "kind": TunnelKind.VXLAN.value,
        "address": vxlan.mac,
        "vxlan_id": vxlan.identifier,
        f"vxlan_local{suffix}": str(vxlan.local),
        f"vxlan_group{suffix}": str(vxlan.remote),
        "vxlan_port": vxlan.port,
        "vxlan_learning": 0,
    }


def processes() -> dict[int, str]:
    """Find the programs of this host's tunnels, with their interfaces, in whatever namespace."""
    found = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            command, *words = (directory / "cmdline").read_text().rstrip("\0").split("\0")
            status = (directory / "status").read_text()
        except (FileNotFoundError, ProcessLookupError, UnicodeDecodeError):
            continue
        if Path(command).name == PROGRAM and len(words) == 1 and is_tunnel_name(words[0]):
            (numbers,) = (line for line in status.splitlines() if line.startswith("NSpid:"))
            if len(numbers.split()) == 2:  # else another host's, as a lab has them here
                found[int(directory.name)] = words[0]
    return found


def end(name: str) -> None:
    """Delete the tunnels of the namespace called ``name``, and end all their programs.

    Raises:
        FedsdnError: one does not end.

    """
    _end_programs(processes())
    if namespace.exists(name):
        with namespace.within(name), IPRoute() as netlink:
            for interface, link in links.links(netlink).items():
                if is_tunnel_name(interface) and (_is_wireguard(link) or _vxlan(link)):
                    links.delete_link(netlink, interface)
    for socket in _SOCKETS.glob("*.sock"):  # of programs that were killed
        if is_tunnel_name(socket.stem):
            socket.unlink(missing_ok=True)


def _end_programs(running: Iterable[int]) -> None:
    """End programs, and wait until they have removed their sockets."""
    left = set(running)
    for process in left:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)
    deadline = time.monotonic() + _ENDS_SECONDS
    while left := left & processes().keys():
        if time.monotonic() > deadline:
            raise FedsdnError(
                f"{PROGRAM} does not end (process {', '.join(map(str, sorted(left)))}): end it "
                "('kill -9'), and try again"
            )
        time.sleep(_LOOK_SECONDS)
