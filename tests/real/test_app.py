"""osken-manager fedsdn.app on a real bridge: whatever happens, the flows come out right."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedsdn.inspect.flows.pipeline_document import own_flows
from fedsdn.lab.host import CONFIG_FILE, FEDERATION_FILE, Host
from fedsdn.lab.lab import Lab
from fedsdn.lab.operator import CONTROLLER, start_controller
from fedsdn.lab.queues import widen
from fedsdn.lab.wait import wait_until
from fedsdn.openflow.bridge_socket import LIST_CONNECTIONS, is_connected
from tests.real.conftest import SITE_UP

pytestmark = pytest.mark.real

LIMIT_SECONDS = 60.0
FOREIGN_ROW = "cookie=0x99,table=3,priority=7,ip,nw_dst=198.51.100.1 actions=drop"


@pytest.fixture
def host(lab: Lab) -> Iterator[Host]:
    """Site a, whose controller and federation file are put back afterwards."""
    host = lab.host("a")
    before = federation_file(host).read_text()
    yield host
    federation_file(host).write_text(before)
    if not host.runs(CONTROLLER):
        start_controller(host)
    wait_for_flows(host, REFERENCE)


REFERENCE = (Path(__file__).parents[2] / "flows/two-site/a.flows").read_text().splitlines()


def federation_file(host: Host) -> Path:
    return host.run_directory / FEDERATION_FILE.relative_to("/run")


def ofctl(host: Host, *command: str) -> str:
    return host.run("ovs-ofctl", "-O", "OpenFlow13", *command)


def flows(host: Host) -> list[str]:
    return own_flows(ofctl(host, "--names", "--no-stats", "dump-flows", "br-provider").splitlines())


def wait_for_flows(host: Host, wanted: list[str]) -> None:
    wait_until(
        lambda: flows(host) == wanted,
        LIMIT_SECONDS,
        lambda: f"not the wanted flows: {set(flows(host)) ^ set(wanted)}",
    )


def ages(host: Host) -> dict[str, float]:
    """Seconds since each flow was installed, by its table, match and actions."""
    found = {}
    for line in ofctl(host, "--names", "dump-flows", "br-provider").splitlines():
        if age := re.search(r"cookie=0xfed5.*?duration=([0-9.]+)s, ", line):
            flow = re.sub(r"(duration|n_packets|n_bytes|idle_age|hard_age)=[0-9.]+s?, ?", "", line)
            found[flow] = float(age[1])
    return found


def assert_kept(before: dict[str, float], after: dict[str, float]) -> None:
    """See that flows have the age that they had, and more."""
    assert [flow for flow, age in before.items() if after[flow] < age] == []


def stop_controller(host: Host) -> None:
    daemon = host.daemon(CONTROLLER)
    daemon.signal("TERM")
    wait_until(lambda: not daemon.alive(), LIMIT_SECONDS, lambda: "the controller goes on")


@contextmanager
def put_right(host: Host) -> Iterator[None]:
    """See that what the block does to flows is noticed, and that all are as before in the end.

    They are so again before one can look.
    """
    said = "our flows (table "
    before = host.log(CONTROLLER).read_text().count(said)
    host.daemon(CONTROLLER).signal("STOP")
    try:
        yield
        assert flows(host) != REFERENCE
    finally:
        host.daemon(CONTROLLER).signal("CONT")
    wait_for_flows(host, REFERENCE)
    wait_until(  # of many changes the last is said once a minute
        lambda: host.log(CONTROLLER).read_text().count(said) > before,
        2 * LIMIT_SECONDS,
        lambda: "nobody says so",
    )


def test_every_deleted_flow_comes_back_and_foreign_flows_stay(host: Host) -> None:
    with put_right(host):
        ofctl(host, "add-flow", "br-provider", FOREIGN_ROW)
        ofctl(host, "del-flows", "br-provider", "table=115")
        ours = "cookie=0xfed5000000000000/0xffff000000000000"
        ofctl(host, "del-flows", "br-provider", f"{ours},table=0")
    assert "cookie=0x99" in ofctl(host, "dump-flows", "br-provider", "table=3")
    ofctl(host, "del-flows", "br-provider", "table=3")


def test_changed_actions_and_cookies_are_put_right(host: Host) -> None:
    with put_right(host):
        ofctl(host, "--strict", "mod-flows", "br-provider", "table=105,priority=0,actions=NORMAL")
        ofctl(host, "add-flow", "br-provider", "cookie=0x99,table=110,priority=0,actions=drop")


def test_flows_of_others_in_the_way_are_named_and_stay(host: Host) -> None:
    """In a table of ours, or above our hook in table 0."""
    hiding = "cookie=0x99,table=0,priority=40000,tcp,nw_dst=10.2.0.0/16,actions=NORMAL"
    for theirs in ("cookie=0x99,table=110,priority=1,udp,actions=drop", hiding):
        ofctl(host, "add-flow", "br-provider", theirs)
        table = f"table={theirs.split(',')[1].removeprefix('table=')}"
        wait_until(
            lambda table=table: (  # type: ignore[misc]
                f"the first in {table.replace('=', ' ')} with priority"
                in host.log(CONTROLLER).read_text()
            ),
            LIMIT_SECONDS,
            lambda: "nobody says so",
        )
        assert "cookie=0x99" in ofctl(host, "dump-flows", "br-provider", table)
        ofctl(host, "del-flows", "br-provider", "cookie=0x99/-1")


def test_restart_keeps_flows_and_their_counters(host: Host) -> None:
    """A restarted controller finds that all is as it wants, and sends nothing."""
    before = ages(host)
    stop_controller(host)
    assert flows(host) == REFERENCE, "flows stay while the controller is away"
    log = host.log(CONTROLLER)
    start_controller(host)
    wait_until(
        lambda: is_connected(host.run(*LIST_CONNECTIONS), "br-provider"),
        LIMIT_SECONDS,
        lambda: f"not connected: {log}",
    )
    wait_for_flows(host, REFERENCE)
    assert_kept(before, ages(host))


def test_flows_follow_a_changed_federation_file(host: Host) -> None:
    """Only the difference is sent: flows that stay keep their age."""
    before = ages(host)
    text = federation_file(host).read_text()
    federation_file(host).write_text(
        text.replace("10.2.0.0/24", "10.7.0.0/24").replace(
            "proxy_address: 10.2.0.2", "proxy_address: 10.7.0.2"
        )
    )
    wanted = [flow.replace("10.2.0.0/24", "10.7.0.0/24") for flow in REFERENCE]
    wait_for_flows(host, sorted(wanted, key=wanted.index))
    kept = {flow: age for flow, age in before.items() if "10.2.0.0/24" not in flow}
    assert 0 < len(kept) < len(REFERENCE) == len(before)
    assert_kept(kept, ages(host))


@pytest.mark.parametrize("text", ["", "sites: [", "proxy_port: 1080\nsites: {b: {}}\n"])
def test_bad_federation_file_changes_nothing(host: Host, text: str) -> None:
    before = host.log(CONTROLLER).read_text().count("keeping the federation as it was")
    federation_file(host).write_text(text)
    wait_until(
        lambda: host.log(CONTROLLER).read_text().count("keeping the federation as it was") > before,
        LIMIT_SECONDS,
        lambda: "the bad file was not noticed",
    )
    assert flows(host) == REFERENCE
    assert "Traceback" not in host.log(CONTROLLER).read_text()


def test_port_that_comes_back_with_another_number(host: Host) -> None:
    """Flows of a missing port go; with the port they come back, whatever its number is now."""
    number = host.run("ovs-vsctl", "get", "interface", "up2", "ofport").strip()
    tag = host.run("ovs-vsctl", "get", "port", "up2", "tag").strip()
    host.run("ovs-vsctl", "del-port", "br-provider", "up2")
    without = [flow for flow in REFERENCE if not re.search("(in_port=|output:)up2", flow)]
    wait_for_flows(host, without)
    wait_until(
        lambda: "no port up2" in host.log(CONTROLLER).read_text(),
        LIMIT_SECONDS,
        lambda: "nobody says so",
    )
    new = str(int(number) + 40)
    add = ("add-port", "br-provider", "up2", f"tag={tag}", "--", "set", "interface", "up2")
    host.run("ovs-vsctl", *add, f"ofport_request={new}")
    assert host.run("ovs-vsctl", "get", "interface", "up2", "ofport").strip() == new
    wait_for_flows(host, REFERENCE)
    host.run(*SITE_UP)  # keeps the new port from NORMAL, too
    widen(host)  # the lab's ports have room for frames


def test_a_restarted_switch_gets_its_flows_again(host: Host) -> None:
    """A first controller, and the loss of the last, makes Open vSwitch forget every flow."""
    host.run("ovs-vsctl", "set-controller", "br-provider", "tcp:127.0.0.1:1")
    host.run("ovs-vsctl", "del-controller", "br-provider")
    wait_for_flows(host, REFERENCE)


def test_nothing_listens_for_bridges(host: Host) -> None:
    """The application goes to its bridge: no other can be one, and nobody can be its controller."""
    assert "osken-manager" not in host.run("ss", "--tcp", "--listening", "--processes")


def test_steady_state_has_no_packet_in(host: Host) -> None:
    """No flow sends anything to the controller."""
    assert "CONTROLLER" not in ofctl(host, "dump-flows", "br-provider")


def launch(host: Host, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*host.prefix, "osken-manager", *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            [f"--config-file={CONFIG_FILE}", "fedsdn.app"],
            "another application runs on this host",
        ),
        ([], "arguments are required: app"),
        (["--config-file=/nowhere.conf", "fedsdn.app"], "/nowhere.conf"),
        (["fedsdn.app"], "site is not named"),
        (["fedsdn.nothing"], "no such application"),
        (
            [f"--config-file={CONFIG_FILE}", "--fedsdn-site=z", "fedsdn.app"],
            "unknown site 'z'",
        ),
        (
            [f"--config-file={CONFIG_FILE}", "--fedsdn-federation=/nowhere.yaml", "fedsdn.app"],
            "/nowhere.yaml",
        ),
        (["--socket-timeout=high", "fedsdn.app"], "high"),
        (["--no-such-option", "fedsdn.app"], "no-such-option"),
    ],
)  # fmt: skip
def test_launcher_says_what_is_wrong_in_one_line(lab: Lab, arguments: list[str], said: str) -> None:
    done = launch(lab.host("a"), *arguments)
    assert done.returncode != 0
    complaint = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert said in complaint[-1]
    assert "Traceback" not in done.stderr
