"""Whose link-layer addresses are known beforehand, and of whom what was learnt is forgotten."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest
from pyroute2.netlink.rtnl import RTM_NEWNEIGH
from pyroute2.netlink.rtnl.ndmsg import ndmsg

from fedsdn.config.model import AddressPair, Federation, Uplink
from fedsdn.errors import FedsdnError
from fedsdn.pipeline.declarations import port_mac, wan_port
from fedsdn.pipeline.on_link import Neighbour, neighbours
from fedsdn.site import neighbours as messages
from fedsdn.site import setup
from fedsdn.site.listed import attribute, request
from fedsdn.uplinks.next_hops import Hop, doubtful, hops, learnt
from tests.unit.federations import (
    orders_of,
    site_with,
    three_sites,
    two_sites,
    uplink,
    with_foreign_proxy,
)

MAC = "02:00:5e:10:00:01"
INDEXES = {"wan-up1": 7, "wan-up2": 8}
HEADER_BYTES = 16


def known(federation: Federation) -> list[str]:
    """Return the neighbours of site a."""
    return [str(one) for one in neighbours(federation, federation.site("a"))]


def with_uplinks(name: str, *uplinks: Uplink) -> Federation:
    federation = two_sites()
    sites = (
        replace(site, uplinks=uplinks) if site.name == name else site for site in federation.sites
    )
    return replace(federation, sites=tuple(sites))


def changed(name: str, **values: Any) -> Federation:  # noqa: ANN401
    """Change the first uplink of a site."""
    first, *others = two_sites().site(name).uplinks
    return with_uplinks(name, replace(first, **values), *others)


def mac(federation: Federation, name: str, number: int) -> str:
    site = federation.site(name)
    return port_mac(site, wan_port(site.uplinks[number]))


def test_peers_on_the_link_have_the_addresses_of_their_own_ports() -> None:
    federation = two_sites()
    there = {veth: mac(federation, "b", number) for number, veth in enumerate(INDEXES)}
    assert known(federation) == [
        f"192.0.2.2 dev wan-up1 lladdr {there['wan-up1']} permanent",
        f"2001:db8:2::2 dev wan-up2 lladdr {there['wan-up2']} permanent",
    ]


def test_each_of_our_uplinks_on_a_link_knows_all_peers() -> None:
    federation = three_sites()
    first, second = federation.sites[0].uplinks
    beside = replace(first, name="x", port="x", address=ip_interface("192.0.2.9/24"))
    site = replace(federation.sites[0], uplinks=(first, second, beside))
    federation = replace(federation, sites=(site, *federation.sites[1:]))
    assert len(known(federation)) == 6
    assert sum("dev wan-x " in one for one in known(federation)) == 2


@pytest.mark.parametrize(
    "federation",
    [
        with_foreign_proxy(two_sites(), "b"),
        changed("b", mac="dynamic"),
        changed("b", address=ip_interface("203.0.113.2/24"), gateway=ip_address("203.0.113.9")),
        changed("b", gateway=ip_address("192.0.2.9"), public=ip_address("192.0.2.8")),
    ],
    ids=["another's proxy", "dynamic", "behind a gateway", "behind a NAT"],
)
def test_of_others_nothing_is_known(federation: Federation) -> None:
    assert not any("192.0.2." in one or "203." in one for one in known(federation))


@pytest.mark.parametrize("federation", [two_sites(), with_foreign_proxy(two_sites(), "b")])
def test_the_federation_file_may_say_it(federation: Federation) -> None:
    site = federation.site("b")
    uplinks = (replace(site.uplinks[0], mac=MAC), site.uplinks[1])
    site = replace(site, uplinks=uplinks)
    federation = replace(federation, sites=(federation.sites[0], site))
    assert known(federation)[0] == f"192.0.2.2 dev wan-up1 lladdr {MAC} permanent"
    assert port_mac(site, "wan-up1") == MAC
    assert port_mac(site, "wan-up2") == port_mac(two_sites().site("b"), "wan-up2")


def test_a_gateway_may_be_known() -> None:
    gateway = ip_address("192.0.2.254")
    assert len(known(changed("a", gateway=gateway))) == 2
    assert known(changed("a", gateway=gateway, gateway_mac=MAC))[-1] == (
        f"192.0.2.254 dev wan-up1 lladdr {MAC} permanent"
    )


# As netlink has them


@pytest.mark.parametrize("number", [0, 1])
def test_pyroute2_reads_what_is_asked_for(number: int) -> None:
    federation = two_sites()
    neighbour = neighbours(federation, federation.site("a"))[number]
    listed = messages.addition(neighbour, INDEXES)[HEADER_BYTES:]
    message = ndmsg(request(RTM_NEWNEIGH, listed))
    message.decode()
    assert message["ifindex"] == INDEXES[neighbour.interface]
    assert message.get_attr("NDA_DST") == str(neighbour.address)
    assert message.get_attr("NDA_LLADDR") == neighbour.mac
    there = listed + attribute(4, bytes(4)) + attribute(3, bytes(16))
    assert messages.is_permanent(there)
    assert messages.said(there) == messages.wanted(neighbour, INDEXES)


def test_a_neighbour_that_says_more_is_not_the_wanted_one() -> None:
    neighbour = Neighbour("wan-up1", ip_address("192.0.2.2"), MAC)
    listed = messages.addition(neighbour, INDEXES)[HEADER_BYTES:]
    flagged = bytearray(listed)
    flagged[10] ^= 0x80  # NTF_ROUTER
    for other in (bytes(flagged), listed + attribute(12, b"\4")):  # NDA_PROTOCOL
        assert messages.said(other) != messages.wanted(neighbour, INDEXES)
    assert messages.wanted(replace(neighbour, interface="gone"), INDEXES) is None


# What is doubted

FIRST, SECOND = uplink("up1", "192.0.2.1/24", "192.0.2.254"), uplink("up2", "2001:db8::1/64")
SITE = site_with(FIRST, SECOND)
FAR, FARTHER, BESIDE = "203.0.113.1", "203.0.113.2", "192.0.2.2"
ROUTER = "192.0.2.254"


def pairs(addresses: list[str]) -> list[AddressPair]:
    return [(FIRST.address.ip, ip_address(address)) for address in addresses]


def at_first(addresses: set[str]) -> frozenset[Hop]:
    return frozenset(("wan-up1", ip_address(address)) for address in addresses)


@pytest.mark.parametrize(
    ("down", "live", "lost", "silent"),
    [
        ([], [FAR, BESIDE], set(), set()),
        ([], [FAR], set(), {BESIDE}),
        ([], [], set(), {ROUTER, BESIDE}),
        ([FAR], [], {ROUTER}, {BESIDE}),
        ([FAR, FARTHER], [BESIDE], {ROUTER}, set()),
        ([FAR], [FARTHER, BESIDE], set(), set()),
        ([FAR, BESIDE], [FARTHER], {BESIDE}, set()),
    ],
)
def test_a_next_hop_is_doubted_when_no_path_through_it_lives(
    down: list[str], live: list[str], lost: set[str], silent: set[str]
) -> None:
    learnt = frozenset(hops(pairs([FAR, FARTHER, BESIDE]), SITE))
    assert learnt == at_first({ROUTER, BESIDE})
    found = doubtful(orders_of(pairs(down), pairs(live)), SITE, learnt)
    assert (found.lost, found.silent) == (at_first(lost), at_first(silent))


def test_what_is_entered_for_good_is_not_learnt() -> None:
    federation = three_sites()
    site = federation.site("a")
    probed = [
        (own.address.ip, remote.peer_address)
        for own, remote in zip(site.uplinks, federation.site("b").uplinks, strict=True)
    ]
    assert learnt(federation, site, probed) == frozenset()
    federation = changed("b", mac="dynamic")
    assert learnt(federation, site, probed) == at_first({BESIDE})


def test_a_path_of_an_uplink_that_is_gone_has_no_next_hop() -> None:
    assert not list(hops(pairs([FAR]), site_with(SECOND)))


def test_an_interface_that_goes_meanwhile_is_one_line_that_ends_nothing() -> None:
    one, *_ = neighbours(two_sites(), two_sites().site("a"))
    with pytest.raises(FedsdnError, match=r"'wan-up1' has gone meanwhile; try again"):
        setup._step(setup.Part.NEIGHBOURS, lambda: bool(messages.addition(one, {})))
