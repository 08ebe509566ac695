"""Flow tables read by name, on real bridges: what is rendered, what differs, where packets go."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedsdn.config.loader import dump_federation, load_federation
from fedsdn.inspect.flows.pipeline_document import own_flows
from fedsdn.ovs.commands import OvsError
from fedsdn.ovs.database import read_database
from fedsdn.ovs.flows import bridge_flows
from fedsdn.shell import Shell
from fedsdn.site.plan import port_names
from tests.real.site_host import BRIDGE, LIMIT_S, SiteHost
from tests.unit.federations import two_sites

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
TOPOLOGIES = [
    ROOT / "topo" / f"{dump.parent.name}.yaml" for dump in sorted(ROOT.glob("flows/*/a.flows"))
]
PACKETS = 500
FLOWS = 140
"""Of site a, with two VMs and the bridge's own port."""
FEDSDN = "python -m fedsdn.cli.main flows"
HERE = "--config-file /run/fedsdn.conf"


@pytest.fixture(scope="module")
def host() -> Iterator[SiteHost]:
    with SiteHost() as one:
        one.output(f"ip link set {BRIDGE} addrgenmode none up")
        one.write(two_sites())
        for port in (*port_names(two_sites().site("a")), "tap-vm1", "tap-vm2"):
            one.output(
                f"ovs-vsctl add-port {BRIDGE} {port} -- set Interface {port} type=internal && "
                f"ip link set {port} addrgenmode none up"
            )
        yield one


@pytest.fixture
def bridge(host: SiteHost) -> SiteHost:
    """The host, whose bridge has exactly the flows of site a."""
    host.output(f"ovs-ofctl -O OpenFlow13 del-flows {BRIDGE}")
    host.give_flows(two_sites())
    return host


def run(host: SiteHost, command: str, status: int = 0) -> str:
    done = host.run(command, PYTHONPATH=str(ROOT))
    assert done.returncode == status, f"{command}: {done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout if status == 0 or done.stdout else done.stderr


def every_site() -> list[tuple[Path, str]]:
    return [
        (topology, site.name) for topology in TOPOLOGIES for site in load_federation(topology).sites
    ]


@pytest.fixture(scope="module")
def empty() -> Iterator[SiteHost]:
    """A host whose bridge has none of the names that a site's ports have."""
    with SiteHost() as one:
        one.output(f"ovs-vsctl del-br {BRIDGE} && ip link delete up1 && ip link delete up2")
        yield one


@pytest.mark.parametrize(
    ("topology", "name"), every_site(), ids=lambda value: getattr(value, "stem", value)
)
def test_what_is_rendered_is_what_the_application_installs(
    empty: SiteHost, topology: Path, name: str
) -> None:
    """The reference dumps are of running labs (``test_flows.py``)."""
    site = load_federation(topology).site(name)
    names = (*port_names(site), *(uplink.port for uplink in site.uplinks))
    ports = " ".join(
        f"-- add-port br-new {port} -- set Interface {port} type=internal" for port in names
    )
    empty.output(f"ovs-vsctl add-br br-new -- set Bridge br-new datapath_type=netdev {ports}")
    try:
        empty.output("ovs-ofctl del-flows br-new")
        text = run(empty, f"{FEDSDN} render {name} --federation {topology}")
        empty.output("ovs-ofctl -O OpenFlow13 --names add-flows br-new -", stdin=text)
        dump = empty.output("ovs-ofctl -O OpenFlow13 --names --no-stats dump-flows br-new")
    finally:
        empty.output("ovs-vsctl del-br br-new")
    reference = (ROOT / "flows" / topology.stem / f"{name}.flows").read_text().splitlines()
    of_ports = [flow for flow in reference if "table=107," in flow and "in_port=" in flow]
    assert len(of_ports) > 1
    assert own_flows(dump.splitlines()) == [flow for flow in reference if flow not in of_ports]


def test_a_bridge_as_it_should_be_has_no_difference(bridge: SiteHost) -> None:
    assert f"all {FLOWS} flows of site a are there" in run(bridge, f"{FEDSDN} diff {HERE}")


def test_differences_are_named_and_set_the_exit_status(bridge: SiteHost) -> None:
    for command in (
        "del-flows --strict BRIDGE table=105,priority=0",
        "add-flow BRIDGE cookie=0x1,table=110,priority=1,udp,actions=drop",
        "add-flow BRIDGE cookie=0x1,table=0,priority=65000,ipv6,actions=NORMAL",
        "mod-flows --strict BRIDGE table=130,priority=0,actions=NORMAL",
    ):
        bridge.output(f"ovs-ofctl -O OpenFlow13 {command.replace('BRIDGE', BRIDGE)}")
    text = run(bridge, f"{FEDSDN} diff {HERE}", status=1)
    assert "MISSING   WAN [105], priority 0: drop foreign source addresses" in text
    assert "FOREIGN   TENANT [110], priority 1" in text
    assert "SHADOWED  HOOK [0], priority 20000: may be to another site" in text
    assert "CHANGED   SERVER [130], priority 0: drop what the proxy may not send" in text
    found = json.loads(run(bridge, f"{FEDSDN} diff --json {HERE}", status=1))
    assert {one["fault"] for one in found} == {"missing", "foreign", "shadowed", "changed"}


def test_flows_that_keep_all_but_their_actions_have_changed(bridge: SiteHost) -> None:
    flows = [str(flow).partition(" actions=")[0] for flow in bridge.wanted_flows(two_sites())]
    dropped = "\n".join(f"{flow} actions=drop" for flow in flows)
    bridge.output(f"ovs-ofctl -O OpenFlow13 --names add-flows {BRIDGE} -", stdin=dropped)
    found = json.loads(run(bridge, f"{FEDSDN} diff --json {HERE}", status=1))
    dropping = sum(flow.actions == () for flow in bridge.wanted_flows(two_sites()))
    assert 0 < dropping < FLOWS
    assert [one["fault"] for one in found] == ["changed"] * (FLOWS - dropping)
    assert {one["other"]["actions"] for one in found} == {"drop"}


def test_an_empty_bridge_lacks_every_flow(bridge: SiteHost) -> None:
    bridge.output(f"ovs-ofctl -O OpenFlow13 del-flows {BRIDGE}")
    found = json.loads(run(bridge, f"{FEDSDN} diff --json {HERE}", status=1))
    assert [one["fault"] for one in found] == ["missing"] * FLOWS
    assert "0 flows" in run(bridge, f"{FEDSDN} dump {HERE}")


def test_another_owners_flow_is_foreign_even_if_it_goes_by_itself(bridge: SiteHost) -> None:
    bridge.output(
        f"ovs-ofctl -O OpenFlow13 add-flow {BRIDGE} "
        "cookie=0x1,hard_timeout=3600,table=110,priority=65000,actions=drop"
    )
    found = json.loads(run(bridge, f"{FEDSDN} diff --json {HERE}", status=1))
    assert {one["fault"] for one in found} == {"foreign", "shadowed"}


def test_without_ovs_vswitchd_the_remedy_is_to_start_it(bridge: SiteHost) -> None:
    """The database still has the bridge."""
    commands = ("flows diff", "flows dump", "connections", "trace 10.1.0.11 10.2.0.11:80")
    bridge.end("ovs-vswitchd")
    try:
        said = {
            run(bridge, f"python -m fedsdn.cli.main {command} {HERE}", status=1)
            for command in commands
        }
    finally:
        bridge.start_switch()
    assert said == {"fedsdn: ovs-vswitchd does not answer: start openvswitch-switch\n"}


@pytest.mark.parametrize("read", [read_database, lambda shell: bridge_flows(shell, BRIDGE)])
def test_who_is_not_root_is_told_so(bridge: SiteHost, read: Callable[[Shell], object]) -> None:
    enter = ("nsenter", f"--target={bridge.pid}", "--net", "--mount", "--pid")
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    read(Shell("root", enter))
    with pytest.raises(OvsError, match=r"^Open vSwitch's sockets are closed to this user: run as"):
        read(Shell("nobody", (*enter, *nobody)))


def test_a_dump_and_its_file_say_the_same(bridge: SiteHost) -> None:
    live = json.loads(run(bridge, f"{FEDSDN} dump --json {HERE}"))["tables"]
    bridge.output(f"ovs-ofctl -O OpenFlow13 --names dump-flows {BRIDGE} >/run/saved")
    saved = json.loads(run(bridge, f"{FEDSDN} dump /run/saved --json"))["tables"]
    for tables in (live, saved):
        for table in tables:
            for flow in table["flows"]:
                del flow["seconds"], flow["packets"], flow["bytes"]
    assert live == saved
    assert sum(len(table["flows"]) for table in live) == FLOWS


def test_watch_prints_rates_until_ctrl_c(bridge: SiteHost) -> None:
    command = (sys.executable, "-m", "fedsdn.cli.main", "flows", "dump", "--watch", *HERE.split())
    with bridge.program(*command, stderr=subprocess.STDOUT) as watch:
        assert watch.stdout is not None
        shown = [next(watch.stdout)]
        while sum(line == shown[0] for line in shown) < 3:
            shown.append(next(watch.stdout))
        watch.send_signal(signal.SIGINT)
        rest = watch.communicate(timeout=LIMIT_S)[0]
    assert watch.returncode == 0
    assert shown[0] == f"bridge {BRIDGE}: {FLOWS} flows\n"
    assert sum("/s" in line for line in shown) >= 2 * FLOWS
    assert "Traceback" not in rest


def test_the_page_is_written(bridge: SiteHost) -> None:
    run(bridge, f"{FEDSDN} dump --html /run/page.html {HERE}")
    assert "<svg" in (bridge.run_directory / "page.html").read_text()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("dump --table 7", "fedsdn: no table '7': name one of HOOK, UPLINK"),
        ("dump /run/none", "fedsdn: /run/none: No such file or directory"),
        ("dump /run/openvswitch/db.sock", "fedsdn: /run/openvswitch/db.sock: No such device"),
        ("dump /run/half", "fedsdn: /run/half, line 2: half a flow, 'cookie=0x"),
        ("dump /run/newer", "fedsdn: /run/newer, line 1: 'cookie=0x0, flux=1 actions=drop'"),
        ("dump /run/half --watch", "fedsdn: /run/half does not change"),
        ("diff --site x", "fedsdn: unknown site 'x'"),
        ("render c --federation /run/federation.yaml", "fedsdn: unknown site 'c'"),
        (
            "dump --federation /run/other.yaml",
            f"fedsdn: no bridge 'br-none' among {BRIDGE}: name the right one in "
            "provider_network.bridge, or ovs-vsctl add-br br-none",
        ),
    ],
)
def test_bad_input_is_one_clear_line(bridge: SiteHost, command: str, message: str) -> None:
    bridge.output(f"ovs-ofctl -O OpenFlow13 dump-flows {BRIDGE} >/run/whole")
    bridge.output("sed -n '1p; 2{s/ actions=.*//p}' /run/whole >/run/half")
    bridge.output("echo 'cookie=0x0, flux=1 actions=drop' >/run/newer")
    bridge.output("sed s/br-provider/br-none/ /run/federation.yaml >/run/other.yaml")
    options = "" if command.startswith("render") else HERE
    said = run(bridge, f"{FEDSDN} {command} {options}", status=1)
    assert said.startswith(message)
    assert said.count("\n") == 1


def test_a_trace_foretells_where_random_packets_go(bridge: SiteHost) -> None:
    (bridge.run_directory / "two-site.yaml").write_text(dump_federation(two_sites()))
    # Each time others where somebody looks for what is wrong, and the same in a whole suite.
    seed = 1 if "PYTEST_XDIST_WORKER" in os.environ else int.from_bytes(os.urandom(3), "big")
    command = f"python -m tests.real.random_packets /run/two-site.yaml a {PACKETS} {seed}"
    found = json.loads(run(bridge, command))
    assert found["wrong"] == [], f"seed {seed}"
    kinds = ("open", "on", "lost", "stray", "turn", "pretend", "uplink", "datagram")
    assert set(found["kinds"]) == set(kinds)
    assert 0 < found["dropped"] < PACKETS
