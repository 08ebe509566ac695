"""Links of the host and of the proxy's namespace, by netlink and ethtool."""

from __future__ import annotations

import errno
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.ethtool import Ethtool
from pyroute2.netlink import nlmsg
from pyroute2.netlink.exceptions import NetlinkError

from fedsdn import namespace
from fedsdn.site.values import Tun, Veth

_UP, _NO_ARP = 0x1, 0x80
_TUN = 1  # IFF_TUN
_CHECKSUM = "tx-checksum-ip-generic"
_SEGMENTATION = ("tx-tcp-segmentation", "tx-tcp6-segmentation")
_OF_EVERY_NAMESPACE = frozenset(
    ("lo", "tunl0", "gre0", "gretap0", "erspan0", "sit0", "ip6tnl0", "ip6gre0")
) | {"ip_vti0", "ip6_vti0"}
"""Links that the kernel makes in each network namespace; nobody can delete them."""


def links(netlink: IPRoute) -> dict[str, nlmsg]:
    """Return the links of a namespace by name."""
    return {link.get_attr("IFLA_IFNAME"): link for link in netlink.get_links()}


def host_links() -> dict[str, nlmsg]:
    """Return the links of the calling thread's namespace by name."""
    with IPRoute() as netlink:
        return links(netlink)


def namespace_links(name: str) -> dict[str, nlmsg]:
    """Return the links of a namespace by name; none if it is not there."""
    if not namespace.exists(name):
        return {}
    with namespace.within(name), IPRoute() as netlink:
        return links(netlink)


def wired_links(name: str) -> set[str]:
    """Find the host's links whose other end, of the same name, is in a namespace."""
    host = host_links()
    inside = namespace_links(name)
    return {link for link in inside if is_pair(host.get(link), inside[link])}


def delete_host_veth(name: str) -> bool:
    """Delete a veth of the calling thread's namespace; say whether it was there."""
    with IPRoute() as netlink:
        return is_veth(links(netlink).get(name)) and delete_link(netlink, name)


def delete_link(netlink: IPRoute, name: str) -> bool:
    """Delete a link; say whether it was there."""
    found = netlink.link_lookup(ifname=name)
    if not found:
        return False
    try:
        netlink.link("del", index=found[0])
    except NetlinkError as error:
        if error.code != errno.ENODEV:  # it went with its other end
            raise
    return True


def quiet_host_end(name: str) -> None:
    """Keep the host's own stack from speaking, and from being spoken to, on a port's outer end.

    With the userspace datapath a copy of every frame also reaches the host's stack.
    """
    Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")


def offload(name: str) -> tuple[bool, bool]:
    """Whether an interface leaves checksums, and segmentation of any sort, to its other end."""
    with Ethtool() as ethtool:
        features = ethtool.get_features(name).features
        segmentation = any(features[feature].enable for feature in _SEGMENTATION)
        return bool(features[_CHECKSUM].enable), segmentation


def set_offload(veth: Veth) -> None:
    """Set the interface of a wire in the calling thread's namespace as ``offload`` reads it."""
    with Ethtool() as ethtool:
        features = ethtool.get_features(veth.name)
        features.features[_CHECKSUM].enable = veth.checksum_offload
        for feature in _SEGMENTATION:
            features.features[feature].enable = veth.segmentation_offload
        ethtool.set_features(veth.name, features)


def leave_no_checksum(name: str) -> None:
    """Have an interface of the calling thread's namespace compute all checksums itself."""
    with Ethtool() as ethtool:
        features = ethtool.get_features(name)
        features.features[_CHECKSUM].enable = False
        ethtool.set_features(name, features)


def is_pair(outer: nlmsg | None, inner: nlmsg | None) -> bool:
    """Whether two links, of the host and of a namespace, are the ends of one wire."""
    if outer is None or inner is None:
        return False
    return bool(
        outer.get_attr("IFLA_LINK") == inner["index"]
        and inner.get_attr("IFLA_LINK") == outer["index"]
    )


def is_veth(link: nlmsg | None) -> bool:
    """Whether a link is there, and is one end of a veth pair."""
    return link is not None and kind(link) == "veth"


def tun(link: nlmsg) -> Tun | None:
    """Read a TUN device that is up, stays, and has several queues; None for anything else."""
    data = link.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA")
    if kind(link) != "tun" or data is None or not link["flags"] & _UP:
        return None
    wanted = {"TYPE": _TUN, "PI": 0, "VNET_HDR": 0, "PERSIST": 1, "MULTI_QUEUE": 1}
    if any(data.get_attr(f"IFLA_TUN_{name}") != value for name, value in wanted.items()):
        return None
    return Tun(link.get_attr("IFLA_IFNAME"), link.get_attr("IFLA_MTU"))


def set_alike(outer: nlmsg, inner: nlmsg) -> bool:
    """Whether a wire's ends are up and of one MTU, and only the inner one speaks ARP."""
    up = outer["flags"] & inner["flags"] & _UP
    same_mtu = outer.get_attr("IFLA_MTU") == inner.get_attr("IFLA_MTU")
    speaks = outer["flags"] & _NO_ARP and not inner["flags"] & _NO_ARP
    return bool(up and speaks and same_mtu)


def kind(link: nlmsg) -> str:
    """Return what a link is, as ip-link(8) calls it; ``device`` for hardware."""
    return str(link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or "device")


def made_by_somebody(found: dict[str, nlmsg]) -> dict[str, nlmsg]:
    """Return those of a namespace's links that the kernel does not make by itself."""
    return {name: link for name, link in found.items() if name not in _OF_EVERY_NAMESPACE}
