"""The test application between two plain namespaces, with and without trouble in between."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import PurePath
from uuid import uuid4

import pytest

from fedsdn.errors import FedsdnError
from fedsdn.shell import Shell
from fedsdn.traffic.counters import recording
from fedsdn.traffic.runner import Transfer, send, serving
from fedsdn.traffic.values import Amount, TransferDirection
from fedsdn.verify import connections as path_checks
from fedsdn.verify.checks import Check, CheckFailedError
from fedsdn.verify.paths import CONNECTS, VmPath
from fedsdn.verify.view import SiteView, Vm
from tests.unit.federations import two_sites

pytestmark = pytest.mark.real

NEAR = {4: "10.1.0.11", 6: "fd00:1::11"}
FAR = {4: "10.2.0.11", 6: "fd00:2::11"}


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


@dataclass(frozen=True)
class Pair:
    """Two namespaces with a wire between them: eth0 in both."""

    near: Shell
    far: Shell
    near_namespace: str


@pytest.fixture
def pair() -> Iterator[Pair]:
    tag = uuid4().hex[:8]
    names = [f"verify-{tag}-{end}" for end in ("near", "far")]
    try:
        for name in names:
            ip("netns", "add", name)
        ip(
            "link",
            "add",
            "eth0",
            "netns",
            names[0],
            "type",
            "veth",
            "peer",
            "eth0",
            "netns",
            names[1],
        )
        for name, own, other in ((names[0], NEAR, FAR), (names[1], FAR, NEAR)):
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "address", "add", f"{own[4]}/32", "dev", "eth0")
            ip("-n", name, "address", "add", f"{own[6]}/128", "dev", "eth0", "nodad")
            ip("-n", name, "route", "add", other[4], "dev", "eth0")
            ip("-n", name, "route", "add", other[6], "dev", "eth0")
        yield Pair(Shell("here").inside(names[0]), Shell("here").inside(names[1]), names[0])
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)


def path(pair: Pair, family: int) -> VmPath:
    federation = two_sites()
    views = [
        SiteView(federation, site, Shell("here"), PurePath("c"), vms=(Vm(site.name, shell, ()),))
        for site, shell in zip(federation.sites, (pair.near, pair.far), strict=True)
    ]
    return VmPath(
        views[0],
        views[1],
        views[0].vms[0],
        views[1].vms[0],
        ip_address(NEAR[family]),
        ip_address(FAR[family]),
    )


def checks_by_name(pair: Pair, family: int, connections: int = 20) -> dict[str, Check]:
    return {check.name: check for check in path_checks.path_checks(path(pair, family), connections)}


@pytest.mark.parametrize("family", [4, 6])
def test_a_thousand_parallel_connections_are_open_at_once_and_each_sees_its_own_source(
    pair: Pair, family: int
) -> None:
    open_at_once: list[str] = []

    def count() -> None:
        command = ("ss", "--no-header", "--tcp", "state", "established", "dport", "=", ":15001")
        open_at_once.extend(pair.near.output(*command).splitlines())

    with serving(pair.far):
        transfer = Transfer(ip_address(FAR[family]), Amount(size=1000), connections=1000)
        moved = send(pair.near, transfer, while_open=count)
    assert len(open_at_once) == 1000
    assert [c.error for c in moved if c.error] == []
    assert all(c.local == c.seen for c in moved)
    assert {c.local[0] for c in moved if c.local} == {NEAR[family]}
    assert len({c.local for c in moved}) == 1000
    assert all(c.received and c.received.intact and c.received.size == 1000 for c in moved)


@pytest.mark.parametrize("direction", ["upload", "download"])
def test_data_of_a_given_size_arrive_and_are_counted_on_the_wire(
    pair: Pair, direction: TransferDirection
) -> None:
    transfer = Transfer(ip_address(FAR[4]), Amount(size=1_000_000), direction)
    with serving(pair.far), recording(pair.near) as near, recording(pair.far) as far:
        (moved,) = send(pair.near, transfer)
    assert moved.received is not None
    assert moved.received.size == 1_000_000
    assert moved.received.intact
    receiver, sender = (far, near) if direction == "upload" else (near, far)
    assert receiver.received()["eth0"] > 1_000_000
    assert sender.received()["eth0"] < 500_000


@pytest.mark.parametrize("direction", ["upload", "download"])
def test_a_transfer_for_a_time_is_sampled_to_its_end(
    pair: Pair, direction: TransferDirection
) -> None:
    transfer = Transfer(ip_address(FAR[6]), Amount(seconds=0.5), direction)
    with serving(pair.far):
        (moved,) = send(pair.near, transfer)
    received = moved.received
    assert received is not None
    assert received.intact
    assert received.size > 0
    assert received.samples[-1][1] == received.size + 32, "all data and their SHA-256"
    assert received.rate(0, 0.5) > 0


def test_the_application_binds_the_source_it_is_told(pair: Pair) -> None:
    source, destination = ip_address("10.1.0.12"), ip_address(FAR[4])
    ip("-n", pair.near_namespace, "address", "add", f"{source}/32", "dev", "eth0")
    pair.far.output("ip", "route", "add", str(source), "dev", "eth0")
    with serving(pair.far, destination):
        (moved,) = send(pair.near, Transfer(destination, Amount(size=1), source=source))
    assert moved.seen == moved.local
    assert moved.seen is not None
    assert moved.seen[0] == str(source)


def test_a_port_that_is_taken_is_one_line(pair: Pair) -> None:
    with (
        serving(pair.far, ip_address(FAR[4])),
        pytest.raises(FedsdnError, match="address already in use"),
        serving(pair.far, ip_address(FAR[4])),
    ):
        raise AssertionError


def test_connects_passes_where_the_far_vm_answers(pair: Pair) -> None:
    assert checks_by_name(pair, 6)[CONNECTS].test().startswith(FAR[6])


def test_connects_fails_where_nothing_gets_through(pair: Pair) -> None:
    ip("-n", pair.near_namespace, "route", "replace", "unreachable", FAR[4])
    with pytest.raises(CheckFailedError, match=r"1 of 1 connections from 10.1.0.11") as failure:
        checks_by_name(pair, 4)[CONNECTS].test()
    assert "No route to host" in failure.value.found


def test_data_intact_passes_where_nothing_is_wrong(pair: Pair) -> None:
    assert "SHA-256 equal" in checks_by_name(pair, 6)["data intact"].test()


def test_a_closed_port_that_does_not_refuse_fails_the_refusal_check(pair: Pair) -> None:
    assert checks_by_name(pair, 6)["refusal"].test() == "Connection refused"
    prohibited = "type filter hook input priority 0; tcp dport 15002 reject with icmpx type "
    pair.far.output("nft", f"table inet no {{ chain in {{ {prohibited} admin-prohibited; }}; }}")
    with pytest.raises(CheckFailedError, match=r"is closed, and gave: Permission denied"):
        checks_by_name(pair, 6)["refusal"].test()


def test_a_source_seen_wrong_fails_the_source_check(pair: Pair) -> None:
    nat = (
        "table inet verify { chain out { type nat hook postrouting priority srcnat; "
        "meta l4proto tcp masquerade to :20000-20999; }; }"
    )
    pair.near.output("nft", nat)
    with serving(pair.far):
        moved = send(pair.near, Transfer(ip_address(FAR[4]), Amount(size=1), connections=3))
    with pytest.raises(
        CheckFailedError, match=r"3 of 3 wrong: .* was seen as .* port 20"
    ) as failure:
        path_checks.check_sources(path(pair, 4), moved)
    assert "NAT" in failure.value.fix
