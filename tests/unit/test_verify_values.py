"""What the checks compare, with values made up to be wrong."""

from collections import defaultdict
from dataclasses import replace
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest

from fedsdn.config.model import Federation, Uplink
from fedsdn.config.rules import Rule
from fedsdn.shell import Shell
from fedsdn.traffic.counters import parse
from fedsdn.traffic.runner import Transfer
from fedsdn.traffic.values import ClientView, Received
from fedsdn.verify import connections
from fedsdn.verify.checks import CheckFailedError
from fedsdn.verify.connections import Load, check_flows, check_sources, path_checks
from fedsdn.verify.paths import VmPath, paths
from fedsdn.verify.plan import QUICK, all_checks
from fedsdn.verify.throughput import Carried, check_shares
from fedsdn.verify.view import SiteView, Vm, uplink_pairs
from tests.unit.federations import (
    three_sites,
    two_sites,
    with_foreign_proxy,
    with_source_restore,
)

TWO_SITES = two_sites()
GOOD = ClientView(("10.1.0.11", 4711), ("10.1.0.11", 4711), Received(1, True, ((0.0, 33),)))


def views(federation: Federation = TWO_SITES, *, vms: bool = True) -> list[SiteView]:
    return [
        SiteView(
            federation,
            site,
            Shell(site.name),
            Path("/etc/fedsdn/fedsdn.conf"),
            vms=(
                Vm("vm1", Shell("vm1"), (ip_address(f"10.{n}.0.11"), ip_address(f"fd00:{n}::11"))),
            )
            if vms
            else (),
        )
        for n, site in enumerate(federation.sites, start=1)
    ]


def path() -> VmPath:
    return paths(views())[0]


def test_paths_are_both_directions_in_both_families() -> None:
    found = {(p.near.name, p.far.name, p.family) for p in paths(views())}
    assert found == {("a", "b", 4), ("a", "b", 6), ("b", "a", 4), ("b", "a", 6)}


def test_what_the_file_forbids_is_tested_to_be_refused() -> None:
    federation = replace(TWO_SITES, allow=(Rule(("a",), protocol="tcp"),))
    names = _traffic(federation)
    assert names["a → b, IPv4"][-3:] == ["flow count", "ping prohibited", "UDP prohibited"]
    assert names["b → a, IPv6"] == REFUSALS
    sections = {check.section for check in all_checks(views(federation), QUICK)}
    assert not any(section.startswith("both sides at once") for section in sections)
    nobody = replace(TWO_SITES, allow=())
    assert list(_traffic(nobody).values()) == [REFUSALS] * 4


REFUSALS = ["prohibited", "ping prohibited", "UDP prohibited"]


def _traffic(federation: Federation) -> dict[str, list[str]]:
    """Names of the checks of each way from VM to VM."""
    found = defaultdict(list)
    for check in all_checks(views(federation), QUICK):
        if "→" in check.section:
            found[check.section].append(check.name)
    return found


def test_the_way_back_ends_where_the_way_began() -> None:
    back = path().back()
    assert (back.near.name, back.source) == ("b", path().destination)
    assert back.back() == path()


def test_sources_that_are_right_are_counted() -> None:
    assert check_sources(path(), [GOOD] * 7) == "7 of 7 right"


@pytest.mark.parametrize("seen", [("10.1.0.11", 4712), ("10.2.0.2", 4711), None])
def test_one_source_seen_wrong_among_many_fails(seen: tuple[str, int] | None) -> None:
    with pytest.raises(CheckFailedError, match=r"1 of 4 wrong: 10.1.0.11 port 4711 was seen as"):
        check_sources(path(), [GOOD, GOOD, replace(GOOD, seen=seen), GOOD])


def test_one_connection_that_failed_fails_the_sources() -> None:
    with pytest.raises(CheckFailedError, match=r"1 of 2 connections .*: ClientView reset"):
        check_sources(path(), [GOOD, replace(GOOD, error="ClientView reset by peer")])


@pytest.mark.parametrize(
    "federation",
    [with_source_restore(two_sites(), "none"), with_foreign_proxy(two_sites(), "a")],
    ids=["source_restore: none", "another's proxy"],
)
def test_where_sources_are_not_restored_the_proxys_address_is_right(federation: Federation) -> None:
    way = paths(views(federation))[0]
    proxy = replace(GOOD, seen=("10.2.0.2", 50000))
    assert check_sources(way, [proxy] * 3).startswith("all 3 seen as 10.2.0.2")
    with pytest.raises(CheckFailedError, match=r"1 of 2 wrong: .* not as 10.2.0.2"):
        check_sources(way, [proxy, GOOD])


def flows(a: str, b: str) -> dict[str, frozenset[str]]:
    return {"a": frozenset(a), "b": frozenset(b)}


def test_the_same_flows_pass() -> None:
    load = Load((), flows("xy", "z"), flows("xy", "z"), flows("xy", "z"))
    assert check_flows(path(), load) == "2 flows at a, 1 flows at b"


@pytest.mark.parametrize(
    ("during", "after", "found"),
    [
        (flows("xyw", "z"), flows("xy", "z"), "2 flows at a before, 3 during; .*: w"),
        (flows("xy", "z"), flows("xy", "zw"), "1 flows at b before, 2 after; .*: w"),
        (flows("xw", "z"), flows("xy", "z"), "2 flows at a before, 2 during"),
    ],
)
def test_a_flow_that_came_or_went_fails(
    during: dict[str, frozenset[str]], after: dict[str, frozenset[str]], found: str
) -> None:
    with pytest.raises(CheckFailedError, match=found):
        check_flows(path(), Load((), flows("xy", "z"), during, after))


def carried(shares: dict[str, int]) -> Carried:
    return Carried(GOOD, views()[0], shares)


def test_equal_shares_and_shares_in_proportion_pass() -> None:
    check_shares(carried({"up1": 50, "up2": 50}), [100.0, 100.0])
    check_shares(carried({"up1": 99, "up2": 1}), [990.0, 10.0])


def test_an_uplink_that_only_acknowledges_fails() -> None:
    with pytest.raises(CheckFailedError, match=r"uplink up2 carries nothing: .*up2 1000 bytes"):
        check_shares(carried({"up1": 10_000_000, "up2": 1000}), [100.0, 100.0])


def test_rate_is_of_the_window_only() -> None:
    received = Received(0, True, ((0.0, 0), (1.0, 1000), (2.0, 3000), (3.0, 9000)))
    assert received.rate(1.0, 2.5) == 8 * 2000
    assert received.rate(2.5, 2.9) == 0.0


def test_uplinks_are_paired_one_to_one() -> None:
    a, b, _c = three_sites().sites
    assert [(u.name, o.name) for u, o in uplink_pairs(a, b)] == [("up1", "up1"), ("up2", "up2")]
    gateway = ip_address("192.0.2.254")
    twice = tuple(
        Uplink(f"up{n}", f"up{n}", ip_interface(f"192.0.2.{10 + n}/24"), gateway) for n in (1, 2)
    )
    crossed = uplink_pairs(replace(a, uplinks=twice), replace(b, uplinks=twice[::-1]))
    assert [(u.name, o.name) for u, o in crossed] == [("up1", "up2"), ("up2", "up1")]


def test_counters_are_read_by_name() -> None:
    text = (
        "Inter-|   Receive                                                |  Transmit\n"
        " face |bytes    packets errs drop fifo frame compressed multicast|bytes ...\n"
        "    lo:     504       6    0    0    0     0          0         0      504\n"
        "wan-up1: 1234567     10    0    0    0     0          0         0      1\n"
    )
    assert parse(text) == {"lo": 504, "wan-up1": 1234567}


def test_titles_are_unique_and_every_need_comes_before() -> None:
    seen: set[str] = set()
    for check in all_checks(views(), QUICK):
        assert check.title not in seen
        assert set(check.needs) <= seen, check.title
        seen.add(check.title)


def test_a_site_without_vms_gets_no_traffic_of_ours() -> None:
    sections = {check.section for check in all_checks(views(vms=False)[:1], QUICK)}
    assert sections == {"site a"}


def test_a_shell_that_reads_the_command_gets_every_word_as_it_was() -> None:
    """As ssh(1) has it: the words are joined and read again."""
    far = Shell("far", ("sh", "-c", 'eval "$*"', "sh"), by_shell=True)
    assert far.output("printf", "%s\\n", "two words", "$HOME", "'") == "two words\n$HOME\n'\n"


def test_a_namespace_of_a_shell_is_reached_in_the_same_way() -> None:
    far = Shell("far", ("ssh", "far"), ("ssh", "far"), "/opt/python", by_shell=True)
    inside = far.inside("vm1")
    assert inside == Shell(
        "far/vm1",
        ("ssh", "far", "ip", "netns", "exec", "vm1"),
        ("ssh", "far", "ip", "netns", "exec", "vm1"),
        "/opt/python",
        by_shell=True,
    )
    assert inside.module("a.b") == ("/opt/python", "-m", "a.b")


@pytest.mark.parametrize(
    ("error", "refusals", "said"),
    [
        ("No route to host", 1, ""),
        ("No route to host", 0, "the proxy of site a has not refused it, though no rule allows"),
        (None, 1, "gave: a connection, but no rule allows"),
    ],
)
def test_what_the_near_site_has_not_refused_itself_is_not_called_refused(
    monkeypatch: pytest.MonkeyPatch, error: str | None, refusals: int, said: str
) -> None:
    """A host that cannot be reached, or the far site alone, gives the VM the same error."""
    asked = 0

    def counted(_view: SiteView) -> dict[str, int]:
        """Count what was sent after the first question when it is asked for the third time."""
        nonlocal asked
        asked += 1
        return {"ended_no_rule": 7 + (refusals if asked > 2 else 0), "ended_no_vm": 0}

    def sent(_shell: Shell, _transfer: Transfer) -> list[ClientView]:
        return [replace(GOOD, error=error)]

    monkeypatch.setattr(connections, "COUNTED_SECONDS", 60.0 if refusals else 0.0)
    monkeypatch.setattr(connections, "send", sent)
    monkeypatch.setattr(connections, "proxy_statistics", counted)
    (check,) = path_checks(paths(views(replace(TWO_SITES, allow=())))[0], 1)
    if not said:
        assert check.test().startswith("No route to host: no rule allows tcp from 10.1.0.11 to ")
        return
    with pytest.raises(CheckFailedError, match=said):
        check.test()
