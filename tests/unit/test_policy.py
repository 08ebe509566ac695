"""Who may connect to whom, and over which uplinks."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from fedsdn.config.model import Federation, Prefix, Uplink
from fedsdn.config.rules import Rule
from fedsdn.errors import FedsdnError
from fedsdn.proxy.admission.policy import (
    NOT_A_PEER,
    Policy,
    Refusal,
)
from fedsdn.proxy.ended.record import Reason
from fedsdn.socket_address import SocketAddress
from tests.unit.federations import (
    three_sites,
    two_sites,
    unencrypted,
    with_foreign_proxy,
    with_source_restore,
)


def policy(federation: Federation | None = None) -> Policy:
    return Policy.at(federation or three_sites(), "a")


def port_80(address: str) -> SocketAddress:
    return SocketAddress(ip_address(address), 80)


def admits(
    peer: str, client: str, destination: str, federation: Federation | None = None
) -> Reason | None:
    at = policy(federation)
    refusal = at.admits(at.federation.site(peer), ip_address(client), port_80(destination))
    assert refusal is None or refusal.peer == peer
    return None if refusal is None else refusal.reason


def opens(client: str, destination: str, federation: Federation | None = None) -> str | Reason:
    found = policy(federation).opens(ip_address(client), port_80(destination))
    return found.reason if isinstance(found, Refusal) else found.name


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
        "fd00:3::11",
    ],
)
def test_a_client_outside_the_peers_prefixes_is_refused(client: str) -> None:
    assert admits("b", client, "10.1.0.11") is Reason.FOREIGN_CLIENT


NO_VMS = [
    *("10.{}.0.0", "10.{}.0.255", "10.{}.0.2", "fd00:{}::", "fd00:{}::2", "::ffff:10.{}.0.11"),
    *("127.0.0.1", "0.0.0.0", "169.254.169.254", "224.0.0.1", "255.255.255.255"),
    *("::", "::1", "::ffff:127.0.0.1", "fe80::1", "ff02::1"),
]
"""Addresses that no VM of the site with this number has: its networks' own, the proxy's, others."""


@pytest.mark.parametrize("address", NO_VMS)
def test_what_no_vm_has_is_neither_client_nor_destination(address: str) -> None:
    there, here = address.format(2), address.format(1)
    vms = ("10.2.0.11", "10.1.0.11") if "." in address else ("fd00:2::11", "fd00:1::11")
    assert admits("b", there, vms[1]) is Reason.PEER_NO_VM
    assert admits("b", vms[0], here) is Reason.PEER_NO_VM
    assert opens(here, vms[0]) is Reason.NO_VM
    assert opens(vms[1], there) is Reason.NO_VM


def test_the_gateway_is_no_vm_if_the_file_names_it() -> None:
    sites = [
        replace(
            site,
            prefixes=tuple(
                replace(one, gateway=one.network.network_address + 1) for one in site.prefixes
            ),
        )
        for site in three_sites().sites
    ]
    named = replace(three_sites(), sites=tuple(sites))
    assert opens("10.1.0.11", "10.2.0.1") == "b"
    assert opens("10.1.0.11", "10.2.0.1", named) is Reason.NO_VM
    assert admits("b", "fd00:2::1", "fd00:1::11", named) is Reason.PEER_NO_VM
    assert admits("b", "10.2.0.11", "10.1.0.1", named) is Reason.PEER_NO_VM


@pytest.mark.parametrize(
    "destination",
    [
        "10.2.0.12",  # the peer's own
        "10.3.0.11",  # another peer's: we are no transit
        "192.0.2.1",  # our uplink
        "10.1.1.11",
        "8.8.8.8",
    ],
)
def test_a_destination_outside_our_prefixes_is_refused(destination: str) -> None:
    assert admits("b", "10.2.0.11", destination) is Reason.FOREIGN_DESTINATION


def test_a_prefix_of_half_of_ipv6_does_not_let_mapped_addresses_in() -> None:
    a, b = two_sites().sites
    half = Prefix(ip_network("::/1"), ip_address("2001:db8:1::2"))
    federation = Federation((replace(a, prefixes=(half,)), b), 1080)
    assert admits("b", "fd00:2::11", "2001:db8:1::1", federation) is None
    assert admits("b", "fd00:2::11", "::ffff:127.0.0.1", federation) is Reason.PEER_NO_VM


@pytest.mark.parametrize(
    ("destination", "peer"),
    [("10.2.0.11", "b"), ("10.3.0.200", "c"), ("fd00:2::11", "b"), ("fd00:3::1", "c")],
)
def test_a_vm_reaches_the_peer_that_has_the_prefix(destination: str, peer: str) -> None:
    assert opens("10.1.0.11" if "." in destination else "fd00:1::11", destination) == peer


@pytest.mark.parametrize("destination", ["10.1.0.12", "10.4.0.1", "192.0.2.2", "8.8.8.8"])
def test_no_peer_has_anything_else(destination: str) -> None:
    assert opens("10.1.0.11", destination) is Reason.UNFEDERATED


@pytest.mark.parametrize("client", ["10.2.0.11", "10.9.0.11", "192.0.2.1"])
def test_nobody_but_a_vm_of_this_site_opens_anything(client: str) -> None:
    assert opens(client, "10.3.0.11") is Reason.UNFEDERATED


RULES = (Rule(("a",), ("b",), ports=(range(80, 81),)), Rule(("b",), (ip_network("10.1.0.11"),)))


def test_what_no_rule_allows_is_refused_at_both_ends() -> None:
    ruled = replace(three_sites(), allow=RULES)
    assert opens("10.1.0.11", "10.2.0.11", ruled) == "b"
    assert opens("10.1.0.11", "10.3.0.11", ruled) is Reason.NO_RULE
    assert admits("b", "10.2.0.11", "10.1.0.11", ruled) is None
    assert admits("b", "10.2.0.11", "10.1.0.12", ruled) is Reason.PEER_NO_RULE
    assert admits("c", "10.3.0.11", "10.1.0.11", ruled) is Reason.PEER_NO_RULE
    refusal = policy(ruled).opens(
        ip_address("10.1.0.11"), SocketAddress(ip_address("10.2.0.11"), 22)
    )
    assert refusal == Refusal(Reason.NO_RULE, "the nearest is allow[0], from a to b, port 80", "b")


def test_what_comes_before_the_rules_is_said_before() -> None:
    ruled = replace(three_sites(), allow=())
    assert opens("10.1.0.11", "10.2.0.255", ruled) is Reason.NO_VM
    assert opens("10.1.0.11", "8.8.8.8", ruled) is Reason.UNFEDERATED
    assert admits("b", "10.3.0.11", "10.1.0.11", ruled) is Reason.FOREIGN_CLIENT


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
    foreign = with_foreign_proxy(three_sites(), "b")
    assert admits("b", "192.0.2.2", "10.1.0.11", foreign) is None
    assert admits("b", "192.0.2.2", "10.1.0.2", foreign) is Reason.NO_VM
    assert admits("b", "192.0.2.2", "10.3.0.11", foreign) is Reason.FOREIGN_DESTINATION
    ruled = replace(foreign, allow=RULES)
    assert admits("b", "192.0.2.2", "10.1.0.11", ruled) is None
    assert admits("b", "192.0.2.2", "10.1.0.12", ruled) is Reason.NO_RULE


def test_what_vms_do_not_see_is_said() -> None:
    assert policy().warnings() == ()
    assert policy(with_source_restore(two_sites(), "nat")).warnings() == ()
    (warning,) = policy(with_source_restore(three_sites(), "none")).warnings()
    assert "connections from b, c come from the proxy (10.1.0.2, fd00:1::2)" in warning
    inwards, outwards = policy(with_foreign_proxy(three_sites(), "c")).unrestored()
    assert "connections from c come from the proxy" in inwards
    assert "VMs of c see connections from here come from their own proxy" in outwards


def test_what_is_not_encrypted_is_said() -> None:
    (foreign,) = policy(with_foreign_proxy(three_sites(), "c")).in_clear()
    assert foreign.endswith("taken for them: c (another's proxy)")
    (plain,) = policy(unencrypted(three_sites())).warnings()
    assert plain.endswith("taken for them: b, c ('encryption: none')")


def test_who_restores_depends_on_the_peer_too() -> None:
    at = policy(with_foreign_proxy(three_sites(), "c"))
    assert at.source_restore(at.federation.site("b")) == "transparent"
    assert at.source_restore(at.federation.site("c")) == "none"
