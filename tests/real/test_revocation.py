"""What a changed federation file forbids is reset at both ends, on two whole sites.

Only one site's file changes. Its application takes flows away, 'fedsdn site up' routes and filters,
in either order; the other site only sees resets.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from fedsdn.config.loader import dump_federation
from fedsdn.config.model import Federation, Prefix
from fedsdn.config.rules import Rule
from fedsdn.lab import build
from fedsdn.lab.host import Host
from fedsdn.lab.lab import Lab
from fedsdn.lab.wait import wait_until
from tests.real.test_proxy_lab import (
    LIMIT_SECONDS,
    Pair,
    Vm,
    connections,
    is_reset,
    wait_until_all_ended,
)
from tests.unit.federations import own_identity

pytestmark = pytest.mark.real

TOPOLOGY = Path(__file__).parents[2] / "topo" / "two-site.yaml"
FILE = "fedsdn/federation.yaml"
MANY = 60
"""Connections of each family and direction: a burst of resets for the bridge."""

SOME = 12
"""So many that each worker gets one of them."""

SOON_SECONDS = 5.0
"""How long these are waited for before others are tried."""


@pytest.fixture(scope="module")
def two() -> Iterator[Lab]:
    name = f"test-revocation-{os.getpid()}"
    try:
        yield build.up(TOPOLOGY, name)
    finally:
        build.down(name)


def other_site(federation: Federation) -> Federation:
    """In place of b there is c, with nothing of b's."""
    a, b = federation.sites
    prefixes = (
        Prefix(ip_network("10.77.0.0/24"), ip_address("10.77.0.2")),
        Prefix(ip_network("fd00:77::/64"), ip_address("fd00:77::2")),
    )
    uplinks = tuple(
        replace(
            uplink,
            address=ip_interface(f"{uplink.address.ip + 70}/{uplink.address.network.prefixlen}"),
        )
        for uplink in b.uplinks
    )
    own = (own_identity("c").identity,)
    c = replace(b, name="c", prefixes=prefixes, uplinks=uplinks, identities=own)
    return replace(federation, sites=(a, c))


def elsewhere(number: int, family: int) -> Callable[[Federation], Federation]:
    """Return what moves a site's prefix of a family to its upper half, where no VM is."""

    def change(federation: Federation) -> Federation:
        sites = list(federation.sites)
        prefixes = tuple(
            _upper_half(prefix) if prefix.family == family else prefix
            for prefix in sites[number].prefixes
        )
        sites[number] = replace(sites[number], prefixes=prefixes)
        return replace(federation, sites=tuple(sites))

    return change


def _upper_half(prefix: Prefix) -> Prefix:
    _, upper = prefix.network.subnets()
    return Prefix(upper, upper.network_address + 2)


def rules_for_ipv6(federation: Federation) -> Federation:
    """Rules come into a file that had none."""
    every = ip_network("fd00::/16")
    return replace(federation, allow=(Rule(origin=(every,), target=(every,)),))


CHANGES = {
    "rules": (rules_for_ipv6, {4}, "no rule allows it"),
    "the peer is gone": (other_site, {4, 6}, r"site b is no longer in the federation file"),
    "a prefix of the peer": (elsewhere(1, 4), {4}, r"10\S+ is no longer a prefix of site b"),
    "an own prefix, v4": (elsewhere(0, 4), {4}, r"10\S+ is no longer a prefix of site a"),
    "an own prefix, v6": (elsewhere(0, 6), {6}, r"fd\S+ is no longer a prefix of site a"),
}


@contextmanager
def talking(lab: Lab, family: int) -> Iterator[list[Pair]]:
    """Open connections of a family both ways; both ends of each."""
    with ExitStack() as stack:
        pairs: list[Pair] = []
        for near, far in ("ab", "ba"):
            ends = Vm(lab, near, "vm1", family), Vm(lab, far, "vm2", family)
            pairs += stack.enter_context(connections(*ends, count=MANY))
        exchange(pairs)
        yield pairs


def exchange(pairs: list[Pair]) -> None:
    """Send a byte each way on every connection, all at once."""
    for ways in (pairs, [ends[::-1] for ends in pairs]):
        for one, _ in ways:
            one.sendall(b"?")
        for _, other in ways:
            assert other.recv(1) == b"?"


@contextmanager
def changed(host: Host, federation: Federation, *, by_application: bool) -> Iterator[None]:
    """Change a site's file as an operator does; afterwards it is as it was."""
    file = host.run_directory / FILE
    before = file.read_text()
    taken_up = host.log("proxy").read_text().count("reset: ")
    file.write_text(dump_federation(federation))
    if by_application:
        wait_until(
            lambda: host.log("proxy").read_text().count("reset: ") > taken_up,
            LIMIT_SECONDS,
            lambda: f"nothing was reset: {host.daemon('controller').last_line()}",
        )
    host.run("fedsdn", "site", "up")
    try:
        yield
    finally:
        file.write_text(before)
        host.run("fedsdn", "site", "up")


@pytest.mark.parametrize(
    "by_application", [True, False], ids=["application first", "site up first"]
)
@pytest.mark.parametrize("what", CHANGES)
def test_what_the_file_forbids_is_reset_at_both_ends_and_the_rest_goes_on(
    two: Lab, what: str, *, by_application: bool
) -> None:
    change, gone, reason = CHANGES[what]
    host = two.host("a")
    with talking(two, 4) as pairs, talking(two, 6) as pairs6:
        by_family = {4: pairs, 6: pairs6}
        wanted = change(two.topology.federation)
        with changed(host, wanted, by_application=by_application):
            for family, both in by_family.items():
                if family in gone:
                    for pair in both:
                        assert reset_ends(pair) == (True, True)
                else:
                    exchange(both)

        def said() -> int:
            log = host.log("proxy").read_text()
            return sum(map(int, re.findall(rf"(\d+) connections? reset: {reason}\n", log)))

        # Each worker says so behind its resets.
        wait_until(
            lambda: said() >= 2 * MANY * len(gone), LIMIT_SECONDS, lambda: f"only {said()} are said"
        )
    wait_until_all_ended(two)
    works_again(two)


def reset_ends(pair: Pair) -> tuple[bool, bool]:
    for end in pair:
        end.settimeout(LIMIT_SECONDS / 2)
    client, server = pair
    return is_dead(client), is_dead(server)


def is_dead(sock: socket.socket) -> bool:
    try:
        return is_reset(sock)
    except TimeoutError:
        return False


def works_again(lab: Lab) -> None:
    """Wait until the site is as before: new connections come through both ways, by any worker."""

    def works() -> bool:
        try:
            for family in (4, 6):
                for near, far in ("ab", "ba"):
                    ends = Vm(lab, near, "vm1", family), Vm(lab, far, "vm2", family)
                    with connections(*ends, count=SOME, limit=SOON_SECONDS) as pairs:
                        exchange(pairs)
        except OSError:
            return False
        return True

    wait_until(works, LIMIT_SECONDS, lambda: "not as before")
