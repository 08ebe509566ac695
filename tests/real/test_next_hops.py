"""What the kernel has learnt of a next hop is asked for anew once no path lives behind it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from fedsdn.config.model import Address, Uplink
from fedsdn.uplinks.next_hops import Hop, Neighbours
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
    with joined([WIRES]) as (near, far):
        for family in (4, 6):  # or the router asks back, and so tells where it is
            far.run("sysctl", "-qw", f"net.ipv{family}.neigh.wire0.delay_first_probe_time=3600")
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


def learnt(family: int) -> frozenset[Hop]:
    return frozenset({("wan-x", ROUTER[family])})


def doubt(neighbours: Neighbours, family: int, state: str) -> None:
    """Have the only path behind the router be in a state."""
    pair = UPLINKS[family].address.ip, FAR[family]
    down, live = ([pair] if state == word else [] for word in ("down", "live"))
    neighbours.doubt(orders_of(down, live), site_with(UPLINKS[family]), learnt(family))


@pytest.mark.parametrize("state", ["reachable", "stale"])
def test_a_forged_router_is_asked_for_anew(near: Joined, family: int, state: str) -> None:
    router = ROUTER[family]
    enter(near, router, state)
    enter(near, BESIDE[family], state)
    with Neighbours(near.name) as neighbours:
        doubt(neighbours, family, "live")
        assert is_forged(near, router)
        doubt(neighbours, family, "down")
    assert not is_forged(near, router)
    assert is_forged(near, BESIDE[family])
    near.run("ping", "-qc1", "-W20", str(router))


def test_it_is_forgotten_again_while_no_path_lives(near: Joined, family: int) -> None:
    """The forger may go on, and nobody knows when it ends."""
    router = ROUTER[family]
    with Neighbours(near.name) as neighbours:
        doubt(neighbours, family, "down")
        enter(near, router, "reachable")

        def forgotten() -> bool:
            doubt(neighbours, family, "down")
            return not is_forged(near, router)

        wait_until(forgotten)


def test_where_nothing_is_heard_the_kernel_asks_by_itself(near: Joined, family: int) -> None:
    """A neighbour that is there stays known all the time; nobody answers for a forged one."""
    router = ROUTER[family]
    near.run("ping", "-qc1", "-W20", str(router))
    true = re.search(rf"^{router} .*lladdr (\S+)", known(near), re.MULTILINE)
    assert true
    assert true[1] != FORGER
    with Neighbours(near.name) as neighbours:
        near.run("ip", "neighbour", "change", str(router), "dev", "wan-x", "nud", "stale")
        doubt(neighbours, family, "unknown")
        wait_until(
            lambda: re.search(rf"^{router} .*{true[1]} .*REACHABLE", known(near), re.M) is not None
        )
        enter(near, router, "stale")
        doubt(neighbours, family, "live")

        def found() -> bool:
            doubt(neighbours, family, "unknown")
            return not is_forged(near, router)

        wait_until(found)


def test_what_is_entered_for_good_stays(near: Joined, family: int) -> None:
    router = ROUTER[family]
    enter(near, router, "permanent")
    with Neighbours(near.name) as neighbours:
        doubt(neighbours, family, "down")
    assert is_forged(near, router)
    near.run("ip", "neighbour", "delete", str(router), "dev", "wan-x")


def test_an_entry_that_fails_meanwhile_is_no_error(
    near: Joined, family: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between being looked at and being asked for it has lost its link-layer address."""
    with Neighbours(near.name) as neighbours:
        neigh, asked = neighbours._netlink.neigh, []

        def reachable_until_asked(command: str, **which: Any) -> Any:  # noqa: ANN401
            if command == "get":
                return [{"state": 2}]
            asked.append(command)
            return neigh(command, **which)

        monkeypatch.setattr(neighbours._netlink, "neigh", reachable_until_asked)
        enter(near, ROUTER[family], "failed")
        doubt(neighbours, family, "unknown")
    assert asked == ["change"]
