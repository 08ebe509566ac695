"""Who may connect to whom, and over which uplinks."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from fedsdn.config.model import Federation, Prefix, Uplink
from fedsdn.errors import FedsdnError
from fedsdn.proxy.admission.policy import (
    FOREIGN_CLIENT,
    FOREIGN_DESTINATION,
    NOT_A_PEER,
    UNFEDERATED_DESTINATION,
    Policy,
    Refusal,
)
from tests.unit.federations import (
    three_sites,
    two_sites,
    with_foreign_proxy,
    with_source_restore,
)


def policy(federation: Federation | None = None) -> Policy:
    return Policy.at(federation or three_sites(), "a")


def admits(peer: str, client: str, destination: str) -> Refusal | None:
    at = policy()
    return at.admits(at.federation.site(peer), ip_address(client), ip_address(destination))


def test_an_unknown_site_is_an_error() -> None:
    with pytest.raises(FedsdnError, match="unknown site 'x'"):
        Policy.at(two_sites(), "x")


@pytest.mark.parametrize(
    ("address", "peer"),
    [("192.0.2.2", "b"), ("192.0.2.3", "c"), ("2001:db8:2::2", "b"), ("2001:db8:2::3", "c")],
)
def test_a_peer_is_known_by_its_uplinks(address: str, peer: str) -> None:
    assert policy().peer_behind(ip_address(address)) == three_sites().site(peer)


@pytest.mark.parametrize(
    "address",
    [
        "192.0.2.1",  # our own
        "2001:db8:2::1",
        "192.0.2.4",  # nobody's, in the uplink's network
        "10.2.0.11",  # a peer's VM
        "10.2.0.2",  # a peer's proxy address
        "127.0.0.1",
        "::1",
        "::ffff:192.0.2.2",  # callers unmap addresses first
    ],
)
def test_nobody_else_is_a_peer(address: str) -> None:
    assert policy().peer_behind(ip_address(address)) is NOT_A_PEER


def test_a_peer_behind_nat_is_known_by_its_public_address() -> None:
    a, b = two_sites().sites
    hidden = replace(
        b.uplinks[0],
        address=ip_interface("172.16.0.2/24"),
        gateway=ip_address("172.16.0.1"),
        public=ip_address("203.0.113.9"),
    )
    at = policy(Federation((a, replace(b, uplinks=(hidden,))), 1080))
    assert at.peer_behind(ip_address("203.0.113.9")) == at.federation.site("b")
    assert at.peer_behind(ip_address("172.16.0.2")) is NOT_A_PEER


@pytest.mark.parametrize(
    ("client", "destination"),
    [("10.2.0.11", "10.1.0.11"), ("fd00:2::11", "fd00:1::11"), ("10.2.0.1", "10.1.0.254")],
)
def test_a_peers_vm_may_reach_ours(client: str, destination: str) -> None:
    assert admits("b", client, destination) is None


@pytest.mark.parametrize(
    "client",
    [
        "10.3.0.11",  # another peer's
        "10.1.0.12",  # ours
        "192.0.2.2",  # an uplink's
        "10.2.1.11",  # beside the prefix
        "10.2.0.2",  # its proxy address
        "fd00:2::2",
        "fd00:3::11",
        "::ffff:10.2.0.11",
        "127.0.0.1",
        "0.0.0.0",
    ],
)
def test_a_client_outside_the_peers_prefixes_is_refused(client: str) -> None:
    assert admits("b", client, "10.1.0.11") is FOREIGN_CLIENT


@pytest.mark.parametrize(
    "destination",
    [
        "10.2.0.12",  # the peer's own
        "10.3.0.11",  # another peer's: we are no transit
        "192.0.2.1",  # our uplink
        "10.1.0.2",  # our proxy address
        "fd00:1::2",
        "10.1.1.11",
        "127.0.0.1",
        "169.254.169.254",
        "::1",
        "::ffff:10.1.0.11",
        "::ffff:127.0.0.1",
        "8.8.8.8",
    ],
)
def test_a_destination_outside_our_prefixes_is_refused(destination: str) -> None:
    assert admits("b", "10.2.0.11", destination) is FOREIGN_DESTINATION


def test_a_prefix_of_half_of_ipv6_does_not_let_mapped_addresses_in() -> None:
    a, b = two_sites().sites
    half = Prefix(ip_network("::/1"), ip_address("2001:db8:1::2"))
    at = policy(Federation((replace(a, prefixes=(half,)), b), 1080))
    client = ip_address("fd00:2::11")
    assert at.admits(at.federation.site("b"), client, ip_address("2001:db8:1::1")) is None
    mapped = ip_address("::ffff:127.0.0.1")
    assert at.admits(at.federation.site("b"), client, mapped) is FOREIGN_DESTINATION


@pytest.mark.parametrize(
    ("destination", "peer"),
    [("10.2.0.11", "b"), ("10.3.0.200", "c"), ("fd00:2::11", "b"), ("fd00:3::1", "c")],
)
def test_a_vm_reaches_the_peer_that_has_the_prefix(destination: str, peer: str) -> None:
    assert policy().peer_towards(ip_address(destination)) == three_sites().site(peer)


@pytest.mark.parametrize(
    "destination", ["10.1.0.12", "10.4.0.1", "10.2.0.2", "fd00:2::2", "192.0.2.2", "8.8.8.8"]
)
def test_no_peer_has_anything_else(destination: str) -> None:
    assert policy().peer_towards(ip_address(destination)) is UNFEDERATED_DESTINATION


def routed(count: int) -> Federation:
    """Two sites whose uplinks all reach each other."""
    sites = []
    for number, site in enumerate(two_sites().sites, 1):
        uplinks = tuple(
            Uplink(
                f"up{uplink}",
                f"up{uplink}",
                ip_interface(f"192.0.{uplink}.{number}/24"),
                gateway=ip_address(f"192.0.{uplink}.254"),
            )
            for uplink in range(count)
        )
        sites.append(replace(site, uplinks=uplinks))
    return Federation(tuple(sites), 1080)


def paths(federation: Federation, turn: int) -> list[tuple[str, str]]:
    at = policy(federation)
    return [(own.name, far.name) for own, far in at.paths(at.federation.site("b"), turn)]


def test_paths_are_pairs_of_one_family() -> None:
    assert paths(two_sites(), 0) == [("up1", "up1"), ("up2", "up2")]


def test_connections_take_turns_in_what_they_try_first() -> None:
    assert {paths(two_sites(), turn)[0] for turn in range(2)} == {("up1", "up1"), ("up2", "up2")}
    assert len({paths(routed(3), turn)[0] for turn in range(9)}) == 9


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_every_path_is_tried_once_and_no_uplink_twice_while_another_is_untried(count: int) -> None:
    for turn in range(count * count):
        found = paths(routed(count), turn)
        assert len(set(found)) == len(found) == count * count
        assert len({own for own, _ in found[:count]}) == count
        assert len({far for _, far in found[:count]}) == count


def test_a_peer_out_of_reach_has_no_paths() -> None:
    a, b = two_sites().sites
    federation = Federation(
        (replace(a, uplinks=a.uplinks[:1]), replace(b, uplinks=b.uplinks[1:])), 1080
    )
    assert paths(federation, 7) == []


def test_anothers_proxy_may_reach_our_vms_and_nothing_else() -> None:
    """Its clients are not known; what asks is the proxy."""
    at = policy(with_foreign_proxy(three_sites(), "b"))
    peer, proxy = at.federation.site("b"), ip_address("192.0.2.2")
    assert at.admits(peer, proxy, ip_address("10.1.0.11")) is None
    assert at.admits(peer, proxy, ip_address("10.1.0.2")) is FOREIGN_DESTINATION
    assert at.admits(peer, proxy, ip_address("10.3.0.11")) is FOREIGN_DESTINATION


def test_what_vms_do_not_see_is_said() -> None:
    assert policy().warnings() == ()
    assert policy(with_source_restore(two_sites(), "nat")).warnings() == ()
    (warning,) = policy(with_source_restore(three_sites(), "none")).warnings()
    assert "connections from b, c come from the proxy (10.1.0.2, fd00:1::2)" in warning
    inwards, outwards = policy(with_foreign_proxy(three_sites(), "c")).warnings()
    assert "connections from c come from the proxy" in inwards
    assert "VMs of c see connections from here come from their own proxy" in outwards


def test_who_restores_depends_on_the_peer_too() -> None:
    at = policy(with_foreign_proxy(three_sites(), "c"))
    assert at.source_restore(at.federation.site("b")) == "transparent"
    assert at.source_restore(at.federation.site("c")) == "none"
