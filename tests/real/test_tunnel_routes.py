"""The kernel's routes over tunnels; these are veth pairs here, as no site is needed for it."""

from __future__ import annotations

import asyncio
import select
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv6Address, ip_address, ip_network
from unittest.mock import patch

import pytest

from fedsdn import namespace
from fedsdn.config.model import Address, Family
from fedsdn.pipeline.declarations import TUNNELS_TABLE
from fedsdn.site.changes import Changes
from fedsdn.site.setup import Part
from fedsdn.uplinks.liveness import Condition, Liveness, Reception
from fedsdn.uplinks.path import Path, PathName
from fedsdn.uplinks.routes.groups import Exit, PeerRoutes, Wanted, changes
from fedsdn.uplinks.routes.keeper import RouteKeeper
from fedsdn.uplinks.routes.kernel import Routes
from fedsdn.uplinks.routes.messages import MOVE_IDLE_SECONDS
from tests.real.cables import Joined, joined
from tests.unit.federations import two_sites
from tests.unit.loopback import asynchronous

pytestmark = pytest.mark.real

OWN: dict[Family, Address] = {4: ip_address("10.1.0.2"), 6: ip_address("fd00:1::2")}
FAR: dict[Family, Address] = {4: ip_address("10.2.0.9"), 6: ip_address("fd00:2::9")}
PREFIXES = (ip_network("10.2.0.0/24"), ip_network("fd00:2::/64"))
WIRES = ("wire0", "wire1", "wire2")
FLOWS = 60
"""So many that each of three wires gets some."""
TICK = 0.01
"""Of the kernel's clock, at the longest."""
LENGTHS: dict[Family, int] = {4: 24, 6: 64}
ETHERNET, PROTOCOLS = 14, {4: 0x0800, 6: 0x86DD}
SOURCE_PORT = {4: ETHERNET + 20, 6: ETHERNET + 40}
AF: dict[Family, int] = {4: socket.AF_INET, 6: socket.AF_INET6}


def over(*wires: str, gateway: IPv6Address | None = None) -> Wanted:
    return Wanted((PeerRoutes(PREFIXES, frozenset(Exit(one, gateway) for one in wires)),), OWN)


@dataclass
class Site:
    """A namespace with tunnels, and who listens at their other ends."""

    near: Joined
    routes: Routes
    flows: dict[Family, list[socket.socket]] = field(default_factory=dict)
    ends: dict[Family, dict[str, socket.socket]] = field(default_factory=dict)

    def ways(self, family: Family) -> dict[int, str]:
        """Send a datagram of each flow, and return over which wire it came, by source port."""
        for one in self.flows[family]:
            send(one, family)
        found: dict[int, str] = {}
        sent = {one.getsockname()[1] for one in self.flows[family]}
        deadline = time.monotonic() + 30
        while found.keys() != sent and time.monotonic() < deadline:
            for wire, end in self.ends[family].items():
                for port in arrived(end, SOURCE_PORT[family]):
                    assert port not in found, "twice"
                    found[port] = wire
        assert found.keys() == sent
        return found


def arrived(end: socket.socket, at: int) -> Iterator[int]:
    """Yield the source ports of what has come."""
    while True:
        try:
            frame, (*_, kind, _, _) = end.recvfrom(2048)
        except BlockingIOError:
            return
        if frame[at + 2 : at + 4] == (9).to_bytes(2) and kind != socket.PACKET_OUTGOING:
            yield int.from_bytes(frame[at : at + 2])


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with ExitStack() as stack:
        near, far = stack.enter_context(joined([()] * len(WIRES)))
        for end in (near, far):
            for wire in WIRES:
                end.run("ip", "link", "set", wire, "arp", "off")
        near.run("ip", "link", "set", "lo", "up")
        for family, length in LENGTHS.items():
            near.run("ip", "address", "add", f"{OWN[family]}/{length}", "dev", "lo",
                     *(["nodad"] if family == 6 else []))  # fmt: skip
            near.run("ip", f"-{family}", "rule", "add", "lookup", str(TUNNELS_TABLE))
            near.run("sysctl", "-qw", f"net.ipv{family}.fib_multipath_hash_policy=1")
        found = Site(near, Routes(near.name, TUNNELS_TABLE))
        stack.callback(found.routes.close)
        for family in LENGTHS:
            opened = namespace.inside(near.name, partial(flows, family))
            found.flows[family] = [stack.enter_context(one) for one in opened]
            caught = namespace.inside(far.name, partial(sniffers, family))
            found.ends[family] = {w: stack.enter_context(one) for w, one in caught.items()}
        yield found


def flows(family: Family) -> list[socket.socket]:
    """Sockets that have no peer: with one they keep their route for a while, as no router does."""
    opened = [socket.socket(AF[family], socket.SOCK_DGRAM) for _ in range(FLOWS)]
    for one in opened:
        one.bind((str(OWN[family]), 0))
    return opened


def send(one: socket.socket, family: Family) -> None:
    one.sendto(b"x", (str(FAR[family]), 9))


def sniffers(family: Family) -> dict[str, socket.socket]:
    return {wire: sniffer(wire, family) for wire in WIRES}


def sniffer(wire: str, family: Family) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(PROTOCOLS[family]))
    sock.bind((wire, PROTOCOLS[family]))
    sock.setblocking(False)
    return sock


def shown(near: Joined, *what: str) -> str:
    command = ("ip", "-n", near.name, *what)
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


families = pytest.mark.parametrize("family", [4, 6])


@families
def test_flows_are_spread_and_each_keeps_its_path(site: Site, family: Family) -> None:
    site.routes.obey(over(*WIRES))
    first = site.ways(family)
    assert set(first.values()) == set(WIRES)
    assert site.ways(family) == first


@families
def test_a_path_that_dies_moves_its_own_flows_only(site: Site, family: Family) -> None:
    site.routes.obey(over(*WIRES))
    before = site.ways(family)
    site.routes.obey(over("wire0", "wire2"))
    after = site.ways(family)
    assert set(after.values()) == {"wire0", "wire2"}
    assert all(after[port] == wire for port, wire in before.items() if wire != "wire1")


@families
def test_a_path_that_returns_overtakes_no_flow_under_way(site: Site, family: Family) -> None:
    """A flow that pauses may move, as one does on a machine that stands still meanwhile.

    With a single path the kernel does not look at who uses it, in IPv4.
    """
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        site.routes.obey(over("wire0", "wire2"))
        moved = time.monotonic()
        while time.monotonic() < moved + 5 * TICK:  # or they count as not used since
            before = site.ways(family)
        paused = time.monotonic()
        site.routes.obey(over(*WIRES))
        after = site.ways(family)
        if time.monotonic() < paused + MOVE_IDLE_SECONDS - TICK:
            assert after == before
            return
    pytest.fail("this machine stands still all the time")


@families
def test_without_a_path_the_sender_is_told_at_once(site: Site, family: Family) -> None:
    site.routes.obey(over())
    with pytest.raises(OSError, match=r"unreachable|No route to host"):
        send(site.flows[family][0], family)
    site.routes.obey(over("wire2"))
    assert set(site.ways(family).values()) == {"wire2"}


def test_what_goes_with_an_interface_is_put_back(site: Site) -> None:
    site.routes.obey(over("wire0", "wire1"))
    for wire in ("wire0", "wire1"):
        site.near.run("ip", "link", "set", wire, "down")
    site.routes.obey(over("wire0", "wire1"))
    assert not shown(site.near, "nexthop")
    for wire in ("wire0", "wire1"):
        site.near.run("ip", "link", "set", wire, "up")
    site.routes.obey(over("wire0", "wire1"))
    assert set(site.ways(4).values()) == set(site.ways(6).values()) == {"wire0", "wire1"}


def test_a_tunnel_too_small_for_ipv6_carries_ipv4(site: Site) -> None:
    site.near.run("ip", "link", "set", "wire1", "mtu", "1200")
    try:
        site.routes.obey(over("wire0", "wire1"))
        assert set(site.ways(4).values()) == {"wire0", "wire1"}
        assert set(site.ways(6).values()) == {"wire0"}
    finally:
        site.near.run("ip", "link", "set", "wire1", "mtu", "1500")


def test_another_process_takes_over_what_is_there(site: Site) -> None:
    site.routes.obey(over("wire0", "wire2"))
    before = shown(site.near, "nexthop")
    second = Routes(site.near.name, TUNNELS_TABLE)
    try:
        assert second.carried() == dict.fromkeys(PREFIXES, frozenset({"wire0", "wire2"}))
        second.obey(over("wire0", "wire2"))
    finally:
        second.close()
    assert shown(site.near, "nexthop") == before


def test_whatever_others_do_to_the_table_is_undone(site: Site) -> None:
    site.routes.obey(over("wire0", "wire1"))
    table = ("table", str(TUNNELS_TABLE))
    before = shown(site.near, "route", "show", *table)
    site.near.run("ip", "route", "add", "10.2.0.0/24", "dev", "wire2", *table)
    site.near.run("ip", "route", "add", "10.9.0.0/24", "nhid", "1", *table)
    site.near.run("ip", "route", "delete", "unreachable", "default", *table)
    site.near.run("ip", "nexthop", "add", "id", "77", "dev", "wire2")
    site.routes.obey(over("wire0", "wire1"))
    assert shown(site.near, "route", "show", *table) == before
    site.near.run("ip", "nexthop", "flush")
    site.routes.obey(over("wire0", "wire1"))
    assert set(site.ways(4).values()) == set(site.ways(6).values()) == {"wire0", "wire1"}


def test_news_of_many_changes_are_looked_into_once(site: Site) -> None:
    """Each look reads all routes: one for every piece of news is a look without an end."""
    site.routes.obey(over("wire0"))
    table = ("table", str(TUNNELS_TABLE))
    for number in range(20):
        site.near.run("ip", "route", "add", f"10.9.{number}.0/24", "dev", "wire2", *table)
    site.routes.obey(over("wire0"))  # makes changes
    site.routes.obey(over("wire0"))  # takes the news of them
    assert site.routes.news is not None
    assert select.select([site.routes.news], [], [], 0)[0] == []


def test_while_nothing_changes_nothing_is_compared(site: Site) -> None:
    """With 1,000 sites that takes a twentieth of a second, and is asked for each second."""

    def compares(wire: str) -> bool:
        with patch("fedsdn.uplinks.routes.kernel.changes", wraps=changes) as compared:
            site.routes.obey(over(wire))
        return compared.call_count > 0

    deadline = time.monotonic() + 30
    while compares("wire0"):  # there are news of what was made, and the interfaces' own
        assert time.monotonic() < deadline
    assert compares("wire1")
    assert set(site.ways(4).values()) == {"wire1"}
    site.near.run("ip", "route", "delete", str(PREFIXES[0]), "table", str(TUNNELS_TABLE))
    site.routes.obey(over("wire1"))
    assert set(site.ways(4).values()) == {"wire1"}


def test_who_keeps_the_rest_of_the_namespace_does_not_look_at_these_routes(site: Site) -> None:
    """A look at 20,000 routes for each path that is lost is a core for each loop of losses."""
    with closing(Changes(site.near.name)) as changes:
        for wire in ("wire0", "wire1", "wire0"):
            site.routes.obey(over(wire))
        assert changes.read((), frozenset()) == frozenset()
        site.near.run("ip", "route", "add", "10.9.0.0/24", "dev", "wire2")
        assert changes.read((), frozenset()) == {Part.ROUTES}


def test_news_of_a_packet_filter_are_looked_into_once(site: Site) -> None:
    with closing(Changes(site.near.name)) as changes:
        for name in ("one", "two", "three"):
            site.near.run("nft", "add", "table", "inet", name)
        assert changes.read((), frozenset()) == {Part.FILTER}
        assert changes.read((), frozenset()) == frozenset()


def test_a_neighbour_on_the_tunnels_link_is_the_next_hop_of_both_ip_versions(site: Site) -> None:
    site.routes.obey(over("wire0", gateway=IPv6Address("fe80::1")))
    listed = shown(site.near, "nexthop")
    assert listed.count("via fe80::1 dev wire0") == 2
    assert set(site.ways(4).values()) == set(site.ways(6).values()) == {"wire0"}


def path(uplink: str, condition: Condition) -> Path:
    name = PathName(uplink, "b", uplink)
    return Path(name, OWN[4], FAR[4], Reception(0.0), Liveness(0.0, condition))


@asynccontextmanager
async def keeping(near: Joined) -> AsyncIterator[RouteKeeper]:
    """Have an application's keeper for the two sites."""
    with ThreadPoolExecutor(1) as executor:
        keeper = RouteKeeper(near.name, two_sites(), "a", executor)
        task = asyncio.create_task(keeper.run())
        try:
            yield keeper
        finally:
            task.cancel()
            await asyncio.wait([task])


async def until_over(site: Site, *tunnels: str) -> None:
    """Wait until the peer is reached over exactly these."""
    table = ("route", "show", "table", str(TUNNELS_TABLE))
    while {one for one in ("t1-up1", "t2-up2") if one in shown(site.near, *table)} != set(tunnels):
        await asyncio.sleep(0.01)


@pytest.fixture
def tunnels(site: Site) -> Iterator[None]:
    for wire, name in zip(WIRES, ("t1-up1", "t2-up2"), strict=False):
        site.near.run("ip", "link", "set", wire, "down", "name", name)
        site.near.run("ip", "link", "set", name, "up")
    yield
    for wire, name in zip(WIRES, ("t1-up1", "t2-up2"), strict=False):
        site.near.run("ip", "link", "set", name, "down", "name", wire)
        site.near.run("ip", "link", "set", wire, "up")


@pytest.mark.usefixtures("tunnels")
@asynchronous
async def test_the_application_keeps_the_routes_on_live_paths(site: Site) -> None:
    async with keeping(site.near) as keeper, asyncio.timeout(30):
        keeper.follow([path("up1", Condition.UP), path("up2", Condition.UP)])
        await until_over(site, "t1-up1", "t2-up2")
        keeper.follow([path("up1", Condition.DETECTED)])
        await until_over(site, "t2-up2")
        site.near.run("ip", "link", "set", "t2-up2", "down")
        await until_over(site)
        site.near.run("ip", "link", "set", "t2-up2", "up")
        await until_over(site, "t2-up2")
        keeper.follow([path("up2", Condition.DETECTED)])
        await until_over(site)


@pytest.mark.usefixtures("tunnels")
@asynchronous
async def test_routes_stay_without_an_application_and_are_taken_over(site: Site) -> None:
    async with keeping(site.near) as keeper, asyncio.timeout(30):
        keeper.follow([path("up1", Condition.DETECTED), path("up2", Condition.UP)])
        await until_over(site, "t2-up2")
    before = shown(site.near, "nexthop")
    async with keeping(site.near) as keeper, asyncio.timeout(30):
        keeper.follow([path("up1", Condition.UNKNOWN), path("up2", Condition.UNKNOWN)])
        site.near.run("ip", "route", "delete", "unreachable", "default",
                      "table", str(TUNNELS_TABLE))  # fmt: skip
        while "unreachable" not in shown(site.near, "route", "show", "table", str(TUNNELS_TABLE)):
            await asyncio.sleep(0.01)
        assert shown(site.near, "nexthop") == before
