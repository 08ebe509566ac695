"""The checks with datagrams between two namespaces that two routers join, well and badly."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from fedsdn.config.model import Federation
from fedsdn.shell import Shell
from fedsdn.traffic.echoes import StreamView
from fedsdn.verify.checks import CheckFailedError, Outcome, Result, run_checks
from fedsdn.verify.datagram_loss import judged
from fedsdn.verify.datagrams import datagram_checks
from fedsdn.verify.loss import UplinkLoss
from fedsdn.verify.paths import VmPath, paths
from fedsdn.verify.view import SiteView, Vm
from tests.unit.federations import two_sites

pytestmark = pytest.mark.real

FEDERATION = two_sites()
SITES = {"a": 1, "b": 2}
LINK_MTU = 1420


def shell(name: str) -> Shell:
    """A VM or router: its namespace."""
    return Shell(name, ("ip", "netns", "exec", namespace(name)))


def namespace(name: str) -> str:
    return f"seen-{os.getpid()}-{name}"


def run(name: str, script: str) -> None:
    shell(name).output("sh", "-ec", script)


@pytest.fixture(scope="module", autouse=True)
def scene() -> Iterator[None]:
    """VMs a and b, each behind a router, with a link of ``LINK_MTU`` between these."""
    names = [name for site in SITES for name in (site, f"router-{site}")]
    try:
        for name in names:
            subprocess.run(["ip", "netns", "add", namespace(name)], check=True)
            run(name, "sysctl -qw net.ipv6.conf.default.accept_dad=0; ip link set lo up")
        for site, number in SITES.items():
            _site(site, number)
        _link()
        yield
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", namespace(name)], check=False)


def _site(site: str, number: int) -> None:
    run(
        f"router-{site}",
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 "
        "net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0; "
        f"ip link add inside type veth peer name eth0 netns {namespace(site)}; "
        f"ip address add 10.{number}.0.1/24 dev inside; ip address add fd00:{number}::1/64 "
        "dev inside; ip link set inside up",
    )
    run(
        site,
        f"ip address add 10.{number}.0.11/24 dev eth0; ip address add fd00:{number}::11/64 "
        f"dev eth0; ip link set eth0 up; ip route add default via 10.{number}.0.1; "
        f"ip route add default via fd00:{number}::1",
    )


def _link() -> None:
    peer = namespace("router-b")
    run("router-a", f"ip link add between type veth peer name between netns {peer}")
    for site, other in (("a", "b"), ("b", "a")):
        own, far = SITES[site], SITES[other]
        run(
            f"router-{site}",
            f"ip link set between mtu {LINK_MTU} up; ip address add 10.9.0.{own}/24 dev between; "
            f"ip address add fd00:9::{own}/64 dev between; "
            f"ip route add 10.{far}.0.0/24 via 10.9.0.{far}; "
            f"ip route add fd00:{far}::/64 via fd00:9::{far}",
        )


def way(family: int, federation: Federation = FEDERATION) -> VmPath:
    views = [
        SiteView(
            federation,
            federation.site(site),
            Shell(site),
            Path("/etc/fedsdn/fedsdn.conf"),
            vms=(
                Vm(
                    "vm1",
                    shell(site),
                    (ip_address(f"10.{number}.0.11"), ip_address(f"fd00:{number}::11")),
                ),
            ),
        )
        for site, number in SITES.items()
    ]
    return next(path for path in paths(views) if (path.near.name, path.family) == ("a", family))


def look(path: VmPath) -> dict[str, Result]:
    """Run the checks without those of the sites, which are not there."""
    return {
        result.name: result
        for result in run_checks(replace(check, needs=()) for check in datagram_checks(path))
    }


@contextmanager
def filtered(site: str, rule: str) -> Iterator[None]:
    """Let a site's router have a rule for what it forwards."""
    chain = "chain forward { type filter hook forward priority 0; policy accept;"
    table = f"table inet seen {{\n{chain}\n{rule}\n}}\n}}\n"
    done = shell(f"router-{site}").run("nft", "-f", "-", text=table)
    assert done.returncode == 0, done.stderr
    try:
        yield
    finally:
        run(f"router-{site}", "nft delete table inet seen")


def test_everything_passes(family: int) -> None:
    results = look(way(family))
    assert {result.outcome for result in results.values()} == {Outcome.PASSED}, results
    whole = results["UDP, the VM's MTU"]
    assert whole.found == f"of 1500 bytes {LINK_MTU} pass in one piece, as ICMP says"


REJECTED = {
    4: "ip saddr 10.1.0.0/24 reject with icmp type admin-prohibited",
    6: "ip6 saddr fd00:1::/64 reject with icmpv6 type admin-prohibited",
}


def test_what_the_file_forbids_is_to_be_refused_at_once(family: int) -> None:
    forbidding = way(family, replace(FEDERATION, allow=()))
    with filtered("a", REJECTED[family]):
        results = look(forbidding)
    assert results.keys() == {"ping prohibited", "UDP prohibited"}
    for result in results.values():
        assert result.outcome is Outcome.PASSED, result
        assert "'allow' is empty" in result.found


def test_what_is_let_through_though_the_file_forbids_it_fails(family: int) -> None:
    results = look(way(family, replace(FEDERATION, allow=())))
    assert {result.outcome for result in results.values()} == {Outcome.FAILED}, results
    assert "Connection refused, but no rule allows udp" in results["UDP prohibited"].found


def test_what_is_refused_though_it_is_allowed_fails_with_the_routers_word(family: int) -> None:
    ping_only = {4: "ip protocol icmp ", 6: "icmpv6 type echo-request "}
    with filtered("a", ping_only[family] + REJECTED[family]):
        results = look(way(family))
    failed = {name for name, result in results.items() if result.outcome is Outcome.FAILED}
    assert failed == {"ping"}
    assert "answered 0 of 5 echo requests" in results["ping"].found
    assert "says: " in results["ping"].found
    assert "fedsdn trace" in results["ping"].fix


def test_what_changes_addresses_on_the_way_is_found() -> None:
    table = (
        "table ip seen {\nchain out {\ntype nat hook postrouting priority srcnat\n"
        'oifname "between" masquerade\n}\n}\n'
    )
    assert shell("router-a").run("nft", "-f", "-", text=table).returncode == 0
    try:
        results = look(way(4))
    finally:
        run("router-a", "nft delete table ip seen")
    assert "was seen as ('10.9.0.1'" in results["UDP, 1 kB"].found


def lost(*flows: tuple[int, int], ping: tuple[int, int] = (0, 0), in_vms: int = 0) -> str:
    """Judge flows by what each has lost and what came again."""
    path = way(4)
    own, other = path.near.site.uplinks[0], path.far.site.uplinks[0]
    views = [StreamView(1, 450, gone, again, 0, 0.31, 0.03, gone / 50, []) for gone, again in flows]
    return judged(UplinkLoss(path, own, other, lambda _up: None), views, ping, in_vms)


def test_a_loss_that_is_found_soon_passes() -> None:
    assert lost((0, 0), (31, 0), ping=(3, 0)) == (
        "ping lost 3 of 100 a second, 1 of 2 UDP flows what was sent in up to 0.62 s; "
        "310 ms of silence"
    )


@pytest.mark.parametrize(
    ("flows", "ping", "said"),
    [
        ([(66, 0)], (0, 0), "more than 1.3 s$"),
        ([(0, 0)], (131, 0), "more than 1.3 s$"),
        ([(0, 1), (0, 2)], (0, 1), "4 came twice"),
    ],
)
def test_what_is_lost_for_long_or_comes_twice_fails(
    flows: list[tuple[int, int]], ping: tuple[int, int], said: str
) -> None:
    with pytest.raises(CheckFailedError, match=said):
        lost(*flows, ping=ping)


def test_what_is_lost_in_the_vms_is_said() -> None:
    with pytest.raises(CheckFailedError, match=r"1\.3 s; 600 were lost in the VMs.*CPU"):
        lost((300, 0), (300, 0), in_vms=600)
