"""Both sites' VMs behind OVN's integration bridge: topo/ovn.yaml, and what its owners do to it."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from fedsdn.cli.views import lab_views
from fedsdn.lab import build, operator, ovn
from fedsdn.lab.host import Host
from fedsdn.lab.lab import Lab
from fedsdn.lab.namespaces import Namespace
from fedsdn.lab.topology import INTEGRATION_BRIDGE
from fedsdn.lab.wait import wait_until
from fedsdn.pipeline.cookie import origin
from fedsdn.verify.checks import Outcome, run_checks
from fedsdn.verify.connections import path_checks
from fedsdn.verify.paths import CONNECTS, paths
from fedsdn.verify.site import SiteCheck, site_checks
from tests.real.bystander import Bystander
from tests.real.test_networks import (
    BRIDGE,
    PORT,
    Ground,
    accepted,
    dialled,
    exchange,
    listening,
    ping_in_order,
    wait_for_ping,
)

pytestmark = pytest.mark.real

TOPOLOGY = Path(__file__).parents[2] / "topo" / "ovn.yaml"
LIMIT_S = 60.0
NOWHERE_S = 0.5
NEAR = {4: "10.1.0.11", 6: "fd00:1::11"}
FAR = {4: "10.2.0.11", 6: "fd00:2::11"}
FAR_NETWORK = {4: "10.2.0.0/24", 6: "fd00:2::/64"}
VLAN = 101
"""Of site a's provider network."""
SECOND_NEAR = {4: "10.1.0.12", 6: "fd00:1::12"}
STRANGERS = (
    *("a/red1", "a/red-gw", "a/green1", "a/green-gw", "a/trunk"),
    *("b/blue1", "b/blue-gw", "b/trunk"),
)
ABOUT_THE_PROXY = {SiteCheck.SET_UP, SiteCheck.PROXY, SiteCheck.LISTENING}
"""Checks that take seconds, and ask nothing of the bridge; so do most of a path's."""
PINGS = 20


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    name = f"ovn-test-{os.getpid()}"
    try:
        yield build.up(TOPOLOGY, name)
    finally:
        build.down(name)


def machine(lab: Lab, site: str, name: str) -> Namespace:
    return Namespace(Path(f"/proc/{lab.host(site).process.pid}/root/run/netns/{name}"))


def listening_in(stack: ExitStack, lab: Lab, *places: str) -> list[Bystander]:
    pairs = (place.split("/") for place in places)
    return [stack.enter_context(Bystander(machine(lab, site, name))) for site, name in pairs]


def test_every_check_is_green_and_nobody_else_sees_a_frame(lab: Lab) -> None:
    """The trunk sees what the bridge does not know how to deliver, so its silence has a meaning."""
    for site, near, gateway in (("a", NEAR[4], "10.1.0.1"), ("b", FAR[4], "10.2.0.1")):
        host = lab.host(site)
        host.run("ping", "-c", "1", "-W", "20", gateway, vm="vm1")
        with Bystander(machine(lab, site, "trunk")) as trunk:

            def is_seen(
                host: Host = host, trunk: Bystander = trunk, ends: tuple[str, str] = (near, gateway)
            ) -> bool:
                """The bridge may have learnt the gateway again before the ping."""
                host.run("ovs-appctl", "fdb/flush", BRIDGE)
                host.run("ping", "-c", "1", "-W", "20", ends[1], vm="vm1")
                return trunk.count(*ends) > 0

            wait_until(is_seen, LIMIT_S, lambda: "the trunk sees nothing")
    views = lab_views(lab)
    every = [check for view in views for check in site_checks(view)]
    checks = [check for check in every if check.name not in ABOUT_THE_PROXY]
    every = [check for path in paths(views) for check in path_checks(path, 1)]
    checks += [check for check in every if check.name == CONNECTS]
    with ExitStack() as stack:
        others = listening_in(stack, lab, *STRANGERS)
        results = list(run_checks(checks))
        assert [one for one in results if one.outcome is not Outcome.PASSED] == []
        assert [seen for one in others for seen in one.strangers()] == []


def test_others_keep_their_networks(lab: Lab, family: int) -> None:
    """Of the same addresses and ports as a federated connection that is open meanwhile."""
    source = NEAR[family], 40000 + family
    host = lab.host("a")
    with ExitStack() as stack:
        pairs = []
        for client, site, server in (("vm1", "b", "vm1"), ("red1", "a", "red-gw")):
            listener = listening(stack, machine(lab, site, server), FAR[family])
            near = dialled(stack, machine(lab, "a", client), source, FAR[family])
            far, seen = accepted(stack, listener)
            assert seen == source
            pairs.append((near, far))
        for pair in (*pairs, pairs[0]):
            exchange(*pair)
        for vm in ("red1", "green1"):
            ping_in_order(host, vm, FAR[family], PINGS)
        pairs[1][0].close()
        exchange(*pairs[0])


def test_pings_cross_both_ways_and_nobody_else_sees_them(lab: Lab, family: int) -> None:
    for place, to in (("a/vm1", FAR), ("b/vm1", NEAR)):
        wait_for_ping(lab, place, to[family])
    with ExitStack() as stack:
        others = listening_in(stack, lab, *STRANGERS)
        ping_in_order(lab.host("a"), "vm1", FAR[family], PINGS)
        assert [seen for one in others for seen in one.strangers()] == []


def test_a_route_by_the_proxys_address_serves_vms_of_any_node(lab: Lab, family: int) -> None:
    """One behind the physical network, which has no other route: ``host_routes`` of its subnet."""
    ground = Ground(lab, VLAN, 0)
    site, name = lab.topology.federation.site("a"), f"node{family}"
    [prefix] = [one for one in site.prefixes if one.family == family]
    address = str(prefix.network[99])
    ground.plug(name, f"tag={VLAN}")
    ground.sh(
        f"ip -n {name} address add {address}/{prefix.network.prefixlen} dev eth0"
        + (" nodad" if family == 6 else ""),
        f"ip -n {name} route add {FAR_NETWORK[family]} via {prefix.proxy_address}",
    )
    with ExitStack() as stack:
        listener = listening(stack, machine(lab, "b", "vm1"), FAR[family])
        client = dialled(stack, machine(lab, "a", name), (address, 0), FAR[family])
        leg, seen = accepted(stack, listener)
        assert seen[0] == address
        exchange(client, leg)


def test_a_security_group_sees_the_clients_address(lab: Lab, family: int) -> None:
    """One that lets a single client in; and that is taken away under its open connection."""
    one, other = (machine(lab, "b", name) for name in ("vm1", "vm2"))
    with ExitStack() as stack:
        listener = listening(stack, machine(lab, "a", "vm1"), NEAR[family])
        stack.enter_context(machine(lab, "a", "vm2").listen(SECOND_NEAR[family], PORT))
        with group_of(lab, FAR[family]):
            with stack.enter_context(other.open(SECOND_NEAR[family])) as stranger:
                stranger.settimeout(NOWHERE_S)
                with pytest.raises(TimeoutError):
                    stranger.connect((SECOND_NEAR[family], PORT))
            client = dialled(stack, one, (FAR[family], 0), NEAR[family])
            leg, seen = accepted(stack, listener)
            assert seen[0] == FAR[family]
            exchange(client, leg)
            with group_of(lab, "192.0.2.77" if family == 4 else "2001:db8::77"):
                client.send(b"held back")
                leg.settimeout(NOWHERE_S)
                with pytest.raises(TimeoutError):
                    leg.recv(9)
                leg.settimeout(LIMIT_S)
            assert leg.recv(9, socket.MSG_WAITALL) == b"held back"
            exchange(client, leg)
        with other.connect(SECOND_NEAR[family], PORT):
            pass


@contextmanager
def group_of(lab: Lab, client: str) -> Iterator[None]:
    """Have the security group of a's VMs let only ``client`` come, of its family."""
    host, family = lab.host("a"), "ip6" if ":" in client else "ip4"
    said = json.loads(
        host.run("ovn-nbctl", "--format=json", "--columns=_uuid,match", "list", "ACL")
    )
    [(acl, before)] = [
        (uuid, match) for (_, uuid), match in said["data"] if f"{family}.src ==" in match
    ]
    head, _, tail = before.partition(f"{family}.src ==")
    change_acl(host, acl, f"{head}{family}.src == {client} {tail[tail.index('&&') :]}")
    try:
        yield
    finally:
        change_acl(host, acl, before)


def change_acl(host: Host, acl: str, match: str) -> None:
    host.run("ovn-nbctl", "set", "ACL", acl, f"match={json.dumps(match)}")
    ovn.settle(host)


def test_a_site_that_goes_and_comes_leaves_others_flows_alone(lab: Lab) -> None:
    host = lab.host("b")
    before = others_flows(host)
    assert all(before.values())
    for name in (operator.PROXY, operator.CONTROLLER):
        daemon = host.daemon(name)
        daemon.signal("TERM")
        wait_until(lambda daemon=daemon: not daemon.alive(), 40, lambda: "it runs")  # type: ignore[misc]
    host.run("fedsdn", "site", "down")
    assert others_flows(host) == before
    operator.site_up(host)
    controller, proxy = operator.start_controller(host), operator.start_proxy(host)
    operator.wait_for_controller(host, lab.topology.federation.site("b"), controller)
    operator.wait_for_proxy(host, lab.topology.federation, proxy)
    assert others_flows(host) == before
    with ExitStack() as stack:
        listener = listening(stack, machine(lab, "b", "vm1"), FAR[4])
        client = dialled(stack, machine(lab, "a", "vm1"), (NEAR[4], 0), FAR[4])
        exchange(client, accepted(stack, listener)[0])


def others_flows(host: Host) -> dict[str, set[str]]:
    """Return the flows of both bridges that are not ours."""
    found = {}
    for bridge in (INTEGRATION_BRIDGE, BRIDGE):
        said = host.run(
            "ovs-ofctl", "-O", "OpenFlow13,OpenFlow15", "--no-stats", "dump-flows", bridge
        )
        flows = (line.strip() for line in said.splitlines() if "actions=" in line)
        found[bridge] = {line for line in flows if not ours(line)}
    return found


def ours(line: str) -> bool:
    cookie = re.match(r"cookie=(0x[0-9a-f]+)", line)
    return cookie is not None and origin(int(cookie[1], 16)) is not None


def test_patch_ports_come_and_go_under_open_connections(lab: Lab) -> None:
    """So does the chassis; connections opened from either side go on."""
    host = lab.host("a")
    with ExitStack() as stack:
        ends = []
        for near, far, source, address in (
            (("a", "vm1"), ("b", "vm1"), NEAR[4], FAR[4]),
            (("b", "vm1"), ("a", "vm1"), FAR[6], NEAR[6]),
        ):
            listener = listening(stack, machine(lab, *far), address)
            client = dialled(stack, machine(lab, *near), (source, 0), address)
            ends.append((client, accepted(stack, listener)[0]))
        before = patch_ports(host)
        with without_mapping(host):
            wait_for_patch_ports(host, 0)
        wait_for_patch_ports(host, len(before))
        assert patch_ports(host).isdisjoint(before), "nothing has to be followed"
        exchange_all(host, ends)
        host.run("ovn-sbctl", "chassis-del", host.name)
        exchange_all(host, ends)
        ovn.control(host, "stop_controller")
        ovn.control(host, "start_controller")
        exchange_all(host, ends)


def exchange_all(host: Host, ends: list[tuple[socket.socket, socket.socket]]) -> None:
    ovn.settle(host)
    for pair in ends:
        exchange(*pair)


def wait_for_patch_ports(host: Host, count: int) -> None:
    """Wait; ovn-controller removes none before it has run for ten seconds and has had some news."""

    def there() -> bool:
        ovn.settle(host)
        return len(patch_ports(host)) == count

    wait_until(there, LIMIT_S, lambda: "not there yet")


def patch_ports(host: Host) -> set[int]:
    """Return the numbers of OVN's ports on the provider bridge."""
    said = host.run("ovs-ofctl", "-O", "OpenFlow13", "show", BRIDGE)
    return {int(number) for number in re.findall(r"^ (\d+)\(patch-provnet", said, re.MULTILINE)}


@contextmanager
def without_mapping(host: Host) -> Iterator[None]:
    key = "external_ids:ovn-bridge-mappings"
    before = host.run("ovs-vsctl", "get", "Open_vSwitch", ".", key).strip()
    host.run("ovs-vsctl", "remove", "Open_vSwitch", ".", "external_ids", "ovn-bridge-mappings")
    try:
        yield
    finally:
        host.run("ovs-vsctl", "set", "Open_vSwitch", ".", f"{key}={before}")
