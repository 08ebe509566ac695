"""Links, addresses, routes and rules of the proxy's namespace, read and changed by netlink.

Everything is read into the values of the plan, so that what is there and what is wanted compare;
only the difference is changed. What the kernel makes by itself (link-local addresses, its routes)
is left alone.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from contextlib import ExitStack
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.ethtool import Ethtool
from pyroute2.netlink import nlmsg
from pyroute2.netlink.exceptions import NetlinkError

from fedsdn import namespace
from fedsdn.config.model import Family
from fedsdn.site.plan import InterfaceAddress, Route, RouteKind, Rule, Veth

_AF: dict[Family, int] = {4: 2, 6: 10}
_FAMILY: dict[int, Family] = {2: 4, 10: 6}
_ROUTE_KINDS = {1: RouteKind.UNICAST, 2: RouteKind.LOCAL, 7: RouteKind.UNREACHABLE}
_SCOPE_LINK = 253
_BY_KERNEL = 2  # RTPROT_KERNEL and, for rules, the same number
_LOCAL_RT_TABLE = 255
_NO_DAD, _NO_PREFIX_ROUTE = 0x02, 0x200
_UP, _NO_ARP = 0x1, 0x80
_ON_LINK = 0x4
_LEARNT = 0x200  # RTM_F_CLONED: an exception to a route, as for a peer behind a smaller MTU
_CHECKSUM = "tx-checksum-ip-generic"
_SEGMENTATION = ("tx-tcp-segmentation", "tx-tcp6-segmentation")


class Network:
    """The network of the host and of a namespace in it. One object per thread (pyroute2)."""

    def __init__(self, name: str) -> None:
        """Open netlink sockets in the calling thread's namespace and in the one called ``name``."""
        self.name = name
        self._stack = ExitStack()
        self._host = self._stack.enter_context(IPRoute())
        self._inside = self._stack.enter_context(IPRoute(netns=name))

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # Links

    def veths(self) -> set[Veth]:
        """Return the wires whose two ends have the same name, are up and are set alike."""
        host = links(self._host)
        found = set()
        for name, inner in links(self._inside).items():
            outer = host.get(name)
            if outer is None or not is_pair(outer, inner) or not _set_alike(outer, inner):
                continue
            offload = self._offload(name)
            if offload is not None:
                mac, mtu = inner.get_attr("IFLA_ADDRESS"), inner.get_attr("IFLA_MTU")
                found.add(Veth(name, mac, mtu, *offload))
        return found

    def apply_veths(self, wanted: Iterable[Veth]) -> bool:
        """Make the wires exactly the wanted ones; say whether anything had to change."""
        target = set(wanted)
        there = self.veths()
        names = {veth.name for veth in target}
        for name, link in links(self._inside).items():
            if name not in names and name != "lo":
                self._inside.link("del", index=link["index"])
        missing = target - there
        for veth in sorted(missing, key=str):
            self._make(veth)
        self._inside.link("set", index=_index(self._inside, "lo"), state="up")
        return bool(missing or there - target)

    def to_be_made_anew(self, wanted: Iterable[Veth]) -> set[str]:
        """Find the wires of which an end is missing or has another MAC."""
        outer, inner = links(self._host), links(self._inside)
        return {
            veth.name
            for veth in wanted
            if not is_pair(outer.get(veth.name), inner.get(veth.name))
            or inner[veth.name].get_attr("IFLA_ADDRESS") != veth.mac
        }

    def _make(self, veth: Veth) -> None:
        if self.to_be_made_anew([veth]):
            delete_link(self._inside, veth.name)
            delete_link(self._host, veth.name)
            self._create(veth)
        for netlink in (self._host, self._inside):
            netlink.link("set", index=_index(netlink, veth.name), mtu=veth.mtu)
        self._set_offload(veth)
        quiet_host_end(veth.name)
        self._host.link("set", index=_index(self._host, veth.name), arp=False, state="up")
        self._inside.link("set", index=_index(self._inside, veth.name), state="up")

    def _create(self, veth: Veth) -> None:
        with (Path("/run/netns") / self.name).open("rb") as target:
            peer = {"ifname": veth.name, "address": veth.mac, "net_ns_fd": target.fileno()}
            self._host.link("add", ifname=veth.name, kind="veth", peer=peer)

    def _offload(self, name: str) -> tuple[bool, bool] | None:
        """Whether both ends leave checksums and segmentation to the other; None if unlike."""
        outer = _offload(name)
        inner = namespace.inside(self.name, lambda: _offload(name))
        return outer if outer == inner else None

    def _set_offload(self, veth: Veth) -> None:
        def change() -> None:
            _set_offload(veth)

        change()
        namespace.inside(self.name, change)

    # Addresses

    def addresses(self) -> set[InterfaceAddress]:
        """Return the addresses inside, but for the loopback's and link-local ones."""
        names = _names(self._inside)
        return {
            InterfaceAddress(
                names[message["index"]],
                ip_interface(f"{message.get_attr('IFA_ADDRESS')}/{message['prefixlen']}"),
            )
            for message in self._inside.get_addr()
            if names[message["index"]] != "lo" and message["scope"] != _SCOPE_LINK
        }

    def apply_addresses(self, wanted: Iterable[InterfaceAddress]) -> bool:
        """Make the addresses exactly the wanted ones; say whether anything had to change."""
        target, there = set(wanted), self.addresses()
        for entry in there - target:
            self._inside.addr("del", **self._address(entry))
        for entry in target - there:
            flags = _NO_PREFIX_ROUTE | (_NO_DAD if entry.address.version == 6 else 0)
            self._inside.addr("add", **self._address(entry), flags=flags)
        return target != there

    def _address(self, entry: InterfaceAddress) -> dict[str, Any]:
        return {
            "index": _index(self._inside, entry.interface),
            "address": str(entry.address.ip),
            "prefixlen": entry.address.network.prefixlen,
        }

    # Routes

    def routes(self) -> set[Route]:
        """Return the routes inside that the kernel did not make by itself."""
        names = _names(self._inside)
        return {
            _route(message, names)
            for family in _AF.values()
            for message in self._inside.get_routes(family=family)
            if message["proto"] != _BY_KERNEL
            and not message["flags"] & _LEARNT
            and message.get_attr("RTA_TABLE") != _LOCAL_RT_TABLE
            and message["type"] in _ROUTE_KINDS
        }

    def apply_routes(self, wanted: Iterable[Route]) -> bool:
        """Make the routes exactly the wanted ones; say whether anything had to change.

        A changed route is replaced in one step: there is no moment without it.
        """
        target, there = set(wanted), self.routes()
        for route in target - there:
            self._inside.route("replace", **self._request(route))
        for route in self.routes() - target:
            self._inside.route("del", **self._request(route))
        return target != there

    def _request(self, route: Route) -> dict[str, Any]:
        request: dict[str, Any] = {
            "family": _AF[route.destination.version],
            "table": route.table,
            "dst": str(route.destination),
            "type": str(route.kind),
        }
        if route.interface is not None:
            request["oif"] = _index(self._inside, route.interface)
            if route.destination.version == 4:
                request["scope"] = _scope(route)
        if route.gateway is not None:
            # The gateway's network is a route of the uplink's table only: no lookup would find it.
            request |= {"gateway": str(route.gateway), "flags": _ON_LINK}
        if route.source is not None:
            request["prefsrc"] = str(route.source)
        return request

    # Rules

    def rules(self) -> set[Rule]:
        """Return the routing rules inside that the kernel did not make by itself."""
        return {
            _rule(message)
            for family in _AF.values()
            for message in self._inside.get_rules(family=family)
            if message.get_attr("FRA_PROTOCOL") != _BY_KERNEL
        }

    def apply_rules(self, wanted: Iterable[Rule]) -> bool:
        """Make the rules exactly the wanted ones; say whether anything had to change."""
        target, there = set(wanted), self.rules()
        for rule in target - there:
            self._inside.rule("add", **_rule_request(rule))
        for rule in there - target:
            self._inside.rule("del", **_rule_request(rule))
        return target != there


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
    with IPRoute(netns=name) as netlink:
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


def _offload(name: str) -> tuple[bool, bool]:
    """Whether an interface leaves checksums, and segmentation of any sort, to its other end."""
    with Ethtool() as ethtool:
        features = ethtool.get_features(name).features
        segmentation = any(features[feature].enable for feature in _SEGMENTATION)
        return bool(features[_CHECKSUM].enable), segmentation


def _set_offload(veth: Veth) -> None:
    with Ethtool() as ethtool:
        features = ethtool.get_features(veth.name)
        features.features[_CHECKSUM].enable = veth.checksum_offload
        for feature in _SEGMENTATION:
            features.features[feature].enable = veth.segmentation_offload
        ethtool.set_features(veth.name, features)


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
    return link is not None and link.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") == "veth"


def _set_alike(outer: nlmsg, inner: nlmsg) -> bool:
    up = outer["flags"] & inner["flags"] & _UP
    same_mtu = outer.get_attr("IFLA_MTU") == inner.get_attr("IFLA_MTU")
    return bool(up and outer["flags"] & _NO_ARP and same_mtu)


def _names(netlink: IPRoute) -> dict[int, str]:
    return {link["index"]: name for name, link in links(netlink).items()}


def _index(netlink: IPRoute, name: str) -> int:
    index: int = netlink.link_lookup(ifname=name)[0]
    return index


def _scope(route: Route) -> str:
    if route.kind is RouteKind.LOCAL:
        return "host"
    return "universe" if route.gateway else "link"


def _route(message: nlmsg, names: dict[int, str]) -> Route:
    family = _FAMILY[message["family"]]
    kind = _ROUTE_KINDS[message["type"]]
    destination = message.get_attr("RTA_DST") or ("0.0.0.0" if family == 4 else "::")
    gateway, source = message.get_attr("RTA_GATEWAY"), message.get_attr("RTA_PREFSRC")
    has_interface = kind is not RouteKind.UNREACHABLE and message.get_attr("RTA_OIF")
    return Route(
        table=message.get_attr("RTA_TABLE"),
        destination=ip_network(f"{destination}/{message['dst_len']}"),
        kind=kind,
        interface=names[message.get_attr("RTA_OIF")] if has_interface else None,
        gateway=ip_address(gateway) if gateway else None,
        source=ip_address(source) if source else None,
    )


def _rule(message: nlmsg) -> Rule:
    source = message.get_attr("FRA_SRC")
    return Rule(
        priority=message.get_attr("FRA_PRIORITY") or 0,
        family=_FAMILY[message["family"]],
        table=message.get_attr("FRA_TABLE"),
        source=ip_address(source) if source else None,
        mark=message.get_attr("FRA_FWMARK"),
    )


def _rule_request(rule: Rule) -> dict[str, Any]:
    request: dict[str, Any] = {
        "family": _AF[rule.family],
        "priority": rule.priority,
        "table": rule.table,
    }
    if rule.source is not None:
        request |= {"src": str(rule.source), "src_len": rule.source.max_prefixlen}
    if rule.mark is not None:
        request["fwmark"] = rule.mark
    return request
