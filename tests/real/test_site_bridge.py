"""A bridge that others use, too: nothing of theirs is lost, and its traffic is never cut off."""

from __future__ import annotations

import random
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from fedsdn.config.model import Federation, Prefix
from fedsdn.openflow.bridge_socket import LIST_CONNECTIONS, is_connected
from fedsdn.verify import bridge as bridge_checks
from fedsdn.verify.view import SiteView
from tests.real.sandbox import in_sandbox
from tests.real.site_host import BRIDGE, Program, SiteHost, federation, pinging, wait_until

pytestmark = pytest.mark.real

OWN_COOKIE = re.compile(r"cookie=0xfed5[0-9a-f]{12},")
FLOWS = 1000
MISS = re.compile(r"^ (cookie=0x[0-9a-f]+, )?(\w+ )?priority=0(,reg15=\S+)? actions=NORMAL$")
"""In table 0: a dump names every other."""


@pytest.fixture
def host() -> Iterator[SiteHost]:
    with SiteHost() as host:
        yield host


@contextmanager
def application(host: SiteHost) -> Iterator[Program]:
    """Run ``osken-manager fedsdn.app``, from when it has installed its flows."""
    arguments = ["--config-file=/run/fedsdn.conf", "fedsdn.app"]
    command = in_sandbox("fedsdn-app", "osken-manager", *arguments)
    with host.program(*command, stderr=subprocess.STDOUT) as program:
        wait_until(lambda: own(host) != [])
        yield program


def dump(host: SiteHost, bridge: str = BRIDGE) -> list[str]:
    flows = host.output(f"ovs-ofctl -O OpenFlow13 dump-flows --no-stats {bridge}")
    return sorted(flows.splitlines())


def own(host: SiteHost, bridge: str = BRIDGE) -> list[str]:
    return [flow for flow in dump(host, bridge) if OWN_COOKIE.search(flow)]


def has_miss(flows: list[str]) -> bool:
    """Whether the table-miss flow is among them."""
    return any(MISS.match(flow) for flow in flows)


def others(host: SiteHost) -> list[str]:
    """Everything on the bridge that fedsdn has not made: flows, groups and meters."""
    flows = [flow for flow in dump(host) if not OWN_COOKIE.search(flow)]
    for kind in ("dump-groups", "dump-meters"):
        flows += host.output(f"ovs-ofctl -O OpenFlow13 {kind} {BRIDGE}").splitlines()[1:]
    return flows


def add_others(host: SiteHost, seed: int) -> None:
    """Somebody else's flows: any cookie but ours, any table, some with time-outs and flags."""
    draw = random.Random(seed)  # noqa: S311 -- nothing secret
    lines = []
    for number in range(FLOWS):
        cookie = draw.getrandbits(64)
        if cookie >> 48 == 0xFED5:
            cookie ^= 1 << 63
        idle = draw.choice(("", "idle_timeout=3600,", "hard_timeout=7200,", "send_flow_rem,"))
        address = f"10.{draw.randrange(256)}.{number >> 8}.{number & 255}"
        lines.append(
            f"cookie={cookie:#x},{idle}table={draw.choice((0, 1, 23, 90, 110, 200))},"
            f"priority={draw.randrange(2, 40000)},ip,nw_src=198.51.100.1,nw_dst={address},"
            f"actions={draw.choice(('drop', 'NORMAL', 'group:7', 'meter:3,NORMAL'))}"
        )
    ofctl = "ovs-ofctl -O OpenFlow13"
    host.output(f"{ofctl} add-group {BRIDGE} group_id=7,type=all,bucket=actions=NORMAL")
    host.output(f"{ofctl} add-meter {BRIDGE} meter=3,kbps,band=type=drop,rate=1000")
    host.output(f"{ofctl} --bundle add-flows {BRIDGE} -", stdin="\n".join(lines))


@contextmanager
def gateway(host: SiteHost) -> Iterator[None]:
    """Give the bridge a VM with its gateway, and see that it never loses it in the block."""
    for name, address in (("vm", "10.1.0.11"), ("gw", "10.1.0.1")):
        host.output(
            f"ip netns add {name} && ip link add {name} type veth peer name eth0 netns {name} && "
            f"ip link set {name} up && ip -n {name} link set eth0 up && "
            f"ip -n {name} address add {address}/24 dev eth0 && "
            f"ethtool --offload {name} tx off && "
            f"ip netns exec {name} ethtool --offload eth0 tx off && "
            f"ovs-vsctl add-port {BRIDGE} {name}"
        )
    host.output("ip netns exec vm ping -c1 -W20 10.1.0.1")
    with pinging(host, "10.1.0.1", every=0.005, least=20):
        yield


def plain(host: SiteHost) -> None:
    """Make the bridge one that nobody has told anything: standalone, no controller."""
    host.output(f"ovs-vsctl del-fail-mode {BRIDGE}")


def secure(host: SiteHost) -> None:
    """Make it one of an owner that is away, with flows of his and a table-miss flow."""
    host.output(f"ovs-ofctl -O OpenFlow13 add-flow {BRIDGE} cookie=0x99,priority=0,actions=NORMAL")


def foreign_controller(host: SiteHost) -> None:
    """Make it one of an owner that has a controller, which is not there at the moment."""
    host.output(f"ovs-vsctl set-controller {BRIDGE} tcp:127.0.0.1:6633")
    secure(host)


def with_another_peer(table_miss: str) -> Federation:
    wanted = federation(table_miss=table_miss)
    site, peer = wanted.sites
    prefix = Prefix(ip_network("10.7.0.0/24"), ip_address("10.7.0.2"))
    return replace(wanted, sites=(site, replace(peer, prefixes=(prefix, *peer.prefixes[1:]))))


def without_files(traces: dict[str, Any]) -> dict[str, Any]:
    """Leave out what an application that has ended leaves in /run/fedsdn, and the flows' order."""
    return traces | {"files": [], "flows": sorted(traces["flows"].splitlines())}


@pytest.mark.parametrize("owner", [plain, secure, foreign_controller])
@pytest.mark.parametrize("table_miss", ["normal", "none"])
def test_others_flows_and_traffic_before_during_and_after(
    host: SiteHost, owner: object, table_miss: str
) -> None:
    assert callable(owner)
    owner(host)
    add_others(host, seed=4711)
    host.write(federation(table_miss=table_miss))
    before, traces = others(host), host.traces()
    assert len(before) > FLOWS
    with gateway(host):
        host.up()
        assert others(host) == before
        with application(host):
            assert others(host) == before
            host.write(with_another_peer(table_miss))
            host.up()
            wait_until(lambda: any("nw_dst=10.7.0.0/24" in flow for flow in own(host)))
            assert others(host) == before
        assert own(host) != []
        host.down()
        assert (own(host), others(host)) == ([], before)
        wait_until(lambda: "fedsdn" not in host.output("ip netns"))
    for name in ("vm", "gw"):
        host.output(f"ovs-vsctl del-port {name} && ip link del {name} && ip netns del {name}")
    assert without_files(host.traces()) == without_files(traces)


def test_down_with_the_application_running(host: SiteHost) -> None:
    """It takes its flows away for good, and puts none back; up has them come again."""
    plain(host)
    host.up()
    with application(host) as program:
        host.down()
        assert own(host) == []
        host.output(f"ovs-vsctl add-port {BRIDGE} far1 tag=7 -- del-port up1")  # it looks again
        assert program.stdout is not None
        assert next(line for line in program.stdout if "is not set up as this site" in line)
        host.output(f"ovs-vsctl add-port {BRIDGE} up1 tag=4001 -- del-port far1")
        assert is_connected(host.output(" ".join(LIST_CONNECTIONS)), BRIDGE)
        assert own(host) == []
        host.up()
        wait_until(lambda: len(own(host)) > 50)
        assert has_miss(others(host))
    host.down()


@pytest.mark.parametrize("tags", [True, False])
def test_a_bridge_that_forwards_by_our_flow_alone_goes_on(host: SiteHost, tags: bool) -> None:
    """An ordinary one takes its place, and uplinks that share a VLAN are not joined."""
    if tags:
        host.output("ovs-vsctl set Port up1 tag=4001 -- set Port up2 tag=4002")
    host.up()
    with application(host):
        wait_until(lambda: has_miss(own(host)))
        with gateway(host):
            said = host.down()
            assert f"bridge {BRIDGE} forwarded by fedsdn's table-miss flow alone" in said
            left = [flow.strip() for flow in dump(host) if "reply" not in flow]
            assert (own(host), len(left)) == ([], 1 if tags else 3)
    heard = host.run(
        "timeout 3 tcpdump -c1 -ni far2 'ether[0:4]=0xffffffff and ether[12:2]=0x88b5' & "
        'sleep 1; python -c "import socket; s=socket.socket(socket.AF_PACKET, socket.SOCK_RAW); '
        "s.bind(('far1', 0)); s.send(b'\\xff' * 6 + b'\\x02\\0\\0\\0\\0\\1' + b'\\x88\\xb5' "
        '+ bytes(50))"; wait $!'
    )
    assert heard.returncode == 124, "what came in by one uplink has left by the other"


def test_the_table_miss_flow_comes_and_goes_with_the_others(host: SiteHost) -> None:
    """Ours goes when there is another's, and comes back when that is gone."""
    host.up()
    with application(host):
        wait_until(lambda: has_miss(own(host)))
        host.output(f"ovs-ofctl add-flow {BRIDGE} cookie=0x99,priority=0,actions=NORMAL")
        wait_until(lambda: not has_miss(own(host)))
        assert has_miss(others(host))
        host.output(f"ovs-ofctl del-flows {BRIDGE} cookie=0x99/-1")
        wait_until(lambda: has_miss(own(host)))
    host.down()


def test_status_and_verify_take_the_others_table_miss_flow(host: SiteHost) -> None:
    plain(host)
    host.up()
    with application(host):
        wait_until(lambda: len(own(host)) > 50)
        assert host.run("fedsdn flows diff --config-file /run/fedsdn.conf").returncode == 0
        wanted = federation()
        view = SiteView(wanted, wanted.site("a"), host.shell, Path("/run/fedsdn.conf"))
        count = len(host.wanted_flows(wanted))
        assert len(own(host)) == count - 2, "all but the table-miss flow, which is two"
        assert bridge_checks.flows(view) == f"{count} of {count}"
        assert bridge_checks.application(view) == BRIDGE
    host.down()


def test_uplinks_that_would_loop_are_named(host: SiteHost) -> None:
    host.output("ovs-vsctl clear Port up1 tag -- clear Port up2 tag")
    done = host.site("up")
    assert done.returncode == 0
    assert "uplinks' ports up1, up2 share a VLAN" in done.stderr
    assert "ovs-vsctl set Port up1 tag=" in done.stderr
    host.down()
    host.output("ovs-vsctl set Port up1 tag=4001 -- set Port up2 tag=4002")
    assert host.site("up").stderr == ""
