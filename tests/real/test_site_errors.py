"""What an operator can get wrong before fedsdn site up: one line each, and nothing is made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fedsdn.errors import FINAL_STATUS
from tests.real.site_host import BRIDGE, SiteHost, federation, wait_until

pytestmark = pytest.mark.real

Idle = tuple[SiteHost, dict[str, Any]]


@pytest.fixture(scope="module")
def one_host() -> Iterator[Idle]:
    with SiteHost() as host:
        yield host, host.traces()


@pytest.fixture
def idle_host(one_host: Idle) -> Idle:
    """A host that every test leaves as it found it, and what there is on it."""
    one_host[0].write(federation())
    return one_host


@pytest.fixture
def host() -> Iterator[SiteHost]:
    with SiteHost() as host:
        yield host


def refused(host: SiteHost, command: str = "up", **environment: str) -> str:
    """The one line with which a command refuses; that uplinks share a VLAN it warns of before."""
    done = host.site(command, **environment)
    assert done.returncode in {1, FINAL_STATUS}, done.stdout
    assert done.stdout == ""
    *warnings, line = done.stderr.splitlines()
    assert all("share a VLAN" in warning for warning in warnings)
    assert line.startswith("fedsdn: ")
    return line


@pytest.mark.parametrize(
    ("trouble", "remedy", "line"),
    [
        (
            f"ovs-vsctl del-port {BRIDGE} up2",
            f"ovs-vsctl add-port {BRIDGE} up2",
            f"port up2 of uplink up2 is on no bridge: run 'ovs-vsctl add-port {BRIDGE} up2'",
        ),
        (
            f"ovs-vsctl add-br br-other -- del-port {BRIDGE} up2 -- add-port br-other up2",
            f"ovs-vsctl del-br br-other -- add-port {BRIDGE} up2",
            "port up2 of uplink up2 is on bridge br-other",
        ),
        (
            "ip netns add fedsdn",
            "ip netns delete fedsdn",
            "network namespace fedsdn is already there and was not made by 'fedsdn site up'",
        ),
        (
            f"ovs-vsctl add-port {BRIDGE} socksifier -- set Interface socksifier type=internal",
            f"ovs-vsctl del-port {BRIDGE} socksifier",
            f"port socksifier is already on bridge {BRIDGE} and was not made by 'fedsdn site up'",
        ),
        (
            "ip link add wan-up1 type veth peer name other",
            "ip link delete wan-up1",
            "interface wan-up1 is already there and was not made by 'fedsdn site up'",
        ),
        (
            "mount -t tmpfs none /proc/sys/net",
            "umount /proc/sys/net; rm -rf /run/mount",
            "this kernel has no /proc/sys/net/mptcp; needed is Multipath TCP",
        ),
    ],
)
def test_refusals(idle_host: Idle, trouble: str, remedy: str, line: str) -> None:
    host, before = idle_host
    host.output(trouble)
    troubled = None if "mount" in trouble else host.traces()
    assert line in refused(host)
    assert troubled is None or host.traces() == troubled
    host.output(remedy)
    assert host.traces() == before


def test_bridge_missing(host: SiteHost) -> None:
    host.output(f"ovs-vsctl del-br {BRIDGE}")
    line = refused(host)
    assert f"bridge {BRIDGE} of site a is missing, Open vSwitch has none" in line
    assert host.json("ip -json netns") == []


def test_nobody_installs_the_table_miss_flow(idle_host: Idle) -> None:
    host, before = idle_host
    host.write(federation(table_miss="none"))
    assert f"bridge {BRIDGE} has no table-miss flow" in refused(host)
    assert host.traces() == before
    host.output(f"ovs-ofctl add-flow {BRIDGE} priority=0,actions=NORMAL")
    host.up()
    host.down()
    host.output(f"ovs-ofctl del-flows {BRIDGE}")
    assert host.traces() == before


@pytest.mark.parametrize("command", ["up", "down", "show"])
def test_not_root(idle_host: Idle, command: str) -> None:
    host, before = idle_host
    program = f"setpriv --reuid=65534 --clear-groups fedsdn site {command}"
    done = host.run(program, FEDSDN_CONFIG_FILE="/run/fedsdn.conf")
    assert done.returncode == 1
    assert done.stderr == "fedsdn: this needs root, and runs as user 65534: use sudo\n"
    assert host.traces() == before


@pytest.mark.parametrize(
    ("tool", "package"), [("nft", "nftables"), ("ovs-vsctl", "openvswitch-switch")]
)
def test_tool_not_installed(idle_host: Idle, tool: str, package: str) -> None:
    host, before = idle_host
    host.output(
        "mkdir /run/path && cp -s /usr/bin/* /usr/sbin/* /bin/* /sbin/* /run/path 2>/dev/null; "
        f"cp -s $(dirname $(command -v fedsdn))/* /run/path 2>/dev/null; rm /run/path/{tool}"
    )
    line = refused(host, PATH="/run/path")
    host.output("rm -r /run/path")
    assert f"{tool} is not installed: install package {package}" in line
    assert host.traces() == before


@pytest.mark.parametrize("command", ["up", "down", "show"])
def test_database_does_not_answer(host: SiteHost, command: str) -> None:
    host.end("ovsdb-server")
    assert "Open vSwitch's database does not answer: start openvswitch-switch" in refused(
        host, command
    )
    assert host.json("ip -json netns") == []


def test_switch_does_not_answer(host: SiteHost) -> None:
    host.end("ovs-vswitchd")
    assert "ovs-vswitchd does not answer: start openvswitch-switch" in refused(host)
    assert host.json("ip -json netns") == []


def test_down_without_the_switch(host: SiteHost) -> None:
    host.up()
    host.end("ovs-vswitchd")
    host.down()
    assert host.json("ip -json netns") == []
    assert "socksifier" not in host.output("ip -oneline link")
    assert host.vsctl("name", "Port") == [[BRIDGE], ["up1"], ["up2"]]
    assert host.vsctl("target", "Controller") == []


def test_set_up_as_another_site(idle_host: Idle) -> None:
    host, before = idle_host
    host.up()
    outer = host.traces()
    host.write_settings("b")
    said = "this host is set up as site 'a', not 'b'"
    assert said in refused(host, "up")
    assert said in refused(host, "down")
    assert host.traces() == outer
    host.write_settings("a")
    host.down()
    assert host.traces() == before


@pytest.mark.parametrize("command", ["up", "down"])
def test_one_at_a_time(idle_host: Idle, command: str) -> None:
    host, before = idle_host
    host.output(
        'python -c "import socket, time; s = socket.socket(socket.AF_UNIX); '
        "s.bind('\\0fedsdn-site'); time.sleep(300)\" >/dev/null 2>&1 & echo $! >/run/lock.pid"
    )
    pid = (host.run_directory / "lock.pid").read_text().strip()
    wait_until(lambda: "@fedsdn-site" in host.output("cat /proc/net/unix"))
    line = refused(host, command)
    host.output(f"kill {pid}; rm /run/lock.pid")
    assert "another 'fedsdn site up' or 'fedsdn site down' runs on this host" in line
    wait_until(lambda: "@fedsdn-site" not in host.output("cat /proc/net/unix"))
    assert host.traces() == before


def test_damaged_record(host: SiteHost) -> None:
    before = host.traces()
    host.up()
    record = host.run_directory / "fedsdn" / "site.json"
    record.write_text("{}")
    for command in ("up", "down", "show"):
        line = refused(host, command)
        assert "/run/fedsdn/site.json is not what 'fedsdn site up' writes" in line
    record.write_text('{"site": "a"}')
    host.down()
    assert host.traces() == before


def test_unknown_site(idle_host: Idle) -> None:
    host, before = idle_host
    host.write_settings("z")
    assert "unknown site 'z'" in refused(host)
    assert host.traces() == before


def test_down_waits_for_a_command_that_ends(host: SiteHost) -> None:
    """The application asks ``wg`` every other second."""
    host.up()
    host.output("ip netns exec fedsdn sleep 1 >/dev/null 2>&1 &")
    host.down()


def test_down_leaves_a_running_proxy_alone(host: SiteHost) -> None:
    host.up()
    outer = host.traces()
    host.output("ip netns exec fedsdn sleep 300 >/dev/null 2>&1 & echo $! >/run/sleep.pid")
    pid = (host.run_directory / "sleep.pid").read_text().strip()
    wait_until(lambda: pid in host.output("ip netns pids fedsdn").split())
    line = refused(host, "down")
    assert f"processes still run in network namespace fedsdn: {pid} (sleep)" in line
    host.output("rm /run/sleep.pid")
    assert host.traces() == outer
    host.output(f"kill {pid}")
    wait_until(lambda: pid not in host.output("ip netns pids fedsdn").split())
    host.down()


@pytest.mark.parametrize(
    ("tool", "argument", "said"),
    [
        ("nft", "-f -", "Error: No such file or directory"),
        ("ovs-vsctl", "add-port", "ovs-vsctl: constraint violation"),
    ],
)
def test_a_failed_first_up_is_undone(idle_host: Idle, tool: str, argument: str, said: str) -> None:
    """The tool refuses one command, as nft does where the kernel lacks a module."""
    host, before = idle_host
    real = host.output(f"command -v {tool}").strip()
    script = f'case "$*" in *"{argument}"*) echo "{said}" >&2; exit 1;; esac; exec {real} "$@"'
    host.output(f"mkdir /run/path; printf '%s\\n' '#!/bin/sh' >/run/path/{tool}")
    host.output(f"cat >>/run/path/{tool}; chmod +x /run/path/{tool}", stdin=script)
    path = host.output("echo $PATH").strip()
    line = refused(host, PATH=f"/run/path:{path}")
    host.output("rm -r /run/path")
    assert said in line
    assert host.traces() == before
    host.up()
    host.down()
    assert host.traces() == before
