"""Links, addresses, routes, rules and neighbours of the proxy's namespace: read, and made so.

Everything is read into the values of the plan, so that what is there and what is wanted compare;
only the difference is changed. What the kernel makes by itself (link-local addresses, its routes)
is left alone. The namespace is fedsdn's: what anybody else put into it is shown, and removed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink import nlmsg
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import (
    RTM_DELADDR,
    RTM_DELNEIGH,
    RTM_DELROUTE,
    RTM_DELRULE,
    RTM_GETNEIGH,
    RTM_GETROUTE,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
    RTM_NEWRULE,
)
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from fedsdn import namespace
from fedsdn.config.model import Family
from fedsdn.errors import FedsdnError
from fedsdn.pipeline.declarations import TUNNELS_TABLE
from fedsdn.pipeline.on_link import Neighbour
from fedsdn.site import entries, links, neighbours, routes, tun, tunnel_links
from fedsdn.site.entries import Foreign
from fedsdn.site.listed import Listed, list_all, request, send_all
from fedsdn.site.values import InterfaceAddress, Route, Rule, Tun, TunnelLink, Veth

_AF: dict[Family, int] = {family: number for number, family in entries.FAMILY.items()}
_NO_DAD, _NO_PREFIX_ROUTE = 0x02, 0x200
_ROUNDS = 3


class Network:
    """The network of the host and of a namespace in it. One object per thread (pyroute2)."""

    def __init__(self, name: str) -> None:
        """Open netlink sockets in the calling thread's namespace and in the one called ``name``."""
        self.name = name
        self._stack = ExitStack()
        self._host = self._stack.enter_context(IPRoute())
        with namespace.within(name):
            self._inside = self._stack.enter_context(IPRoute())

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _send(self, requests: list[bytes]) -> None:
        if requests:
            namespace.inside(self.name, lambda: send_all(requests))

    # Links

    def interfaces(self) -> set[Veth | Tun | TunnelLink | Foreign]:
        """Return TUN devices, tunnels, and the wires whose two ends are up and set alike.

        What is neither is foreign, but for an end of a wire that is not set as it should be.
        """
        host = links.links(self._host)
        found: set[Veth | Tun | TunnelLink | Foreign] = set()
        for name, inner in links.made_by_somebody(links.links(self._inside)).items():
            outer, device = host.get(name), links.tun(inner) or tunnel_links.read(inner)
            if device is not None:
                found.add(device)
            elif outer is None or not links.is_pair(outer, inner):
                found.add(Foreign(f"{name} ({links.kind(inner)})"))
            elif links.set_alike(outer, inner):
                offload = self._offload(name)
                if offload is not None:
                    mac, mtu = inner.get_attr("IFLA_ADDRESS"), inner.get_attr("IFLA_MTU")
                    found.add(Veth(name, mac, mtu, *offload))
        return found

    def apply_interfaces(
        self, veths: Iterable[Veth], held: Tun, tunnels: Iterable[TunnelLink] = ()
    ) -> bool:
        """Make the interfaces exactly the wanted ones; say whether anything had to change.

        Raises:
            FedsdnError: somebody put hardware into the namespace, or the kernel has no TUN, or
                nothing here speaks WireGuard.

        """
        target: set[Veth | Tun | TunnelLink] = {*veths, held, *tunnels}
        there = self.interfaces()
        names = {one.name for one in target}
        for name, link in links.made_by_somebody(links.links(self._inside)).items():
            if name not in names:
                self._delete_inside(name, link)
        missing = target - there
        for one in sorted(missing, key=str):
            if isinstance(one, Tun):
                self.make_tun(one)
            elif isinstance(one, TunnelLink):
                self._make_tunnel(one)
            else:
                self._make(one)
        self._inside.link("set", index=_index(self._inside, "lo"), state="up")
        return bool(missing or there - target)

    def _delete_inside(self, name: str, link: nlmsg) -> None:
        try:
            links.delete_link(self._inside, name)
        except NetlinkError as error:
            raise FedsdnError(
                f"interface {name} ({links.kind(link)}) in network namespace {self.name} is not "
                f"fedsdn's and cannot be deleted ({os.strerror(error.code)}): take it out, "
                f"'ip -n {self.name} link set {name} netns 1'"
            ) from error

    def to_be_made_anew(self, wanted: Iterable[Veth]) -> set[str]:
        """Find the wires of which an end is missing or has another MAC."""
        outer, inner = links.links(self._host), links.links(self._inside)
        return {
            veth.name
            for veth in wanted
            if not links.is_pair(outer.get(veth.name), inner.get(veth.name))
            or inner[veth.name].get_attr("IFLA_ADDRESS") != veth.mac
        }

    def _make(self, veth: Veth) -> None:
        if self.to_be_made_anew([veth]):
            inner = links.links(self._inside).get(veth.name)
            if inner is not None:
                self._delete_inside(veth.name, inner)
            links.delete_link(self._host, veth.name)
            self._create(veth)
        for netlink in (self._host, self._inside):
            netlink.link("set", index=_index(netlink, veth.name), mtu=veth.mtu)
        self._set_offload(veth)
        links.quiet_host_end(veth.name)
        self._host.link("set", index=_index(self._host, veth.name), arp=False, state="up")
        self._inside.link("set", index=_index(self._inside, veth.name), arp=True, state="up")

    def make_tun(self, wanted: Tun) -> None:
        """Make a TUN device, or set the one that is there as wanted.

        Raises:
            FedsdnError: the kernel has no TUN.

        """
        present = links.links(self._inside).get(wanted.name)
        if present is not None and links.kind(present) != "tun":
            self._delete_inside(wanted.name, present)
        try:
            namespace.inside(self.name, lambda: tun.make(wanted.name))
        except OSError as error:
            if error.errno != errno.EINVAL or present is None:
                raise
            # Of another sort: with one queue, or with a header before each packet.
            links.delete_link(self._inside, wanted.name)
            namespace.inside(self.name, lambda: tun.make(wanted.name))
        index = _index(self._inside, wanted.name)
        self._inside.link("set", index=index, mtu=wanted.mtu, state="up")

    def _make_tunnel(self, wanted: TunnelLink) -> None:
        present = links.links(self._inside).get(wanted.name)
        if present is not None and not tunnel_links.leads_there(present, wanted):
            self._delete_inside(wanted.name, present)
            present = None
        if present is None:
            tunnel_links.create(self._inside, self.name, wanted)
        index = _index(self._inside, wanted.name)
        self._inside.link("set", index=index, mtu=wanted.mtu, state="up")

    def _create(self, veth: Veth) -> None:
        with (Path("/run/netns") / self.name).open("rb") as target:
            peer = {"ifname": veth.name, "address": veth.mac, "net_ns_fd": target.fileno()}
            self._host.link("add", ifname=veth.name, kind="veth", peer=peer)

    def _offload(self, name: str) -> tuple[bool, bool] | None:
        """Whether both ends leave checksums and segmentation to the other; None if unlike."""
        outer = links.offload(name)
        inner = namespace.inside(self.name, lambda: links.offload(name))
        return outer if outer == inner else None

    def _set_offload(self, veth: Veth) -> None:
        links.set_offload(veth)
        namespace.inside(self.name, lambda: links.set_offload(veth))

    # Addresses

    def addresses(self) -> set[InterfaceAddress | Foreign]:
        """Return the addresses inside that the kernel did not give by itself."""
        return self._addresses().things()

    def _addresses(self) -> Listed[InterfaceAddress]:
        names = self._names()
        present = Listed[InterfaceAddress](RTM_DELADDR)
        for message in self._inside.get_addr():
            present.add(entries.address(message, names), message)
        return present

    def apply_addresses(self, wanted: Iterable[InterfaceAddress]) -> bool:
        """Make the addresses exactly the wanted ones; say whether anything had to change."""
        target = set(wanted)
        before = self._addresses()
        self._send(before.removals(target))
        for entry in target - self.addresses():  # the kernel takes an address's secondaries along
            flags = _NO_PREFIX_ROUTE | (_NO_DAD if entry.address.version == 6 else 0)
            self._inside.addr(
                "add",
                index=_index(self._inside, entry.interface),
                address=str(entry.address.ip),
                prefixlen=entry.address.network.prefixlen,
                flags=flags,
            )
        return target != before.things()

    # Routes

    def routes(self, wanted: Iterable[Route] = ()) -> set[Route | Foreign]:
        """Return the routes inside that the kernel did not make by itself.

        Those over the tunnels are the application's, and not among them. Those that are ``wanted``
        are soon read.
        """
        return self._routes(set(wanted)).things()

    def _routes(self, wanted: set[Route]) -> Listed[Route]:
        names = self._names()
        indexes = {name: index for index, name in names.items()}
        known = {routes.wanted(route, indexes): route for route in wanted}
        present = Listed[Route](RTM_DELROUTE)
        for listed in self._list(RTM_GETROUTE):
            if routes.table(listed) == TUNNELS_TABLE:
                continue
            thing: Route | Foreign | None = known.get(routes.said(listed))
            present.take(thing or entries.route(_decoded(listed), names), listed)
        return present

    def _list(self, kind: int) -> list[bytes]:
        return namespace.inside(
            self.name,
            lambda: [one for family in _AF.values() for one in list_all(kind, family)],
        )

    def apply_routes(self, wanted: Iterable[Route]) -> bool:
        """Make the routes exactly the wanted ones; say whether anything had to change.

        A changed route is replaced in one step: there is no moment without it.
        """
        target = set(wanted)
        present = self._routes(target)
        there = present.things()
        missing = target - there
        if missing:
            indexes = {name: index for index, name in self._names().items()}
            additions = [routes.addition(route, indexes) for route in missing]
            namespace.inside(self.name, lambda: send_all(additions, unless=frozenset()))
            present = self._routes(target)
        self._send(present.removals(target))
        return target != there

    # Rules

    def rules(self) -> set[Rule | Foreign]:
        """Return the routing rules inside that the kernel did not make by itself."""
        return self._rules().things()

    def _rules(self) -> Listed[Rule]:
        present = Listed[Rule](RTM_DELRULE)
        for family in _AF.values():
            for message in self._inside.get_rules(family=family):
                present.add(entries.rule(message), message)
        return present

    def apply_rules(self, wanted: Iterable[Rule]) -> bool:
        """Make the rules exactly the wanted ones; say whether anything had to change."""
        target = set(wanted)
        before = self._rules()
        for _ in range(_ROUNDS):
            present = self._rules()
            for rule in target - present.things():
                self._add_rule(rule)
            # What a rule does not say is not compared: the kernel may take one that says more.
            self._send(present.removals(target))
            self._send(before.lost(self._rules(), RTM_NEWRULE))
            if self.rules() == target:
                break
        return target != before.things()

    def _add_rule(self, rule: Rule) -> None:
        try:
            self._inside.rule("add", **_rule_request(rule))
        except NetlinkError as error:
            if error.code != errno.EEXIST:  # a foreign one that says more: added once that is gone
                raise

    # Neighbours

    def neighbours(self, wanted: Iterable[Neighbour] = ()) -> set[Neighbour | Foreign]:
        """Return the neighbours that are entered for good.

        Those that are ``wanted`` are soon read; any other is foreign.
        """
        return self._neighbours(set(wanted)).things()

    def _neighbours(self, wanted: set[Neighbour]) -> Listed[Neighbour]:
        names = self._names()
        indexes = {name: index for index, name in names.items()}
        known = {neighbours.wanted(one, indexes): one for one in wanted}
        present = Listed[Neighbour](RTM_DELNEIGH)
        for listed in filter(neighbours.is_permanent, self._list(RTM_GETNEIGH)):
            ours = known.get(neighbours.said(listed))
            present.take(ours or entries.neighbour(_decoded_neighbour(listed), names), listed)
        return present

    def apply_neighbours(self, wanted: Iterable[Neighbour]) -> bool:
        """Make the neighbours exactly the wanted ones; say whether anything had to change.

        What the kernel has learnt of others stays: it is not for good.
        """
        target = set(wanted)
        present = self._neighbours(target)
        there = present.things()
        if missing := target - there:
            indexes = {name: index for index, name in self._names().items()}
            additions = [neighbours.addition(one, indexes) for one in missing]
            namespace.inside(self.name, lambda: send_all(additions, unless=frozenset()))
            present = self._neighbours(target)
        self._send(present.removals(target))
        return target != there

    def _names(self) -> dict[int, str]:
        return {link["index"]: name for name, link in links.links(self._inside).items()}


def _decoded(listed: bytes) -> rtmsg:
    """Have pyroute2 read a listed route."""
    message = rtmsg(request(RTM_NEWROUTE, listed))
    message.decode()
    return message


def _decoded_neighbour(listed: bytes) -> ndmsg:
    """Have pyroute2 read a listed neighbour."""
    message = ndmsg(request(RTM_NEWNEIGH, listed))
    message.decode()
    return message


def _index(netlink: IPRoute, name: str) -> int:
    index: int = netlink.link_lookup(ifname=name)[0]
    return index


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
    if rule.mask is not None:
        request["fwmask"] = rule.mask
    if rule.by_kernel:
        request["protocol"] = entries.BY_KERNEL
    return request
