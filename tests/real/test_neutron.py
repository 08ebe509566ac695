"""VMs on Neutron's integration bridge: with the real agent, whose bridges these are.

Two more of its networks have the federation's addresses: blue's VMs site b's, red's VMs the
federated VMs' own, with another 10.2.0.11 behind red's gateway.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
import yaml

from fedsdn.config.model import Prefix
from fedsdn.lab import build, neutron, operator
from fedsdn.lab.namespaces import Namespace
from fedsdn.lab.operator import CONTROLLER, PROXY
from fedsdn.lab.topology import INTEGRATION_BRIDGE
from fedsdn.lab.wait import wait_until
from fedsdn.pipeline.cookie import origin
from tests.real.bystander import Bystander
from tests.real.test_networks import (
    BRIDGE,
    BYTES,
    FAR,
    LIMIT_S,
    NEAR,
    TOPOLOGIES,
    Ground,
    accepted,
    dialled,
    exchange,
    listening,
    ping_in_order,
    taken_bytes,
    wait_for_ping,
)

pytestmark = pytest.mark.real

HERE = "phy-br-provider"
SECOND = {4: "10.1.0.12", 6: "fd00:1::12"}
BLUE = {4: "10.2.0.12", 6: "fd00:2::12"}
PINGS = 20
VLAN = "VLAN"
ONCE = pytest.mark.parametrize("ground", [VLAN], indirect=True)
"""What takes long, and does not depend on how the agent forwards."""


@pytest.fixture(scope="module", params=[VLAN, "flat, distributed routers"])
def ground(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ground]:
    topology = yaml.safe_load((TOPOLOGIES / "neutron.yaml").read_text())
    vlan = 101
    if request.param != VLAN:
        vlan = 0
        network = topology["federation"]["sites"]["a"]["provider_network"]
        network |= {"type": "flat"}
        del network["segmentation_id"]
        site = topology["lab"]["sites"]["a"]
        site["integration"] = "neutron-dvr"
        site["networks"]["red"]["segmentation_id"] = 303
    file = tmp_path_factory.mktemp("topology") / "neutron.yaml"
    file.write_text(yaml.safe_dump(topology))
    name = f"n-test-{os.getpid()}-{vlan}"
    try:
        ground = Ground(build.up(file, name), vlan, 0)
        ground.wait_for_flows()
        yield ground
    finally:
        build.down(name)


def listening_in(stack: ExitStack, ground: Ground, *names: str) -> list[Bystander]:
    return [stack.enter_context(Bystander(ground.machine(name))) for name in names]


def test_a_vm_behind_br_int_is_federated(ground: Ground, family: int) -> None:
    """Both ways; nobody else sees a frame of it.

    But its neighbour does: br-int itself floods within a network what goes to a gateway, which it
    never learns, as its firewall's flows deliver past NORMAL.
    """
    before = taken_bytes(ground)
    with ExitStack() as stack:
        others = listening_in(stack, ground, "blue2", "red2", "blue-gw", "red-gw", "trunk")
        [neighbour] = listening_in(stack, ground, "vm2")
        far = listening(stack, ground.machine("vm1", "b"), FAR[family])
        client = dialled(stack, ground.machine("vm1"), (NEAR[family], 0), FAR[family])
        leg, seen = accepted(stack, far)
        assert seen[0] == NEAR[family]
        exchange(client, leg)
        near = listening(stack, ground.machine("vm1"), NEAR[family])
        back = dialled(stack, ground.machine("vm1", "b"), (FAR[family], 0), NEAR[family])
        leg, seen = accepted(stack, near)
        assert seen[0] == FAR[family]
        exchange(back, leg)
        assert [seen for one in others for seen in one.strangers()] == []
        assert {seen.source for seen in neighbour.strangers()} <= {NEAR[family]}
    assert taken_bytes(ground) - before > 2 * BYTES


@pytest.mark.parametrize(
    ("near", "far", "addresses"),
    [("red1", "red-gw", FAR), ("red1", "red2", SECOND), ("blue1", "blue2", BLUE)],
    ids=["red to its own 10.2.0.11", "within red", "within blue"],
)
def test_other_networks_lose_nothing(
    ground: Ground, near: str, far: str, addresses: dict[int, str], family: int
) -> None:
    """Whatever the agent does with their frames is done to them."""
    address, before = addresses[family], taken_bytes(ground)
    with ExitStack() as stack:
        foreign = "blue2" if near == "red1" else "red2"
        others = listening_in(stack, ground, "vm1", "vm2", "trunk", foreign)
        listener = listening(stack, ground.machine(far), address)
        client = stack.enter_context(ground.machine(near).connect(address, 8000))
        exchange(client, accepted(stack, listener)[0])
        ping_in_order(ground.host, near, address, PINGS)
        assert [seen for one in others for seen in one.strangers()] == []
    assert taken_bytes(ground) - before < BYTES / 10, "the rest of the test before, at most"


def test_pings_of_a_vm_behind_br_int_cross_both_ways(ground: Ground, family: int) -> None:
    for place, to in (("a/vm1", FAR), ("b/vm1", NEAR)):
        wait_for_ping(ground.lab, place, to[family])
    with ExitStack() as stack:
        others = listening_in(stack, ground, "blue2", "red2", "blue-gw", "red-gw", "trunk")
        ping_in_order(ground.host, "vm1", FAR[family], 5)
        assert [seen for one in others for seen in one.strangers()] == []


def test_what_is_not_carried_leaves_with_the_networks_own_tag(ground: Ground, family: int) -> None:
    """The gateway is the bridge's own port: with the local VLAN a frame would not come to it."""
    here = Namespace(Path(f"/proc/{ground.host.process.pid}/ns/net"))
    unfederated = {4: "10.9.0.11", 6: "fd00:9::11"}[family]
    with Bystander(here, BRIDGE) as gateway:
        ping = f"ping -c 3 -i 0.05 -W 1 {unfederated} || true"

        def came() -> bool:
            ground.host.run("sh", "-c", ping, vm="vm1")
            return gateway.count(NEAR[family], unfederated) >= 3

        wait_until(came, LIMIT_S, lambda: "lost")


def test_what_neutron_drops_is_dropped(ground: Ground) -> None:
    """A frame to a remote prefix with a local VLAN of no network."""
    frame = (
        "tcp,dl_src=02:00:00:00:01:01,dl_dst=02:00:00:00:01:02,nw_src=10.1.0.31,nw_dst=10.2.0.11,"
        "tcp_src=40000,tcp_dst=80,tcp_flags=syn"
    )
    for tag in ("dl_vlan=77", f"dl_vlan={ground.vlan or 101}", "vlan_tci=0"):
        asked = ("ovs-appctl", "ofproto/trace", "--names", BRIDGE, f"in_port={HERE},{frame},{tag}")
        said = ground.host.run(*asked)
        assert "Datapath actions: drop" in said, said


def test_a_trace_finds_the_vms_port(ground: Ground) -> None:
    with ExitStack() as stack:
        far = listening(stack, ground.machine("vm1", "b"), FAR[4])
        client = dialled(stack, ground.machine("vm1"), (NEAR[4], 0), FAR[4])
        exchange(client, accepted(stack, far)[0])
        port = client.getsockname()[1]
        said = ground.host.run("fedsdn", "trace", f"{NEAR[4]}:{port}", f"{FAR[4]}:8000")
    assert HERE in said
    assert "guess" not in said


def test_flows_follow_what_the_agent_binds(ground: Ground) -> None:
    """A second network of the same number makes it unsaid which is meant; the log says so once.

    The agent does not touch ports that are no VMs', as this one.
    """
    log = ground.host.log(CONTROLLER)
    before = log.read_text()
    [local] = set(re.findall(rf'in_port="{HERE}",dl_vlan=(\d+)', tenants(ground)))
    kind = f"vlan other_config:segmentation_id={ground.vlan}" if ground.vlan else "flat"
    ground.plug("second", "tag=77", INTEGRATION_BRIDGE)
    ground.sh(
        "ovs-vsctl set Port second other_config:net_uuid=2 other_config:tag=77 "
        f"other_config:physical_network=physnet2 other_config:network_type={kind}"
    )
    wait_until(lambda: HERE not in tenants(ground), LIMIT_S, lambda: "still served")

    def said() -> list[str]:
        return [
            line for line in log.read_text().removeprefix(before).splitlines() if "local" in line
        ]

    wait_until(lambda: bool(said()), LIMIT_S, lambda: "nobody says so")
    assert len(said()) == 1
    assert f"may be local VLAN {local} (physnet1) and 77 (physnet2) of br-int" in said()[0]
    assert f"VMs behind port {HERE} are not served" in ground.sh("fedsdn status || true")
    ground.host.run("ovs-vsctl", "del-port", INTEGRATION_BRIDGE, "second")
    wait_until(lambda: HERE in tenants(ground), LIMIT_S, lambda: "not served again")


def tenants(ground: Ground) -> str:
    dump = ("ovs-ofctl", "-O", "OpenFlow13", "--names", "dump-flows", BRIDGE, "table=107")
    return ground.host.run(*dump)


def neutrons(ground: Ground) -> dict[str, list[str]]:
    """Every flow that is not ours, by bridge."""
    dump = ("ovs-ofctl", "-O", "OpenFlow13", "--names", "--no-stats", "dump-flows")
    found = {}
    for bridge in (BRIDGE, INTEGRATION_BRIDGE):
        lines = ground.host.run(*dump, bridge).splitlines()
        cookies = ((line, re.search("cookie=(0x[0-9a-f]+)", line)) for line in lines)
        others = [line for line, found in cookies if found and origin(int(found[1], 16)) is None]
        found[bridge] = sorted(others)
    return found


def its_cookies(ground: Ground) -> set[str]:
    """Return those of the agent's flows on the provider bridge: one for each of its starts."""
    return set(re.findall("cookie=(0x[0-9a-f]+)", " ".join(neutrons(ground)[BRIDGE])))


@ONCE
def test_the_agent_restarts_under_open_connections(ground: Ground) -> None:
    """It deletes what it does not know in its tables, ours too: all is back, and nothing lost."""
    agent = ground.host.daemon(neutron.AGENT)
    [before] = its_cookies(ground)
    vms = [vm.name for site in ground.lab.topology.sites[:1] for vm in site.vms]
    with ExitStack() as stack:
        pairs = []
        for family in (4, 6):
            far = listening(stack, ground.machine("vm1", "b"), FAR[family])
            client = dialled(stack, ground.machine("vm1"), (NEAR[family], 0), FAR[family])
            pairs.append((client, accepted(stack, far)[0]))
        agent.signal("KILL")
        wait_until(lambda: not agent.alive(), LIMIT_S, lambda: "the agent runs")
        neutron.wait_for_agent(neutron.start_agent(ground.host), vms)

        def cleaned() -> bool:
            for near, far in pairs:
                exchange(near, far)
            return before not in its_cookies(ground)

        wait_until(cleaned, LIMIT_S, lambda: "the agent has cleaned up nothing")
        wait_for_all_flows(ground)
        assert cleaned()


def wait_for_all_flows(ground: Ground) -> None:
    said = ""

    def all_there() -> bool:
        nonlocal said
        said = ground.sh("fedsdn flows diff 2>&1 || true")
        return said.startswith("all ")

    wait_until(all_there, LIMIT_S, lambda: said)


@ONCE
def test_nothing_of_neutrons_is_lost(ground: Ground) -> None:
    """Whatever of ours is started, stopped, set up or taken down, and whoever is to forward."""
    host, federation = ground.host, ground.lab.topology.federation
    before = neutrons(ground)
    assert len(before[BRIDGE]) > 4
    a, b = federation.sites
    with_normal = replace(a, provider_network=replace(a.provider_network, table_miss="normal"))
    one_more = Prefix(ip_network("10.9.0.0/24"), ip_address("10.9.0.2"))
    more = replace(b, prefixes=(*b.prefixes, one_more))
    for file in (replace(federation, sites=(with_normal, more)), federation):
        operator.write_settings(host, file)
        host.daemon(CONTROLLER).signal("HUP")
        wait_for_all_flows(ground)
        assert neutrons(ground) == before, "after another file"
        operator.site_up(host)
        assert neutrons(ground) == before, "after site up"
    for name in (CONTROLLER, PROXY):
        daemon = host.daemon(name)
        daemon.signal("TERM")
        wait_until(lambda daemon=daemon: not daemon.alive(), LIMIT_S, lambda: "runs")  # type: ignore[misc]
        assert neutrons(ground) == before, f"after the end of the {name}"
    host.run("fedsdn", "site", "down")
    assert neutrons(ground) == before, "after site down"
    operator.site_up(host)
    operator.start_controller(host)
    operator.wait_for_proxy(host, federation, operator.start_proxy(host))
    wait_for_all_flows(ground)
    assert neutrons(ground) == before, "after another start"
    test_a_vm_behind_br_int_is_federated(ground, 4)
