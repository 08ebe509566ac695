"""What a changed federation file takes away, and what it leaves alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from fedsdn.channel.connection import Direction
from fedsdn.config.model import Federation, Identity, Prefix, ProviderNetwork, Site, SourceRestore
from fedsdn.config.rules import Rule
from fedsdn.identity.new import make
from fedsdn.proxy.admission.carried import Carried, PeerConnection
from fedsdn.proxy.admission.policy import Policy
from fedsdn.proxy.admission.revocation import revoked
from fedsdn.proxy.ended.record import Ended, Reason, Who
from fedsdn.proxy.relay.poller import running_task
from fedsdn.socket_address import SocketAddress
from tests.unit.federations import (
    own_identity,
    three_sites,
    with_foreign_proxy,
    with_provider_network,
    with_source_restore,
)
from tests.unit.loopback import asynchronous, until

OUT, IN = Direction.OUTBOUND, Direction.INBOUND
HERE, THERE, AT_B, HERE6, THERE6 = (
    SocketAddress(ip_address(address), 40000)
    for address in ("10.1.0.11", "10.3.0.11", "10.2.0.11", "fd00:1::11", "fd00:3::11")
)
PATH = ip_address("192.0.2.1"), ip_address("192.0.2.3")

CONNECTIONS = {
    "out": PeerConnection(OUT, "c", HERE, THERE),
    "in": PeerConnection(IN, "c", THERE, HERE),
    "out6": PeerConnection(OUT, "c", HERE6, THERE6),
    "in6": PeerConnection(IN, "c", THERE6, HERE6),
    "unasked": PeerConnection(IN, "c"),
    "b": PeerConnection(OUT, "b", HERE, AT_B),
}
"""Of site a: with c both ways, one that has not said what it wants, and one with b."""

Change = Callable[[Federation], Federation]


def judged(change: Change, before: Federation | None = None) -> dict[str, str]:
    """Return the reasons for which connections are taken away, by name."""
    before = before or three_sites()
    old, new = Policy.at(before, "a"), Policy.at(change(before), "a")
    found = {name: revoked(connection, old, new) for name, connection in CONNECTIONS.items()}
    return {name: reason for name, reason in found.items() if reason is not None}


def changed(name: str, change: Callable[[Site], Site]) -> Change:
    """Return what changes the site of that name."""

    def apply(federation: Federation) -> Federation:
        sites = tuple(change(one) if one.name == name else one for one in federation.sites)
        return replace(federation, sites=sites)

    return apply


def with_identities(*identities: Identity) -> Change:
    return changed("c", lambda site: replace(site, identities=identities))


def test_an_identity_that_is_replaced_without_overlap_ends_what_it_has_proven() -> None:
    old, new = own_identity("c").identity, make("c").identity
    reason = "site c has none of the identities in the federation file that it had before"
    assert judged(with_identities(new)) == dict.fromkeys(CONNECTIONS.keys() - {"b"}, reason)
    assert judged(with_identities(old, new)) == {}
    both = with_identities(old, new)(three_sites())
    assert judged(with_identities(new), both) == {}
    assert judged(with_identities(old), both) == {}
    plain = replace(three_sites(), default_encryption="none")
    assert judged(with_identities(new), plain) == {}, "nothing was proven"


def without_ipv4(site: Site) -> Site:
    return replace(site, prefixes=site.prefixes[1:])


def test_what_the_file_still_allows_is_left_alone() -> None:
    more = Prefix(ip_network("10.9.0.0/24"), ip_address("10.9.0.2"))
    grown = changed("c", lambda site: replace(site, prefixes=(*site.prefixes, more)))
    fewer = changed("c", lambda site: replace(site, uplinks=site.uplinks[1:]))
    for change in (
        lambda federation: federation,
        grown,
        fewer,
        lambda federation: replace(federation, proxy_port=1090),
    ):
        assert judged(change) == {}


def test_a_site_that_is_gone_loses_all_its_connections() -> None:
    gone = judged(lambda federation: replace(federation, sites=federation.sites[:2]))
    assert set(gone) == set(CONNECTIONS) - {"b"}
    assert set(gone.values()) == {"site c is no longer in the federation file"}


@pytest.mark.parametrize(("name", "prefix"), [("a", "10.1.0.0/24"), ("c", "10.3.0.0/24")])
def test_a_prefix_that_is_gone_loses_its_connections(name: str, prefix: str) -> None:
    gone = judged(changed(name, without_ipv4))
    expected = {"out", "in"} | ({"b"} if name == "a" else set())
    assert gone == dict.fromkeys(expected, f"{prefix} is no longer a prefix of site {name}")


def test_of_a_prefix_that_shrinks_the_rest_is_left_alone() -> None:
    def shrink(site: Site, network: str, proxy: str) -> Site:
        small = Prefix(ip_network(network), ip_address(proxy))
        return replace(site, prefixes=(small, site.prefixes[1]))

    assert judged(changed("c", lambda site: shrink(site, "10.3.0.0/25", "10.3.0.2"))) == {}
    gone = judged(changed("c", lambda site: shrink(site, "10.3.0.128/25", "10.3.0.130")))
    assert set(gone) == {"out", "in"}


def test_a_prefix_that_moves_to_another_site_takes_no_connections_along() -> None:
    before = three_sites()
    a, b, c = before.sites
    moved = replace(b, prefixes=(*b.prefixes, c.prefixes[0]))
    gone = judged(lambda _: replace(before, sites=(a, moved, without_ipv4(c))))
    assert gone == dict.fromkeys(("out", "in"), "10.3.0.0/24 is no longer a prefix of site c")


def test_an_address_that_becomes_the_proxys_is_no_vms() -> None:
    def move(site: Site) -> Site:
        prefix = replace(site.prefixes[0], proxy_address=THERE.address)
        return replace(site, prefixes=(prefix, site.prefixes[1]))

    said = "10.3.0.11 is the proxy's address in 10.3.0.0/24 now"
    assert judged(changed("c", move)) == dict.fromkeys(("out", "in"), said)


def ruled(*rules: Rule) -> Change:
    numbered = tuple(replace(rule, place=place) for place, rule in enumerate(rules))
    return lambda federation: replace(federation, allow=numbered)


TO_C, FROM_C = Rule(("a",), ("c",)), Rule(("c",), ("a",))
TO_B = Rule(target=("b",), protocol="tcp")


def test_what_no_rule_allows_any_more_ends_and_the_rest_goes_on() -> None:
    assert judged(ruled(TO_C, FROM_C, TO_B)) == {}
    assert judged(ruled(Rule())) == {}
    gone = judged(ruled(TO_C, TO_B))
    assert gone == dict.fromkeys(("in", "in6"), "no rule allows it")
    before = ruled(TO_B, TO_C, FROM_C)(three_sites())
    said = "no rule allows it any more: until now allow[1] did, from a to c"
    assert judged(ruled(FROM_C, TO_B), before) == dict.fromkeys(("out", "out6"), said)
    assert judged(lambda federation: replace(federation, allow=None), before) == {}


def test_another_rule_for_the_same_ends_nothing() -> None:
    before = ruled(TO_C, FROM_C, TO_B)(three_sites())
    narrower = Rule(("a",), (ip_network("10.3.0.11"), ip_network("fd00:3::11")), "tcp")
    assert judged(ruled(TO_B, FROM_C, narrower), before) == {}
    ports = replace(TO_C, ports=(range(1, 40000),))
    assert set(judged(ruled(TO_B, FROM_C, ports), before)) == {"out", "out6"}


def renumbered(site: Site) -> Site:
    one, two = site.uplinks
    one = replace(one, address=ip_interface("192.0.2.30/24"))
    return replace(site, uplinks=(one, replace(two, address=ip_interface("2001:db8:2::30/64"))))


def test_without_any_of_its_uplinks_a_site_loses_its_connections() -> None:
    gone = judged(changed("c", renumbered))
    assert set(gone) == set(CONNECTIONS) - {"b"}
    assert set(gone.values()) == {"no uplink is left over which site c was reached"}


def test_a_connection_that_is_plain_tcp_ends_with_its_path() -> None:
    before = with_foreign_proxy(three_sites(), "c")
    one = PeerConnection(OUT, "c", HERE, THERE, PATH)
    less = changed("c", lambda site: replace(site, uplinks=site.uplinks[1:]))
    old, new = (Policy.at(one, "a") for one in (before, less(before)))
    assert revoked(one, old, old) is None
    assert revoked(one, old, new) == "site c is no longer reached from 192.0.2.1 to 192.0.2.3"
    assert revoked(replace(one, path=None), old, new) is None
    unknown = ip_address("192.0.2.1"), ip_address("192.0.2.99")
    assert revoked(replace(one, path=unknown), old, new) is None


@pytest.mark.parametrize("was", ["transparent", "nat", "none"])
@pytest.mark.parametrize("becomes", ["transparent", "nat", "none"])
def test_another_way_to_restore_sources_ends_what_it_no_longer_serves(
    was: SourceRestore, becomes: SourceRestore
) -> None:
    gone = judged(
        lambda federation: with_source_restore(federation, becomes),
        with_source_restore(three_sites(), was),
    )
    broken = was not in ("transparent", becomes)
    assert set(gone) == ({"in", "in6"} if broken else set())


def test_another_proxy_address_ends_what_comes_from_it() -> None:
    def move(site: Site) -> Site:
        prefix = replace(site.prefixes[0], proxy_address=ip_address("10.1.0.3"))
        return replace(site, prefixes=(prefix, site.prefixes[1]))

    assert judged(changed("a", move)) == {}
    gone = judged(changed("a", move), with_source_restore(three_sites(), "none"))
    assert gone == {"in": "the proxy's own address is 10.1.0.3 now, no longer 10.1.0.2"}


def test_in_another_network_the_same_addresses_are_other_vms() -> None:
    network = ProviderNetwork("br-provider", 7, "normal")
    gone = judged(lambda federation: with_provider_network(federation, network))
    assert set(gone) == set(CONNECTIONS)
    said = "the provider network is br-provider VLAN 7 now, no longer br-provider untagged"
    assert set(gone.values()) == {said}


def test_a_peer_with_another_proxy_names_no_client() -> None:
    """Its client is the proxy, outside its prefixes; that is no reason."""
    before = Policy.at(with_foreign_proxy(three_sites(), "c"), "a")
    connection = PeerConnection(IN, "c", SocketAddress(ip_address("192.0.2.3"), 1), HERE)
    assert revoked(connection, before, before) is None


@asynchronous
async def test_what_is_reset_is_counted_by_reason_and_the_rest_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept: list[Ended] = []
    carried = Carried(kept.append)
    forever = asyncio.Event()
    running = 0

    async def carry(*known: PeerConnection) -> None:
        nonlocal running
        with carried.carrying(known[0]), carried.carrying(known[-1]):
            running += 1
            try:
                await forever.wait()
            finally:
                running -= 1

    tasks = [asyncio.create_task(carry(CONNECTIONS["out"])) for _ in range(200)]
    tasks += [asyncio.create_task(carry(CONNECTIONS["unasked"], CONNECTIONS["in"]))]
    rest = asyncio.create_task(carry(CONNECTIONS["b"]))
    await until(lambda: running == 202)
    reasons = {OUT: "of c", IN: "to us"}
    count = await carried.reset(lambda one: reasons[one.direction] if one.peer == "c" else None)
    assert (count, running) == (201, 1)
    assert all(task.cancelled() for task in tasks)
    assert [record.getMessage() for record in caplog.records] == [
        "200 connections reset: of c",
        "1 connection reset: to us",
    ]
    assert {(one.reason, one.who, one.peer) for one in kept} == {(Reason.REVOKED, Who.HERE, "c")}
    assert [one.client for one in kept] == [HERE] * 200 + [THERE]
    assert not rest.done()
    forever.set()
    await rest
    assert await carried.reset(lambda _: "any") == 0


@asynchronous
async def test_one_that_cannot_be_judged_is_reset_and_keeps_none_of_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    carried = Carried(lambda _ended: None)

    async def carry(one: PeerConnection) -> None:
        with carried.carrying(one):
            await asyncio.Event().wait()

    def why(one: PeerConnection) -> str | None:
        if one is CONNECTIONS["in"]:
            raise RuntimeError("broken")
        return "of c" if one.peer == "c" else None

    known = [CONNECTIONS[name] for name in ("out", "in", "out6", "b")]
    tasks = [asyncio.create_task(carry(one)) for one in known]
    await asyncio.sleep(0)
    assert await carried.reset(why) == 3
    assert [task.cancelled() for task in tasks] == [True, True, True, False]
    tasks[3].cancel()
    assert "a connection with site c cannot be judged" in caplog.text


@asynchronous
async def test_what_is_said_after_a_vm_has_ended_the_connection_does_not_count() -> None:
    kept: list[Ended] = []
    carried = Carried(kept.append)
    with carried.carrying(CONNECTIONS["out"]):
        carried.note(running_task(), None, Who.VM_HERE)
        carried.note(running_task(), Reason.LOST, Who.PEER)
        carried.end(running_task(), Reason.LOST, Who.PEER)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(0)
    assert kept == []


@asynchronous
async def test_what_is_said_first_of_a_connection_counts() -> None:
    kept: list[Ended] = []
    carried = Carried(kept.append)
    carried.ended(Reason.FAULT, Who.HERE)
    with carried.carrying(CONNECTIONS["unasked"]):
        for _ in range(2):
            with carried.carrying(CONNECTIONS["in"]):
                with carried.carrying(replace(CONNECTIONS["in"], path=PATH)):
                    carried.ended(Reason.SILENT, Who.VM_HERE, "first")
                carried.ended(Reason.FAULT, Who.HERE, "second")
        carried.note(running_task(), Reason.LOST, Who.PEER)  # carries nothing for a VM
    assert [(one.reason, one.detail, one.client) for one in kept] == [
        (Reason.SILENT, "first", THERE)
    ] * 2
