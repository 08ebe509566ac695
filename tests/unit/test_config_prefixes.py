"""Overlaps and look-ups agree with a comparison of everything with everything."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from fedsdn.config.model import Network
from fedsdn.config.prefixes import NetworkIndex, first_overlap, span


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Networks of both families in a space so small that many overlap."""
    last = draw(st.integers(0, 31))
    if draw(st.booleans()):
        return ip_network(f"10.0.0.{last << 3}/{draw(st.integers(24, 32))}", strict=False)
    return ip_network(f"fd00::{last << 3:x}/{draw(st.integers(120, 128))}", strict=False)


def overlap(one: Network, other: Network) -> bool:
    return one.version == other.version and one.overlaps(other)


def compared_in_pairs(every: Sequence[Network]) -> tuple[int, int] | None:
    for position, network in enumerate(every):
        for earlier in range(position):
            if overlap(network, every[earlier]):
                return position, earlier
    return None


@given(st.lists(networks(), max_size=12))
def test_the_first_overlap_is_that_of_a_comparison_in_pairs(every: list[Network]) -> None:
    assert first_overlap(every) == compared_in_pairs(every)
    index = NetworkIndex((span(one), one) for one in every)
    assert index.disjoint == (first_overlap(every) is None)


def test_the_widest_and_narrowest_networks_overlap() -> None:
    every = [ip_network(text) for text in ("10.0.0.1/32", "fd00::/128", "::/0", "0.0.0.0/0")]
    assert first_overlap(every) == (2, 1)
    assert first_overlap(every[::-1]) == (2, 1)
    assert first_overlap(every[:2]) is None


@given(st.lists(networks(), max_size=12), st.data())
def test_an_address_is_found_in_the_network_that_holds_it(
    every: list[Network], data: st.DataObject
) -> None:
    disjoint: list[Network] = []
    for network in every:
        if not any(overlap(network, other) for other in disjoint):
            disjoint.append(network)
    index = NetworkIndex((span(network), f"what belongs to {network}") for network in disjoint)
    last = data.draw(st.integers(0, 255))
    for address in (ip_address(f"10.0.0.{last}"), ip_address(f"fd00::{last:x}")):
        expected = [network for network in disjoint if address in network]
        found = index.find(address)
        assert found == (f"what belongs to {expected[0]}" if expected else None)


def test_nothing_is_found_outside_all_networks() -> None:
    index = NetworkIndex(
        [(span(ip_network("10.0.0.0/24")), "ten"), (span(ip_network("fd00::/64")), "six")]
    )
    assert index.find(ip_address("10.0.0.255")) == "ten"
    assert index.find(ip_address("fd00::ffff")) == "six"
    for address in (
        "9.255.255.255",
        "10.0.1.0",
        "0.0.0.0",
        "255.255.255.255",
        "::",
        "fd00:0:0:1::",
    ):
        assert index.find(ip_address(address)) is None
