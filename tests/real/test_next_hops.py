"""What the kernel has learnt of a next hop is asked for anew once no path lives behind it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface

import pytest

from fedsdn.config.model import Address, Uplink
from fedsdn.uplinks.next_hops import Neighbours
from fedsdn.uplinks.teardown import Orders
from tests.real.cables import Joined, joined
from tests.real.forger import FORGER
from tests.real.site_host import wait_until
from tests.unit.federations import orders_of, site_with

pytestmark = pytest.mark.real

WIRES = (("192.0.2.1/24", "192.0.2.254/24"), ("2001:db8::1/64", "2001:db8::ff/64"))
ROUTER = {4: ip_address("192.0.2.254"), 6: ip_address("2001:db8::ff")}
FAR = {4: ip_address("203.0.113.1"), 6: ip_address("2001:db8:9::1")}
BESIDE = {4: ip_address("192.0.2.9"), 6: ip_address("2001:db8::9")}
UPLINKS = {
    family: Uplink("x", "x", ip_interface(WIRES[number][0]), gateway=ROUTER[family])
    for number, family in enumerate((4, 6))
}


@pytest.fixture(scope="module")
def near() -> Iterator[Joined]:
    with joined([WIRES]) as (near, _):
        for command in ("set wire0 down", "set wire0 name wan-x", "set wan-x up"):
            near.run("ip", "link", *command.split())
        for family, uplink in UPLINKS.items():
            near.run("ip", "address", "replace", str(uplink.address), "dev", "wan-x",
                     *(["nodad"] if family == 6 else []))  # fmt: skip
        yield near


def enter(near: Joined, address: Address, state: str) -> None:
    entry = (str(address), "lladdr", FORGER, "dev", "wan-x", "nud", state)
    near.run("ip", "neighbour", "replace", *entry)


def known(near: Joined) -> str:
    command = ("ip", "netns", "exec", near.name, "ip", "neighbour")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def is_forged(near: Joined, address: Address) -> bool:
    return any(
        line.startswith(f"{address} ") and FORGER in line for line in known(near).splitlines()
    )


def lost(family: int, *, down: bool) -> Orders:
    pair = UPLINKS[family].address.ip, FAR[family]
    return orders_of([pair] if down else [], [] if down else [pair])


@pytest.mark.parametrize("state", ["reachable", "stale"])
def test_a_forged_router_is_asked_for_anew(near: Joined, family: int, state: str) -> None:
    router, uplink = ROUTER[family], UPLINKS[family]
    enter(near, router, state)
    enter(near, BESIDE[family], state)
    with Neighbours(near.name) as neighbours:
        neighbours.forget_lost(lost(family, down=False), site_with(uplink), frozenset())
        assert is_forged(near, router)
        neighbours.forget_lost(lost(family, down=True), site_with(uplink), frozenset())
    assert not is_forged(near, router)
    assert is_forged(near, BESIDE[family])
    near.run("ping", "-qc1", "-W20", str(router))


def test_what_is_entered_for_good_stays(near: Joined, family: int) -> None:
    router, uplink = ROUTER[family], UPLINKS[family]
    enter(near, router, "permanent")
    with Neighbours(near.name) as neighbours:
        neighbours.forget_lost(lost(family, down=True), site_with(uplink), frozenset())
    assert is_forged(near, router)
    near.run("ip", "neighbour", "delete", str(router), "dev", "wan-x")


def test_it_is_forgotten_again_while_no_path_lives(near: Joined, family: int) -> None:
    """The forger may go on, and nobody knows when it ends."""
    router, uplink = ROUTER[family], UPLINKS[family]
    down = lost(family, down=True)
    with Neighbours(near.name) as neighbours:
        neighbours.forget_lost(down, site_with(uplink), frozenset())
        enter(near, router, "reachable")

        def forgotten() -> bool:
            neighbours.forget_lost(down, site_with(uplink), frozenset())
            return not is_forged(near, router)

        wait_until(forgotten)
