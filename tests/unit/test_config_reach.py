"""Paths, sites apart and lonely uplinks agree with a comparison of all uplinks in pairs."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from fedsdn.bench import scale
from fedsdn.config.model import ProviderNetwork, Site, Uplink
from fedsdn.config.reach import Reach, all_reach_all


@st.composite
def uplinks(draw: st.DrawFn, name: str) -> Uplink:
    """Uplinks in so few networks of so many lengths that they nest; some routed, some with NAT."""
    host = draw(st.integers(1, 14))
    if draw(st.booleans()):
        address, length = f"192.0.2.{host}", draw(st.sampled_from([0, 16, 24, 28, 29, 30, 32]))
        gateway, public = "192.0.2.15", st.sampled_from(["192.0.2.9", "192.0.2.3", "203.0.113.9"])
    else:
        address, length = f"fd00::{host:x}", draw(st.sampled_from([0, 64, 124, 125, 126, 128]))
        gateway, public = "fd00::f", st.sampled_from(["fd00::9", "fd00::3", "fd01::9"])
    routed = draw(st.integers(0, 3)) == 0
    return Uplink(
        name,
        name,
        ip_interface(f"{address}/{length}"),
        ip_address(gateway) if routed else None,
        # More than the federation file allows: without a gateway, too.
        ip_address(draw(public)) if draw(st.integers(0, 3)) == 0 else None,
    )


@st.composite
def sites(draw: st.DrawFn) -> list[Site]:
    bridge = ProviderNetwork("br-provider")
    return [
        Site(
            f"s{number}",
            bridge,
            (),
            tuple(draw(uplinks(f"up{place}")) for place in range(draw(st.integers(1, 3)))),
        )
        for number in range(draw(st.integers(2, 6)))
    ]


@given(sites())
def test_paths_are_those_of_a_comparison_in_pairs(every: list[Site]) -> None:
    reach = Reach(every)
    for near, far in combinations(range(len(every)), 2):
        assert list(reach.paths(near, far)) == [
            (here, there)
            for here in every[near].uplinks
            for there in every[far].uplinks
            if here.reaches(there)
        ]


@given(sites())
def test_sites_apart_are_those_of_a_comparison_in_pairs(every: list[Site]) -> None:
    assert list(Reach(every).apart()) == [
        (near, far)
        for near, far in combinations(every, 2)
        if not any(here.reaches(there) for here in near.uplinks for there in far.uplinks)
    ]


@given(sites())
def test_lonely_uplinks_are_those_of_a_comparison_in_pairs(every: list[Site]) -> None:
    for position, site in enumerate(every):
        others = [one for peer in every if peer is not site for one in peer.uplinks]
        assert list(Reach(every).unreached(position)) == [
            uplink for uplink in site.uplinks if not any(map(uplink.reaches, others))
        ]


def test_an_uplink_that_a_network_address_translator_is_in_front_of_is_reached_on_link() -> None:
    """Its outside is on our network, and our address on its private one: no group says so."""
    bridge = ProviderNetwork("br-provider")
    own = Uplink("up", "up", ip_interface("192.0.2.1/16"))
    strange = Uplink("up", "up", ip_interface("fd00::1/0"), ip_address("fd00::f"))
    hidden = Uplink(
        "up", "up", ip_interface("192.0.2.1/29"), ip_address("192.0.2.15"), ip_address("192.0.2.9")
    )
    assert own.reaches(hidden)
    every = [
        Site(name, bridge, (), (one,))
        for name, one in zip("abc", (own, strange, hidden), strict=True)
    ]
    kinds = Reach(every).kinds()
    assert kinds[0] != kinds[1]


@given(sites())
def test_sites_of_one_kind_reach_every_third_alike(every: list[Site]) -> None:
    reach = Reach(every)
    kinds = reach.kinds()

    def places(near: int, far: int) -> list[tuple[int, int]]:
        here, there = every[near].uplinks, every[far].uplinks
        return [
            (place, other)
            for place, one in enumerate(here)
            for other, two in enumerate(there)
            if one.reaches(two)
        ]

    for one, other in combinations(range(len(every)), 2):
        if kinds[one] == kinds[other]:
            for third in range(len(every)):
                if third not in {one, other}:
                    assert places(one, third) == places(other, third)


def test_sites_behind_gateways_and_nats_are_of_one_kind() -> None:
    assert set(Reach(scale.federation(20).sites).kinds()) == {0}


@given(sites())
def test_what_is_plain_is_true(every: list[Site]) -> None:
    if all_reach_all(every):
        for near, far in combinations(every, 2):
            for one, other in ((near, far), (far, near)):
                for uplink in one.uplinks:
                    assert any(uplink.reaches(there) for there in other.uplinks)


def test_sites_whose_uplinks_all_have_gateways_reach_all() -> None:
    made = scale.federation(5).sites
    assert all_reach_all(made)
    assert not all_reach_all(made[:1])
