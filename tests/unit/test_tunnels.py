"""Which tunnels a site has: both ends agree on every one, and a prefix has one owner on each."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from ipaddress import ip_address
from itertools import product

import pytest

from fedsdn.config.model import Federation, PairEncryption, ProviderNetwork, Site, Uplink
from fedsdn.config.reserved import MOST_UPLINKS, TUNNEL_PORTS
from fedsdn.errors import FinalError
from fedsdn.identity.new import make
from fedsdn.pipeline.declarations import FIRST_UPLINK_TABLE, tunnel_mark
from fedsdn.tunnels import plan
from fedsdn.tunnels.plan import Tunnel, TunnelKind, TunnelPeer, tunnels
from tests.unit.federations import (
    own_identity,
    three_sites,
    two_sites,
    unencrypted,
    uplink,
    with_foreign_proxy,
)

MOST_NAME_BYTES = 15
"""IFNAMSIZ without its end (linux/if.h)."""


def of(federation: Federation, name: str, **options: object) -> tuple[Tunnel, ...]:
    return tunnels(federation, federation.site(name), **options)  # type: ignore[arg-type]


def with_uplinks(federation: Federation, name: str, *uplinks: Uplink) -> Federation:
    sites = (
        replace(site, uplinks=uplinks) if site.name == name else site for site in federation.sites
    )
    return replace(federation, sites=tuple(sites))


def many() -> Federation:
    """Three sites, of which two are behind NAT with several uplinks, in no order of names."""
    federation = with_uplinks(
        three_sites(),
        "a",
        uplink("lte", "10.9.1.1/24", "10.9.1.254", "203.0.113.1"),
        uplink("dsl", "192.0.2.1/24", "192.0.2.254"),
        uplink("abcdefghijk", "2001:db8:2::1/64", "2001:db8:2::ffff"),
    )
    return with_uplinks(
        federation,
        "b",
        uplink("up9", "192.0.2.2/24", "192.0.2.254"),
        uplink("up1", "2001:db8:2::2/64", "2001:db8:2::ffff"),
        uplink("up5", "10.9.2.1/24", "10.9.2.254", "203.0.113.2"),
    )


FEDERATIONS = {
    "two sites": two_sites(),
    "three sites": three_sites(),
    "NAT": many(),
    "unencrypted": unencrypted(three_sites()),
    "both kinds": replace(many(), pairs=(PairEncryption(("b", "a"), "none"),)),
    "another's proxy": with_foreign_proxy(three_sites(), "b"),
}


def ends(federation: Federation) -> dict[tuple[str, str, str, str], tuple[Tunnel, TunnelPeer]]:
    """Both ends of every tunnel, by its own site and uplink and the peer's."""
    return {
        (site.name, tunnel.uplink, peer.site, peer.uplink): (tunnel, peer)
        for site in federation.sites
        for tunnel in tunnels(federation, site)
        for peer in tunnel.peers
    }


@pytest.mark.parametrize("federation", FEDERATIONS.values(), ids=FEDERATIONS)
def test_there_is_a_tunnel_for_each_path(federation: Federation) -> None:
    paths = {
        (site.name, near.name, peer.name, far.name)
        for site, peer in product(federation.sites, repeat=2)
        for near, far in product(site.uplinks, peer.uplinks)
        if site != peer and "socks5" not in {site.proxy, peer.proxy} and near.reaches(far)
    }
    assert ends(federation).keys() == paths


@pytest.mark.parametrize("federation", FEDERATIONS.values(), ids=FEDERATIONS)
def test_both_ends_agree(federation: Federation) -> None:
    every = ends(federation)
    for (site, near, peer, far), (tunnel, other) in every.items():
        back, itself = every[peer, far, site, near]
        assert (tunnel.kind, tunnel.identifier) == (back.kind, back.identifier)
        assert (other.port, other.mac) == (back.port, back.mac)
        assert other.address == next(
            one.peer_address for one in federation.site(peer).uplinks if one.name == far
        )
        assert set(other.prefixes) == {one.network for one in federation.site(peer).prefixes}
        assert itself.next_hop is None or itself.next_hop.is_link_local
        assert tunnel.kind == (
            TunnelKind.VXLAN
            if federation.encryption(site, peer) == "none"
            else TunnelKind.WIREGUARD
        )


@pytest.mark.parametrize("federation", FEDERATIONS.values(), ids=FEDERATIONS)
def test_nothing_is_taken_twice_at_a_site(federation: Federation) -> None:
    for site in federation.sites:
        found = tunnels(federation, site)
        assert len({tunnel.name for tunnel in found}) == len(found)
        assert all(len(tunnel.name) <= MOST_NAME_BYTES for tunnel in found)
        encrypted = [tunnel for tunnel in found if tunnel.kind is TunnelKind.WIREGUARD]
        assert len({tunnel.port for tunnel in encrypted}) == len(encrypted)
        assert {tunnel.slot for tunnel in found} <= set(range(MOST_UPLINKS**2))
        for tunnel in found:
            first = federation.datagrams_port
            assert tunnel.port in range(first, first + TUNNEL_PORTS)
            owners = Counter(prefix for peer in tunnel.peers for prefix in peer.prefixes)
            assert set(owners.values()) <= {1}, "cryptokey routing: one peer for a prefix"


def test_two_sites_have_what_their_file_says() -> None:
    first, second = of(two_sites(), "a")
    (peer,) = first.peers
    assert (first.name, first.uplink, first.port) == ("t1-up1", "up1", 51820)
    assert (second.name, second.uplink, second.port) == ("t2-up2", "up2", 51829)
    assert (peer.site, str(peer.address), peer.port) == ("b", "192.0.2.2", 51820)
    assert peer.key == own_identity("b").identity.tunnel_key
    assert first.path(peer) == (ip_address("192.0.2.1"), ip_address("192.0.2.2"))


def test_the_order_of_a_file_means_nothing() -> None:
    federation = many()
    turned = replace(
        federation,
        sites=tuple(
            replace(site, uplinks=site.uplinks[::-1]) for site in reversed(federation.sites)
        ),
    )
    named = {tunnel.name: tunnel for tunnel in of(federation, "a")}
    for tunnel in of(turned, "a"):
        assert tunnel.port == named[tunnel.name].port
        assert set(tunnel.peers) == set(named[tunnel.name].peers)


def test_the_mark_leads_to_the_uplinks_table() -> None:
    site = many().site("a")
    for tunnel in of(many(), "a"):
        at = [one.name for one in site.uplinks].index(tunnel.uplink)
        assert tunnel.mark == tunnel_mark(at)
    assert tunnel_mark(0) > FIRST_UPLINK_TABLE + MOST_UPLINKS


def test_sessions_are_kept() -> None:
    assert {peer.keepalive for tunnel in of(many(), "a") for peer in tunnel.peers} == {25}


@pytest.mark.parametrize(
    ("federation", "uplink_mtu", "mtus"),
    [
        (two_sites(), 1500, [1440, 1420]),
        (two_sites(), 1400, [1340, 1320]),
        (two_sites(), 1280, [1280, 1280]),
        (unencrypted(two_sites()), 1500, [1450, 1430]),
        (unencrypted(two_sites()), 9000, [8950, 8930]),
    ],
)
def test_a_tunnels_mtu(federation: Federation, uplink_mtu: int, mtus: list[int]) -> None:
    assert [tunnel.mtu(uplink_mtu) for tunnel in of(federation, "a")] == mtus


def site_b(federation: Federation) -> Site:
    return federation.site("b")


def keys(found: tuple[Tunnel, ...]) -> set[bytes]:
    return {peer.key for tunnel in found for peer in tunnel.peers}


def test_the_identity_that_a_peer_uses_counts() -> None:
    old, new = own_identity("b").identity, make("b").identity
    federation = two_sites()
    site = replace(site_b(federation), identities=(old, new))
    federation = replace(federation, sites=(federation.site("a"), site))
    assert keys(of(federation, "a")) == {old.tunnel_key}
    assert keys(of(federation, "a", keys={"b": new.tunnel_key})) == {new.tunnel_key}
    assert keys(of(federation, "a", keys={"b": b"of another"})) == {old.tunnel_key}


def test_a_site_without_identity_has_no_tunnel() -> None:
    federation = two_sites()
    sites = (federation.site("a"), replace(site_b(federation), identities=()))
    assert of(replace(federation, sites=sites), "a") == ()
    plain = replace(unencrypted(federation), sites=sites)
    assert len(of(plain, "a")) == 2, "nothing is to be encrypted"


def test_one_identifier_for_two_paths_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "_VXLAN_IDENTIFIERS", 1)
    with pytest.raises(FinalError) as caught:
        of(unencrypted(two_sites()), "a")
    assert str(caught.value) == (
        "site a: found VXLAN identifier 0 for two paths without encryption, up1 to b/up1 and up2 "
        "to b/up2: give an uplink of one another name, or encrypt that pair"
    )


def test_other_settings_of_a_site_do_not_matter() -> None:
    federation = two_sites()
    other = replace(federation.site("a"), provider_network=ProviderNetwork("br-ex", 7))
    changed = replace(federation, sites=(other, site_b(federation)))
    assert of(changed, "a") == of(federation, "a")
