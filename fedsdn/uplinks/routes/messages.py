"""Next hops, groups and routes as rtnetlink(7) has them; no sockets.

Source: Linux ``include/uapi/linux/nexthop.h``, ``rtnetlink.h``, ``if_link.h``. The groups are
resilient ones: a flow stays on its path when another one comes or goes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address, ip_network

from pyroute2.netlink import NLA_F_NESTED, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST
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
)

RTM_NEWNEXTHOP, RTM_DELNEXTHOP, RTM_GETNEXTHOP = 104, 105, 106

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
_UNICAST, _STATIC = 1, 4
_LEARNT = 0x200
"""Flag of an exception to a route (``RTM_F_CLONED``)."""
_METRIC = 1024
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
    match change:
        case SetHop(hop):
            return _set(RTM_NEWNEXTHOP, _hop(hop))
        case SetGroup(number, hops):
            return _set(RTM_NEWNEXTHOP, _group(number, hops))
        case DropHop(number) | DropGroup(number):
            named = _NEXT_HOP.pack(0, 0, 0, 0) + _number(_NHA_ID, number)
            return _message(RTM_DELNEXTHOP, named)
        case SetRoute(prefix, route):
            return _set(RTM_NEWROUTE, _route(prefix, route, table))
        case DropRoute(prefix, route):
            return _message(RTM_DELROUTE, _route(prefix, route, table))


def _set(kind: int, body: bytes) -> bytes:
    return _message(kind, body, NLM_F_CREATE | NLM_F_REPLACE)


def _message(kind: int, body: bytes, flags: int = 0) -> bytes:
    length = HEADER.size + len(body)
    return HEADER.pack(length, kind, NLM_F_REQUEST | NLM_F_ACK | flags, 1, 0) + body


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
    for message in hops:
        named = unpack_attributes(memoryview(message)[_NEXT_HOP.size :])
        (number,) = _NUMBER.unpack(named[_NHA_ID])
        if _NHA_GROUP in named:
            members = _MEMBER.iter_unpack(named[_NHA_GROUP])
            resilient = named.get(_NHA_GROUP_TYPE) == _SHORT.pack(_RESILIENT)
            groups[number] = frozenset(one for one, _ in members) if resilient else frozenset()
        elif number >= FIRST_HOP:
            found[number] = _read_hop(number, named)
    of_table = filter(None, (_read_route(message, table) for message in routes))
    return Present(found, groups, dict(of_table))


def _read_hop(number: int, named: Attributes) -> Hop:
    interface = _NUMBER.unpack(named[_NHA_OIF])[0] if _NHA_OIF in named else 0
    gateway = bytes(named.get(_NHA_GATEWAY, b""))
    return Hop(interface, 6 if number % 2 else 4, IPv6Address(gateway) if len(gateway) == 16 else None)


def _read_route(message: bytes, table: int) -> tuple[Network, Route] | None:
    family, length, *_, flags = _ROUTE.unpack_from(message)
    named = unpack_attributes(memoryview(message)[_ROUTE.size :])
    if family not in _VERSION or _ROUTE_HOP not in named or flags & _LEARNT:
        return None
    if named.get(_TABLE) != _NUMBER.pack(table):
        return None
    octets = 4 if _VERSION[family] == 4 else 16
    prefix = ip_network((bytes(named.get(_DST, bytes(octets))), length))
    source = ip_address(bytes(named[_PREFSRC])) if _PREFSRC in named else None
    return prefix, Route(_NUMBER.unpack(named[_ROUTE_HOP])[0], source)
