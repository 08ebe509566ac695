"""Next hops, groups and routes as rtnetlink(7) has them; no sockets.

Source: Linux ``include/uapi/linux/nexthop.h``, ``rtnetlink.h``, ``if_link.h``. The groups are
resilient ones: a flow stays on its path when another one comes or goes. (Where there was one path
alone, the kernel does not know in IPv4 which flows have paused, and moves half of them at once.)
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network

from pyroute2.netlink import (
    NLA_F_NESTED,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
)
from pyroute2.netlink.rtnl import (
    RTM_DELROUTE,
    RTM_GETLINK,
    RTM_GETROUTE,
    RTM_NEWROUTE,
)

from fedsdn.config.model import Family, Network
from fedsdn.mptcp.netlink import HEADER, Attributes, pack_attribute, unpack_attributes
from fedsdn.uplinks.routes.groups import (
    FIRST_HOP,
    Change,
    DropForeign,
    DropGroup,
    DropHop,
    DropRoute,
    Hop,
    Interface,
    Present,
    Route,
    SetGroup,
    SetHop,
    SetRoute,
    SetUnreachable,
)

RTM_NEWNEXTHOP, RTM_DELNEXTHOP, RTM_GETNEXTHOP = 104, 105, 106
_SETS = frozenset({RTM_NEWNEXTHOP, RTM_NEWROUTE})
_SET = NLM_F_CREATE | NLM_F_REPLACE

MOVE_IDLE_SECONDS = 1
"""Flows that have paused for so long move to a path that has returned: nothing overtakes anything
there, as a path takes less."""

MOVE_ALL_SECONDS = 10
"""After so long flows without pauses move to it too."""

_BUCKETS = 128
"""Of a group: each flow has its place in one, and each bucket a next hop."""
_TICKS = 100
"""The kernel's times are in hundredths of a second (``USER_HZ``)."""

_NEXT_HOP = struct.Struct("=BBBxI")
"""``struct nhmsg``: family, scope, protocol, flags."""
_MEMBER = struct.Struct("=IBxxx")
"""``struct nexthop_grp``: identifier, weight less 1."""
_ROUTE = struct.Struct("=BBBBBBBBI")
"""``struct rtmsg``: family, lengths of destination and source, tos, table, protocol, scope, type
and flags."""
_LINK = struct.Struct("=BxHiII")
"""``struct ifinfomsg``: family, type, index, flags, change."""
_NUMBER, _SHORT = struct.Struct("=I"), struct.Struct("=H")

_FAMILY: dict[Family, int] = {4: 2, 6: 10}
_VERSION = {number: family for family, number in _FAMILY.items()}
_NHA_ID, _NHA_GROUP, _NHA_GROUP_TYPE, _NHA_OIF, _NHA_GATEWAY, _NHA_RES_GROUP = 1, 2, 3, 5, 6, 12
_RES_BUCKETS, _RES_IDLE_TIMER, _RES_UNBALANCED_TIMER = 1, 2, 3
_RESILIENT = 1
_DST, _PRIORITY, _PREFSRC, _TABLE, _ROUTE_HOP = 1, 6, 7, 15, 30
_FROM_NEXT_HOP = frozenset({4, 5, 9, 18, 21, 22})
"""RTA_OIF, RTA_GATEWAY, RTA_MULTIPATH, RTA_VIA, RTA_ENCAP_TYPE and RTA_ENCAP."""
_UNICAST, _UNREACHABLE, _STATIC = 1, 7, 4
_LEARNT = 0x200
"""Flag of an exception to a route (``RTM_F_CLONED``)."""
_METRIC = 1024
_REMEMBERED = 1 << 15
"""Routes of which is kept what they say: thousands are listed again and again as they were."""
_IFNAME, _MTU = 3, 4
_UP, _LOWER_UP = 0x1, 0x10000
_LEAST_MTU: dict[Family, int] = {4: 68, 6: 1280}
"""The kernel takes an IP version off an interface whose MTU is smaller (RFC 791, RFC 8200)."""


def dump(kind: int) -> bytes:
    """Write the request to list everything of a kind (RTM_GETLINK, …)."""
    body = {
        RTM_GETLINK: _LINK.pack(0, 0, 0, 0, 0),
        RTM_GETNEXTHOP: _NEXT_HOP.pack(0, 0, 0, 0),
        RTM_GETROUTE: _ROUTE.pack(*[0] * 9),
    }[kind]
    return HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + body


def request(change: Change, table: int) -> bytes:
    """Write the request to make a change, to be acknowledged; routes are those of a table."""
    kind, body = _asked(change, table)
    flags = NLM_F_REQUEST | NLM_F_ACK | (_SET if kind in _SETS else 0)
    return HEADER.pack(HEADER.size + len(body), kind, flags, 1, 0) + body


def _asked(change: Change, table: int) -> tuple[int, bytes]:
    match change:
        case SetHop(hop):
            asked = RTM_NEWNEXTHOP, _hop(hop)
        case SetGroup(number, hops):
            asked = RTM_NEWNEXTHOP, _group(number, hops)
        case DropHop(number) | DropGroup(number):
            asked = RTM_DELNEXTHOP, _NEXT_HOP.pack(0, 0, 0, 0) + _number(_NHA_ID, number)
        case SetRoute(prefix, route):
            asked = RTM_NEWROUTE, _route(prefix, route, table)
        case DropRoute(prefix, route):
            asked = RTM_DELROUTE, _route(prefix, route, table)
        case SetUnreachable(family):
            asked = RTM_NEWROUTE, _unreachable(family, table)
        case DropForeign(listed):
            asked = RTM_DELROUTE, _named(listed)
    return asked


def _number(kind: int, value: int) -> bytes:
    return pack_attribute(kind, _NUMBER.pack(value))


def _hop(hop: Hop) -> bytes:
    family = 6 if hop.gateway else hop.family
    named = _number(_NHA_ID, hop.number) + _number(_NHA_OIF, hop.interface)
    if hop.gateway:
        named += pack_attribute(_NHA_GATEWAY, hop.gateway.packed)
    return _NEXT_HOP.pack(_FAMILY[family], 0, _STATIC, 0) + named


def _group(number: int, hops: Iterable[int]) -> bytes:
    settings = (
        pack_attribute(_RES_BUCKETS, _SHORT.pack(_BUCKETS))
        + _number(_RES_IDLE_TIMER, MOVE_IDLE_SECONDS * _TICKS)
        + _number(_RES_UNBALANCED_TIMER, MOVE_ALL_SECONDS * _TICKS)
    )
    return (
        _NEXT_HOP.pack(0, 0, _STATIC, 0)
        + _number(_NHA_ID, number)
        + pack_attribute(_NHA_GROUP, b"".join(_MEMBER.pack(hop, 0) for hop in sorted(hops)))
        + pack_attribute(_NHA_GROUP_TYPE, _SHORT.pack(_RESILIENT))
        + pack_attribute(_NHA_RES_GROUP | NLA_F_NESTED, settings)
    )


def _route(prefix: Network, route: Route, table: int) -> bytes:
    family, length = _FAMILY[prefix.version], prefix.prefixlen
    source = pack_attribute(_PREFSRC, route.source.packed) if route.source else b""
    return (
        _ROUTE.pack(family, length, 0, 0, 0, _STATIC, 0, _UNICAST, 0)
        + _number(_TABLE, table)
        + pack_attribute(_DST, prefix.network_address.packed)
        + _number(_PRIORITY, _METRIC)
        + source
        + _number(_ROUTE_HOP, route.group)
    )


def _unreachable(family: Family, table: int) -> bytes:
    head = _ROUTE.pack(_FAMILY[family], 0, 0, 0, 0, _STATIC, 0, _UNREACHABLE, 0)
    return head + _number(_TABLE, table) + _number(_PRIORITY, _METRIC)


def _named(listed: bytes) -> bytes:
    """Name a listed route: one with a next-hop object without what follows from that."""
    named = unpack_attributes(memoryview(listed)[_ROUTE.size :])
    derived = _FROM_NEXT_HOP if _ROUTE_HOP in named else frozenset[int]()
    kept = (
        pack_attribute(kind, bytes(value)) for kind, value in named.items() if kind not in derived
    )
    return listed[: _ROUTE.size] + b"".join(kept)


def read_interfaces(listed: Iterable[bytes]) -> dict[str, Interface]:
    """Read the interfaces that are up, by name, of what RTM_GETLINK lists."""
    found = {}
    for message in listed:
        _, _, number, flags, _ = _LINK.unpack_from(message)
        named = unpack_attributes(memoryview(message)[_LINK.size :])
        if flags & _UP and flags & _LOWER_UP:
            (mtu,) = _NUMBER.unpack(named[_MTU])
            families = frozenset(one for one, least in _LEAST_MTU.items() if mtu >= least)
            name = bytes(named[_IFNAME]).rstrip(b"\0").decode()
            found[name] = Interface(number, families)
    return found


def read_present(hops: Iterable[bytes], routes: Iterable[bytes], table: int) -> Present:
    """Read what RTM_GETNEXTHOP and RTM_GETROUTE list; only routes of a table count."""
    found: dict[int, Hop] = {}
    groups: dict[int, frozenset[int]] = {}
    taken: set[int] = set()
    for message in hops:
        named = unpack_attributes(memoryview(message)[_NEXT_HOP.size :])
        (number,) = _NUMBER.unpack(named[_NHA_ID])
        if _NHA_GROUP in named:
            members = _MEMBER.iter_unpack(named[_NHA_GROUP])
            resilient = bytes(named.get(_NHA_GROUP_TYPE, b"")) == _SHORT.pack(_RESILIENT)
            groups[number] = frozenset(one for one, _ in members) if resilient else frozenset()
        elif number >= FIRST_HOP:
            found[number] = _read_hop(number, named)
        else:
            taken.add(number)
    present = Present(found, groups, taken=frozenset(taken))
    return _with_routes(present, routes, table)


def _with_routes(present: Present, listed: Iterable[bytes], table: int) -> Present:
    routes: dict[Network, Route] = {}
    unreachable: set[Family] = set()
    foreign: set[bytes] = set()
    for message in listed:
        match _meaning(message, table):
            case (prefix, route):
                routes[prefix] = route
            case int(family):
                unreachable.add(family)
            case bytes():
                foreign.add(message)
    return replace(
        present, routes=routes, unreachable=frozenset(unreachable), foreign=frozenset(foreign)
    )


@lru_cache(_REMEMBERED)
def _meaning(message: bytes, table: int) -> tuple[Network, Route] | Family | bytes | None:
    """Return a route of ours, the IP version of what is unreachable, or what somebody else has.

    None if it is not of the table.
    """
    family, length, _, _, _, protocol, _, kind, flags = _ROUTE.unpack_from(message)
    named = unpack_attributes(memoryview(message)[_ROUTE.size :])
    of_table = bytes(named.get(_TABLE, b"")) == _NUMBER.pack(table)
    if family not in _VERSION or not of_table or flags & _LEARNT:
        return None
    ours = protocol == _STATIC and bytes(named.get(_PRIORITY, b"")) == _NUMBER.pack(_METRIC)
    if ours and kind == _UNICAST and _ROUTE_HOP in named:
        return _prefix(family, length, named), _read_route(named)
    if ours and kind == _UNREACHABLE and not length:
        return _VERSION[family]
    return message


def _prefix(family: int, length: int, named: Attributes) -> Network:
    octets = 4 if _VERSION[family] == 4 else 16
    return ip_network((bytes(named.get(_DST, bytes(octets))), length))


def _read_route(named: Attributes) -> Route:
    source = ip_address(bytes(named[_PREFSRC])) if _PREFSRC in named else None
    return Route(_NUMBER.unpack(named[_ROUTE_HOP])[0], source)


def _read_hop(number: int, named: Attributes) -> Hop:
    interface = _NUMBER.unpack(named[_NHA_OIF])[0] if _NHA_OIF in named else 0
    gateway = bytes(named.get(_NHA_GATEWAY, b""))
    return Hop(
        interface, 6 if number % 2 else 4, IPv6Address(gateway) if len(gateway) == 16 else None
    )
