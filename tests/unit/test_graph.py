"""Paths and losses on federations small enough to work out by hand."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface
from itertools import combinations

from fedsdn.config.graph import UplinkId, graph, losses, paths
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
        for loss in losses(federation)
        if loss.is_news
    }


def test_graph_has_sites_uplinks_and_what_reaches_what() -> None:
    whole = graph(two_sites())
    up1, up2, far1, far2 = uplinks("a/up1", "a/up2", "b/up1", "b/up2")
    assert set(whole.nodes) == {"a", "b", up1, up2, far1, far2}
    assert {frozenset(edge) for edge in whole.edges} == {
        frozenset(edge)
        for edge in [
            ("a", up1),
            ("a", up2),
            ("b", far1),
            ("b", far2),
            (up1, far1),
            (up2, far2),
        ]
    }


def test_paths_are_uplinks_that_reach_each_other() -> None:
    assert paths(two_sites()) == {
        ("a", "b"): (uplinks("a/up1", "b/up1"), uplinks("a/up2", "b/up2"))
    }


def test_no_path_leads_through_a_third_site() -> None:
    apart = Federation(
        (
            site("a", up="192.0.2.0/31"),
            site("b", a="192.0.2.1/31", c="192.0.2.2/31"),
            site("c", up="192.0.2.3/31"),
        ),
        1080,
    )
    assert paths(apart)["a", "c"] == ()


def test_every_uplink_and_every_two_are_lost_once() -> None:
    every = uplinks("a/up1", "a/up2", "b/up1", "b/up2")
    assert [loss.uplinks for loss in losses(two_sites())] == [
        *((uplink,) for uplink in every),
        *combinations(every, 2),
    ]


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
    both = next(loss for loss in losses(chain()) if loss.uplinks == uplinks("a/b", "b/c"))
    assert both.cut_off == both.alone == (("a", "b"), ("b", "c"))


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
    assert len(paths(federation)["a", "b"]) == 2
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
