"""Routes in bytes: a request says what pyroute2 reads in it, and only that is the wanted route."""

from __future__ import annotations

import struct
from itertools import combinations

import pytest
from pyroute2.netlink.rtnl import RTM_NEWROUTE
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from fedsdn.bench import scale
from fedsdn.site import entries, routes
from fedsdn.site.listed import attribute, request
from fedsdn.site.plan import site_plan
from fedsdn.site.values import Route

FEDERATION = scale.federation(4, 4)
WANTED = site_plan(FEDERATION, FEDERATION.sites[0]).routes
NAMES = dict(enumerate(sorted({one.interface for one in WANTED if one.interface}), 7))
INDEXES = {name: number for number, name in NAMES.items()}
HEADER_BYTES = 16


def listed(route: Route) -> bytes:
    """Write a route as the kernel lists it if it adds nothing."""
    return routes.addition(route, INDEXES)[HEADER_BYTES:]


def read(route: bytes) -> Route | entries.Foreign | None:
    message = rtmsg(request(RTM_NEWROUTE, route))
    message.decode()
    return entries.route(message, NAMES)


def test_pyroute2_reads_what_is_asked_for() -> None:
    usual = attribute(6, struct.pack("=I", 1024))  # RTA_PRIORITY, which IPv6 always has
    for route in WANTED:
        there = listed(route) + (usual if route.destination.version == 6 else b"")
        assert read(there) == route
        assert routes.said(there) == routes.wanted(route, INDEXES)


def test_no_two_routes_say_the_same() -> None:
    said = [routes.wanted(route, INDEXES) for route in WANTED]
    assert all(one != other for one, other in combinations(said, 2))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    "more",
    [
        attribute(6, struct.pack("=I", 20)),  # RTA_PRIORITY
        attribute(8, attribute(2, struct.pack("=I", 1300))),  # RTA_METRICS: an MTU
        attribute(12, struct.pack("=IIiIIIII", 0, 0, 600, 0, 0, 0, 0, 0)),  # it expires
        attribute(20, b"\1"),  # RTA_PREF
        attribute(99, b"1234"),
    ],
)
def test_a_route_that_says_more_is_not_the_wanted_one(version: int, more: bytes) -> None:
    for route in (one for one in WANTED if one.destination.version == version):
        assert routes.said(listed(route) + more) != routes.wanted(route, INDEXES)


@pytest.mark.parametrize("place", [1, 2, 3, 5, 6, 7])
def test_nor_is_one_with_another_header(place: int) -> None:
    """Lengths, type of service, protocol, scope and type; the table is an attribute, too."""
    for route in WANTED:
        other = bytearray(listed(route))
        other[place] ^= 1
        assert routes.said(bytes(other)) != routes.wanted(route, INDEXES)


def test_a_route_of_an_interface_that_is_missing_is_not_there() -> None:
    assert {routes.wanted(route, {}) for route in WANTED if route.interface} == {None}
