"""Paths and losses on federations small enough to work out by hand."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from fedsdn.config.graph import UplinkId, paths
from fedsdn.config.losses import Losses
from fedsdn.config.model import Federation, ProviderNetwork, Site, Uplink
from tests.unit.federations import three_sites, two_sites


def uplinks(*names: str) -> tuple[UplinkId, ...]:
    return tuple(UplinkId(*name.split("/")) for name in names)


def site(name: str, **addresses: str) -> Site:
    found = tuple(Uplink(up, up, ip_interface(address)) for up, address in addresses.items())
    return Site(name, ProviderNetwork("br-provider"), (), found)


def chain() -> Federation:
    """Three wires between three sites: a and b have one of their own, as do b and c, a and c."""
    return Federation(
        (
            site("a", b="192.0.2.1/31", c="192.0.2.2/31"),
            site("b", a="192.0.2.0/31", c="192.0.2.4/31"),
            site("c", a="192.0.2.3/31", b="192.0.2.5/31"),
        ),
        1080,
    )


def cuts(federation: Federation) -> dict[str, str]:
    """Losses that cut off more than smaller ones do, as 'a/up1 b/up1': 'ab ac'."""
    return {
        " ".join(map(str, loss.uplinks)): " ".join(map("".join, loss.cut_off))
        for loss in Losses(federation)
    }


def test_paths_are_uplinks_that_reach_each_other() -> None:
    assert list(paths(two_sites())) == [
        (("a", "b"), (uplinks("a/up1", "b/up1"), uplinks("a/up2", "b/up2")))
    ]


def test_no_path_leads_through_a_third_site() -> None:
    apart = Federation(
        (
            site("a", up="192.0.2.0/31"),
            site("b", a="192.0.2.1/31", c="192.0.2.2/31"),
            site("c", up="192.0.2.3/31"),
        ),
        1080,
    )
    assert dict(paths(apart))["a", "c"] == ()


@st.composite
def federations(draw: st.DrawFn) -> Federation:
    """Sites on one wire that joins all, and on up to three others, perhaps twice on the same."""
    sites = []
    for number, name in enumerate("abcd"[: draw(st.integers(2, 4))], start=1):
        wires = draw(st.lists(st.integers(1, 3), max_size=3))
        addresses = {
            f"up{place}": f"10.0.{wire}.{16 * number + place}/24"
            for place, wire in enumerate((0, *wires))
        }
        sites.append(site(name, **addresses))
    return Federation(tuple(sites), 1080)


@given(federations())
def test_losses_are_those_of_losing_every_one_and_every_two_uplinks(federation: Federation) -> None:
    every = [UplinkId(site.name, up.name) for site in federation.sites for up in site.uplinks]
    between = dict(paths(federation))

    def cut_off(*lost: UplinkId) -> tuple[tuple[str, str], ...]:
        return tuple(
            pair
            for pair, joined in between.items()
            if all(any(end in lost for end in path) for path in joined)
        )

    expected = []
    for lost in (*((one,) for one in every), *combinations(every, 2)):
        alone = {pair for one in lost for pair in cut_off(one)} if len(lost) == 2 else set()
        if pairs := cut_off(*lost):
            expected.append((lost, pairs, tuple(pair for pair in pairs if pair in alone)))
    losses = Losses(federation)
    assert [(loss.uplinks, loss.cut_off, loss.alone) for loss in losses] == [
        (lost, pairs, alone) for lost, pairs, alone in expected if pairs != alone
    ]
    assert [losses.one, losses.two] == [
        sum(len(lost) == count for lost, _, _ in expected) for count in (1, 2)
    ]
    assert losses.paths == sum(map(len, between.values()))


def test_two_sites_stand_one_loss_and_not_two_on_different_wires() -> None:
    assert cuts(two_sites()) == {
        "a/up1 a/up2": "ab",
        "a/up1 b/up2": "ab",
        "a/up2 b/up1": "ab",
        "b/up1 b/up2": "ab",
    }


def test_three_wires_stand_any_two_losses() -> None:
    near = {f"up{wire}": f"192.0.{wire}.1/24" for wire in (1, 2, 3)}
    far = {f"up{wire}": f"192.0.{wire}.2/24" for wire in (1, 2, 3)}
    assert cuts(Federation((site("a", **near), site("b", **far)), 1080)) == {}


def test_a_site_on_two_shared_wires_loses_all_others_with_both() -> None:
    assert cuts(three_sites()) == {
        "a/up1 a/up2": "ab ac",
        "a/up1 b/up2": "ab",
        "a/up1 c/up2": "ac",
        "a/up2 b/up1": "ab",
        "a/up2 c/up1": "ac",
        "b/up1 b/up2": "ab bc",
        "b/up1 c/up2": "bc",
        "b/up2 c/up1": "bc",
        "c/up1 c/up2": "ac bc",
    }


def test_single_wires_break_with_either_end_and_two_losses_add_nothing() -> None:
    assert cuts(chain()) == {
        "a/b": "ab",
        "a/c": "ac",
        "b/a": "ab",
        "b/c": "bc",
        "c/a": "ac",
        "c/b": "bc",
    }
    assert (Losses(chain()).one, Losses(chain()).two) == (6, 15)


def test_gateways_join_every_uplink_of_a_family() -> None:
    """Two at a, one at b: only b's uplink is a single point of failure."""

    def routed(name: str, network: int) -> Uplink:
        own = f"10.0.{network}"
        return Uplink(name, name, ip_interface(f"{own}.1/24"), ip_address(f"{own}.254"))

    bridge = ProviderNetwork("br-provider")
    federation = Federation(
        (
            Site("a", bridge, (), (routed("x", 1), routed("y", 2))),
            Site("b", bridge, (), (routed("z", 3),)),
        ),
        1080,
    )
    assert len(dict(paths(federation))["a", "b"]) == 2
    assert cuts(federation) == {"b/z": "ab", "a/x a/y": "ab"}


def test_uplinks_that_only_share_a_private_network_do_not_reach() -> None:
    """Two sites behind different NATs may both be in 192.168.1.0/24."""
    here = Uplink("x", "x", ip_interface("192.168.1.2/24"), ip_address("192.168.1.1"))
    there = Uplink("y", "y", ip_interface("192.168.1.3/24"), None, public=ip_address("203.0.113.9"))
    assert not here.reaches(there)


def test_reaching_is_mutual() -> None:
    """192.0.2.1 takes 192.0.2.9 for on-link, which does not answer on-link."""
    wide = Uplink("x", "x", ip_interface("192.0.2.1/24"))
    narrow = Uplink("y", "y", ip_interface("192.0.2.9/29"))
    assert not wide.reaches(narrow)
    assert not narrow.reaches(wide)
