"""Verify on a lab: all is well, and each thing that breaks fails the check that is about it."""

import json
import os
import re
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedsdn.cli.views import lab_views
from fedsdn.lab import operator
from fedsdn.lab.host import Host
from fedsdn.lab.lab import Lab
from fedsdn.lab.wait import wait_until
from fedsdn.pipeline.declarations import Table
from fedsdn.traffic.values import TransferDirection
from fedsdn.uplinks.status import read_status
from fedsdn.verify import bridge as bridge_checks
from fedsdn.verify import loss as loss_checks
from fedsdn.verify.checks import CheckFailedError, Outcome, Result, run_checks
from fedsdn.verify.loss import UplinkLoss, loss_check
from fedsdn.verify.paths import paths
from fedsdn.verify.plan import Effort, all_checks
from fedsdn.verify.proxy import endpoints
from fedsdn.verify.site import SiteCheck, section, site_checks, traffic_counter_checks
from fedsdn.verify.throughput import Wires, carry, check_shares
from fedsdn.verify.tunnels import tunnels_line
from fedsdn.verify.view import SiteView, uplink_pairs

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("new_proxies")]

BIN = Path(sys.executable).parent
EFFORT = Effort(connections=50, seconds=1.0)
LIMIT = 60.0


def look(view: SiteView) -> dict[str, Result]:
    checks = [*site_checks(view), *traffic_counter_checks(view)]
    return {result.name: result for result in run_checks(checks)}


def names(results: dict[str, Result], outcome: Outcome) -> set[str]:
    return {name for name, result in results.items() if result.outcome is outcome}


def the_only_failure(view: SiteView, name: str) -> Result:
    results = look(view)
    assert names(results, Outcome.FAILED) == {name}
    failure = results[name]
    assert failure.found
    skipped = [results[other] for other in names(results, Outcome.SKIPPED)]
    assert {result.found for result in skipped} <= {f"because of '{section(view)}: {name}'"}
    return failure


def mend(fix: str) -> None:
    """Do what the report says, as a person would."""
    subprocess.run(
        shlex.split(fix),
        check=True,
        capture_output=True,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
    )


def passes(test: Callable[[SiteView], str], view: SiteView) -> bool:
    try:
        test(view)
    except CheckFailedError:
        return False
    return True


def all_well(view: SiteView) -> None:
    results = look(view)
    assert names(results, Outcome.PASSED) == results.keys(), results


@pytest.fixture
def view(lab: Lab) -> SiteView:
    return lab_views(lab)[0]


@pytest.fixture
def host(lab: Lab) -> Host:
    return lab.host("a")


def test_everything_passes_but_for_speed(lab: Lab) -> None:
    """How much of the sum is reached depends on the machine; that is for verify itself to say."""
    checks = [c for c in all_checks(lab_views(lab), EFFORT) if c.section != "all uplinks at once"]
    results = list(run_checks(checks))
    assert [result for result in results if result.outcome is not Outcome.PASSED] == []
    found = {(result.section, result.name): result.found for result in results}
    assert found["b → a, IPv6", "source address and port"] == "50 of 50 right"


@pytest.mark.parametrize("direction", ["upload", "download"])
@pytest.mark.parametrize("family", [4, 6])
def test_one_connection_uses_every_uplink(
    lab: Lab, family: int, direction: TransferDirection
) -> None:
    views = lab_views(lab)
    path = next(path for path in paths(views) if path.family == family)
    wires = Wires(views[0], views[1], EFFORT.seconds)
    carried = carry(wires, path, direction)
    assert carried.shares.keys() == {"up1", "up2"}
    check_shares(carried, [100e6, 100e6])


def test_what_an_uplink_carries_alone_is_measured_and_leaves_the_filter_as_it_was(
    lab: Lab,
) -> None:
    views = lab_views(lab)
    alone = Wires(views[0], views[1], 1.5).alone("upload")
    assert all(0 < rate < 110e6 for rate in alone)
    for view in views:
        all_well(view)


@contextmanager
def process(host: Host, pattern: str, signal: str) -> Iterator[None]:
    """Send a signal to the daemon of this command line on the host, and continue it at the end.

    The application is not halted while it puts something back: ``site up`` would wait for that.
    """
    number = host.run("pgrep", "--oldest", "--full", pattern).strip()
    host.run("kill", f"-{signal}", number)
    while "@fedsdn-site-change" in host.run("cat", "/proc/net/unix"):
        host.run("sh", "-c", f"kill -CONT {number}; sleep 0.1; kill -{signal} {number}")
    try:
        yield
    finally:
        host.run("sh", "-c", f"kill -CONT {number} 2>/dev/null || true")


def test_deleted_flows_fail_flows(view: SiteView, host: Host) -> None:
    """The application is halted, or it would put them back at once."""
    with process(host, "osken-manager", "STOP"):
        view.shell.output("ovs-ofctl", "-O", "OpenFlow13", "del-flows", view.bridge, "table=110")
        failure = the_only_failure(view, SiteCheck.FLOWS)
    assert "missing (table 110)" in failure.found
    assert "osken-manager" in failure.fix
    wait_until(
        lambda: passes(bridge_checks.flows, view), LIMIT, lambda: "the flows do not come back"
    )


def test_an_application_that_ended_fails_its_check_only(
    lab: Lab, view: SiteView, host: Host
) -> None:
    with process(host, "osken-manager", "TERM"):
        wait_until(
            lambda: not passes(bridge_checks.application, view),
            LIMIT,
            lambda: "the application still runs",
        )
        failure = the_only_failure(view, SiteCheck.APPLICATION)
        assert "is not connected" in failure.found
        assert failure.fix.endswith(
            "osken-manager --config-file /run/fedsdn/fedsdn.conf fedsdn.app"
        )
    site = lab.topology.federation.site("a")
    operator.wait_for_controller(host, site, operator.start_controller(host))
    all_well(view)


def test_flows_whose_actions_were_replaced_fail_flows(lab: Lab, view: SiteView, host: Host) -> None:
    """Without the application, or it might put them right before they are seen."""
    with process(host, "osken-manager", "TERM"):
        wait_until(
            lambda: not passes(bridge_checks.application, view),
            LIMIT,
            lambda: "the application still runs",
        )
    try:
        change = ("ovs-ofctl", "-O", "OpenFlow13", "mod-flows", view.bridge)
        for table in Table:
            view.shell.output(*change, f"table={table:d},actions=drop")
        results = look(view)
    finally:
        site = lab.topology.federation.site("a")
        operator.wait_for_controller(host, site, operator.start_controller(host))
    assert names(results, Outcome.FAILED) == {SiteCheck.APPLICATION, SiteCheck.FLOWS}, results
    failure = results[SiteCheck.FLOWS]
    assert re.match(r"140 wanted: \d+ changed \(table 0, 1", failure.found)
    assert "fedsdn flows diff; (re)start the application: " in failure.fix
    wait_until(lambda: _all_alive(host), LIMIT, lambda: "the paths stay dead")
    wait_until(lambda: passes(endpoints, view), LIMIT, lambda: "an endpoint is missing")
    wait_until(lambda: passes(bridge_checks.flows, view), LIMIT, lambda: "flows stay changed")
    all_well(view)


def test_a_proxy_that_ended_fails_its_check_and_skips_what_asks_it(
    lab: Lab, view: SiteView, host: Host
) -> None:
    with process(host, "fedsdn proxy run", "KILL"):
        failure = the_only_failure(view, SiteCheck.PROXY)
        skipped = names(look(view), Outcome.SKIPPED)
    assert skipped == {SiteCheck.LISTENING, SiteCheck.FAILURES}
    assert failure.fix.endswith("fedsdn proxy run")
    operator.wait_for_proxy(host, lab.topology.federation, operator.start_proxy(host))
    all_well(view)


def test_a_pulled_wire_fails_carrier_at_both_ends(lab: Lab) -> None:
    views = lab_views(lab)
    lab.change_wire("wire1", carrier=False)
    try:
        for view in views:
            host = lab.host(view.name)
            wait_until(lambda host=host: _link(host) == "down", LIMIT, lambda: "up1 stays up")  # type: ignore[misc]
            failure = the_only_failure(view, SiteCheck.CARRIER)
            assert "up1 (up1) is down" in failure.found
    finally:
        lab.change_wire("wire1", carrier=True)
    for view in views:
        host = lab.host(view.name)
        wait_until(lambda host=host: _link(host) == "up", LIMIT, lambda: "up1 stays down")  # type: ignore[misc]
        wait_until(lambda host=host: _all_alive(host), LIMIT, lambda: "up1 stays dead")  # type: ignore[misc]
        wait_until(lambda view=view: passes(endpoints, view), LIMIT, lambda: "no endpoint of up1")  # type: ignore[misc]
        all_well(view)


def _loss(lab: Lab, plug: Callable[[bool], None]) -> Result:
    """Lose a's up1 under a transfer; how much it carries afterwards is for the benchmarks."""
    views = lab_views(lab)
    own, other = uplink_pairs(views[0].site, views[1].site)[0]
    (result,) = run_checks([loss_check(UplinkLoss(paths(views)[0], own, other, plug, seconds=6.0))])
    return result


def test_a_connection_lives_through_the_loss_of_an_uplink(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_checks, "_LEAST_AGAIN", 0.0)
    pulled = []

    def plug(carrier: bool) -> None:
        pulled.append(carrier)
        lab.change_wire("wire1", carrier=carrier)

    result = _loss(lab, plug)
    assert result.outcome is Outcome.PASSED, result
    assert pulled == [False, True]
    assert "ms of silence" in result.found


def test_a_loss_that_nobody_notices_fails(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_checks, "_NOTICE_SECONDS", 1.0)
    result = _loss(lab, lambda _carrier: None)
    assert result.outcome is Outcome.FAILED
    assert result.found == "a did not notice within 1 s that up1 to b/up1 is down"
    assert result.fix.endswith("fedsdn uplinks")


def _all_alive(host: Host) -> bool:
    status = read_status(host.run_directory / "fedsdn/uplinks.json")
    return status is not None and not status.dead


def _link(host: Host) -> str:
    return host.run("ovs-vsctl", "get", "interface", "up1", "link_state").strip()


@pytest.mark.parametrize(
    ("trouble", "check", "found"),
    [
        ("ip address del 192.0.2.1/24 dev wan-up1", SiteCheck.ADDRESSES, "192.0.2.1 on wan-up1"),
        ("ip link set wan-up2 down", SiteCheck.ADDRESSES, "2001:db8:2::1 on wan-up2"),
        ("sysctl -q net.mptcp.enabled=0", SiteCheck.MPTCP, "net.mptcp.enabled is 0"),
        ("nft delete table inet fedsdn", SiteCheck.SET_UP, "packet filter table inet fedsdn"),
        ("ip rule del from 192.0.2.1", SiteCheck.SET_UP, "from 192.0.2.1 lookup 201"),
    ],
)
def test_what_breaks_in_the_namespace_fails_its_check_and_the_fix_mends_it(
    view: SiteView, host: Host, trouble: str, check: SiteCheck, found: str
) -> None:
    """The application is halted, or it would put everything back at once."""
    with process(host, "osken-manager", "STOP"):
        view.proxy.output(*trouble.split())
        failure = the_only_failure(view, check)
        assert found in failure.found
        mend(failure.fix)
        all_well(view)


def test_endpoints_that_are_gone_fail_their_check_and_the_fix_mends_it(
    view: SiteView, host: Host
) -> None:
    """The application is halted, or it would put them back at once."""
    with process(host, "osken-manager", "STOP"):
        view.proxy.output("ip", "mptcp", "endpoint", "flush")
        failure = the_only_failure(view, SiteCheck.ENDPOINTS)
        assert "endpoints none, uplinks 192.0.2.1" in failure.found
        mend(failure.fix)
        all_well(view)


def test_a_tunnel_without_its_peer_fails_its_check_and_the_application_sets_it_again(
    view: SiteView, host: Host
) -> None:
    key = view.proxy.output("wg", "show", "t1-up1", "peers").strip()
    with process(host, "osken-manager", "STOP"):
        view.proxy.output("wg", "set", "t1-up1", "peer", key, "remove")
        failure = the_only_failure(view, SiteCheck.TUNNELS)
    assert failure.found == "up1 to b/up1: t1-up1 does not have the peer"
    assert "osken-manager" in failure.fix
    wait_until(lambda: passes(tunnels, view), LIMIT, lambda: "the peer does not come back")
    wait_until(lambda: _all_alive(host), LIMIT, lambda: "a path stays dead")
    wait_until(lambda: passes(endpoints, view), LIMIT, lambda: "an endpoint is missing")
    all_well(view)


def tunnels(view: SiteView) -> str:
    return tunnels_line(view, None)


@pytest.mark.parametrize("port", ["server", "up1"])
def test_a_port_that_is_gone_fails_ports_and_the_fix_mends_it(
    view: SiteView, host: Host, port: str
) -> None:
    view.shell.output("ovs-vsctl", "del-port", view.bridge, port)
    failure = the_only_failure(view, SiteCheck.PORTS)
    assert repr(port)[1:-1] in failure.found
    mend(failure.fix)
    wait_until(
        lambda: passes(bridge_checks.flows, view), LIMIT, lambda: "the flows do not come back"
    )
    # Flows are told apart without their port's number, which is another one now.
    wait_until(lambda: _all_alive(host), LIMIT, lambda: "up1 stays dead")
    if port == "up1":
        mend(the_only_failure(view, SiteCheck.SET_UP).fix)  # a new port is not kept from NORMAL yet
    all_well(view)


def on_site_a(lab: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*lab.prefix("a"), "fedsdn", "verify", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_an_operator_verifies_the_site_alone(lab: Lab, tmp_path: Path) -> None:
    junit = tmp_path / "verify.xml"
    done = on_site_a(lab, "--junit", str(junit))
    assert done.returncode == 0, done.stdout
    count = len(look(lab_views(lab)[0]))
    assert done.stdout.splitlines()[-1] == f"{count} passed, 0 failed, 0 skipped"
    root = ET.parse(junit).getroot()  # noqa: S314 -- our own file
    assert (root.get("tests"), root.get("failures")) == (str(count), "0")


def test_a_failure_is_exit_status_1_and_in_every_report(
    lab: Lab, view: SiteView, tmp_path: Path
) -> None:
    junit = tmp_path / "verify.xml"
    with process(lab.host("a"), "osken-manager", "STOP"):
        view.proxy.output("ip", "mptcp", "endpoint", "flush")
        done = on_site_a(lab, "--json", "--junit", str(junit))
        mend(view.set_up)
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert report["totals"]["failed"] == 1
    (failed,) = (check for check in report["checks"] if check["outcome"] == "failed")
    assert (failed["section"], failed["name"]) == ("site a", SiteCheck.ENDPOINTS)
    assert failed["fix"] == "fedsdn site up --config-file=/run/fedsdn/fedsdn.conf"
    root = ET.parse(junit).getroot()  # noqa: S314 -- our own file
    assert [case.get("name") for case in root.iter("testcase") if case.find("failure") is not None]


def test_a_place_that_cannot_be_written_is_one_line(lab: Lab) -> None:
    done = on_site_a(lab, "--junit", "/nowhere/verify.xml")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "fedsdn: /nowhere/verify.xml: cannot write the results: No such file or directory"
    ]


def test_a_lab_that_is_not_there_is_one_line() -> None:
    command = [str(BIN / "fedsdn"), "verify", "--lab", "no-such-lab"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "no-such-lab" in done.stderr
