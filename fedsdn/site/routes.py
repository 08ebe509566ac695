"""Routes as netlink has them, thousands at a time (rtnetlink(7)).

A site has routes for each prefix of each peer, and pyroute2 takes a millisecond for one. So routes
are asked for in bytes, and a listed one is the wanted one if it says what the request for it says:
pyroute2 reads the others. Pure code.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from pyroute2.netlink import NLM_F_CREATE, NLM_F_REPLACE
from pyroute2.netlink.rtnl import RTM_NEWROUTE

from fedsdn.site import entries
from fedsdn.site.listed import attribute, attributes, request
from fedsdn.site.values import Route, RouteKind

_ROUTE = struct.Struct("=BBBBBBBBI")
"""``struct rtmsg``: family, lengths of destination and source, tos, table, protocol, scope, type
and flags."""
_NUMBER = struct.Struct("=I")
_EXPIRES = struct.Struct("=4x8xi")
"""Of the attribute with ``struct rta_cacheinfo``."""
_FAMILY = {4: 2, 6: 10}
_KIND = {RouteKind.UNICAST: 1, RouteKind.LOCAL: 2, RouteKind.UNREACHABLE: 7}
_DST, _OIF, _GATEWAY, _PRIORITY, _PREFSRC, _METRICS = 1, 4, 5, 6, 7, 8
_CACHEINFO, _TABLE, _PREF = 12, 15, 20
_MTU = 2
"""RTAX_MTU, in ``_METRICS``."""
_ON_LINK = 0x4
_USUAL = {
    _FAMILY[4]: frozenset[bytes](),
    _FAMILY[6]: frozenset(
        {attribute(_PRIORITY, _NUMBER.pack(entries.METRIC[6])), attribute(_PREF, b"\0")}
    ),
}
"""What the kernel adds to what it was asked for."""

Said = tuple[tuple[int, ...], frozenset[bytes]]
"""What a route's header says, and its attributes."""


def addition(route: Route, indexes: Mapping[str, int]) -> bytes:
    """Write the request to have a route, in place of another one to its destination.

    ``indexes`` are the interfaces' numbers.

    Raises:
        KeyError: the route's interface is not there.

    """
    return request(RTM_NEWROUTE, _written(route, indexes), NLM_F_CREATE | NLM_F_REPLACE)


def wanted(route: Route, indexes: Mapping[str, int]) -> Said | None:
    """Return what ``said`` returns for the route when it is there; None if it cannot be there."""
    if route.interface is not None and route.interface not in indexes:
        return None
    return said(_written(route, indexes))


def said(listed: bytes) -> Said:
    """Return what a listed route says, without what is usual; ``listed`` has no netlink header."""
    family, length, source_length, tos, _, protocol, scope, kind, flags = _ROUTE.unpack_from(listed)
    head = family, length, source_length, tos, protocol, scope, kind, flags & entries.LEARNT
    found = (
        data
        for code, data in attributes(listed[_ROUTE.size :])
        if not (
            (code == _CACHEINFO and _EXPIRES.unpack_from(data) == (0,))
            or (code == _OIF and kind == _KIND[RouteKind.UNREACHABLE])
        )
    )
    return head, frozenset(found) - _USUAL[family]


def table(listed: bytes) -> int:
    """Return the table of a listed route; those above 255 do not fit in its header."""
    for code, data in attributes(listed[_ROUTE.size :]):
        if code == _TABLE:
            (number,) = _NUMBER.unpack_from(data, 4)
            return int(number)
    return int(listed[4])


def _written(route: Route, indexes: Mapping[str, int]) -> bytes:
    network = route.destination
    # The gateway's network is a route of the uplink's table only: no lookup would find it.
    flags = 0 if route.gateway is None else _ON_LINK
    head = _ROUTE.pack(
        *(_FAMILY[network.version], network.prefixlen, 0, 0, 0, entries.STATIC),
        *(entries.scope(route) if network.version == 4 else 0, _KIND[route.kind], flags),
    )
    return head + b"".join(_attributes(route, indexes))


def _attributes(route: Route, indexes: Mapping[str, int]) -> Iterator[bytes]:
    yield attribute(_TABLE, _NUMBER.pack(route.table))
    if route.destination.prefixlen:
        yield attribute(_DST, route.destination.network_address.packed)
    if route.interface is not None:
        yield attribute(_OIF, _NUMBER.pack(indexes[route.interface]))
    if route.gateway is not None:
        yield attribute(_GATEWAY, route.gateway.packed)
    if route.source is not None:
        yield attribute(_PREFSRC, route.source.packed)
    if route.mtu is not None:
        yield attribute(_METRICS, attribute(_MTU, _NUMBER.pack(route.mtu)))
