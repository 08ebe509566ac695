"""VMs on an integration bridge that Neutron's agent numbers: their frames have its local VLANs.

Flows and database are as neutron-openvswitch-agent makes them without DVR:
``setup_physical_bridges``, ``provision_local_vlan`` and ``port_bound`` of ovs_neutron_agent.py,
br_phys.py and br_int.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from fedsdn.lab import build
from fedsdn.lab.operator import CONTROLLER
from fedsdn.lab.wait import wait_until
from tests.real.test_networks import (
    BRIDGE,
    FAR,
    LIMIT_S,
    NEAR,
    OTHER,
    TOPOLOGIES,
    Ground,
    accepted,
    dialled,
    exchange,
    listening,
    taken_bytes,
)

pytestmark = pytest.mark.real

INTEGRATION = "br-int"
HERE, THERE = "phy-br-provider-1", "int-br-provider"
SHOWN = HERE[:15]
"""As OpenFlow tells its name."""
LOCAL_OURS, LOCAL_OTHER, LOCAL_SECOND = 1, 2, 3
VMS = {4: "10.1.0.31", 6: "fd00:1::31"}
COOKIE = "cookie=0x1234567890abcdef"


@dataclass(frozen=True)
class Neutron:
    """What the agent does on site a's host."""

    ground: Ground

    def start(self) -> None:
        """Join the bridges, and drop what is not translated."""
        kind = f"datapath_type=$(ovs-vsctl get Bridge {BRIDGE} datapath_type)"
        self.ground.sh(
            f"ovs-vsctl add-br {INTEGRATION} -- set Bridge {INTEGRATION} {kind} fail_mode=secure",
            f"ovs-vsctl add-port {BRIDGE} {HERE} -- set Interface {HERE} type=patch "
            f"options:peer={THERE} -- add-port {INTEGRATION} {THERE} -- set Interface {THERE} "
            f"type=patch options:peer={HERE}",
        )
        self.flow(BRIDGE, f"priority=2,in_port={SHOWN},actions=drop")
        self.flow(INTEGRATION, "priority=0,actions=NORMAL")
        self.flow(INTEGRATION, f"priority=2,in_port={THERE},actions=drop")

    def flow(self, bridge: str, flow: str) -> None:
        command = ("ovs-ofctl", "-O", "OpenFlow13", "--names", "add-flow", bridge)
        self.ground.host.run(*command, f"{COOKIE},table=0,{flow}")

    def provision(self, local: int, vlan: int) -> None:
        """Translate a network's VLAN, both ways."""
        set_real = f"set_field:{0x1000 | vlan}->vlan_vid" if vlan else "pop_vlan"
        self.flow(BRIDGE, f"priority=4,in_port={SHOWN},dl_vlan={local},actions={set_real},NORMAL")
        tagged = f"dl_vlan={vlan}" if vlan else "vlan_tci=0x0000/0x1fff"
        push = "" if vlan else "push_vlan:0x8100,"
        self.flow(
            INTEGRATION,
            f"priority=3,in_port={THERE},{tagged},"
            f"actions={push}set_field:{0x1000 | local}->vlan_vid,NORMAL",
        )

    def bind(self, name: str, local: int, vlan: int, physical: str = "physnet1") -> None:
        """Bind a port to a network."""
        said = {
            "net_uuid": f"00000000-0000-0000-0000-{local:012}",
            "network_type": "vlan" if vlan else "flat",
            "physical_network": physical,
            "tag": str(local),
        }
        said |= {"segmentation_id": str(vlan)} if vlan else {}
        words = [f"other_config:{key}={value}" for key, value in said.items()]
        self.ground.host.run("ovs-vsctl", "set", "Port", name, f"tag={local}", *words)


@pytest.fixture(scope="module", params=["flat", "VLAN"])
def neutron(request: pytest.FixtureRequest) -> Iterator[Neutron]:
    """Give site a's host a br-int with a VM of the provider network and one of another."""
    topology, vlan, beside = {"flat": ("two-site", 0, 101), "VLAN": ("vlan", 101, 0)}[request.param]
    name = f"n-test-{os.getpid()}-{request.param}"
    try:
        ground = Ground(build.up(TOPOLOGIES / f"{topology}.yaml", name), vlan, beside)
        agent = Neutron(ground)
        agent.start()
        ground.gateway("gateway", OTHER)
        for vm, local, real, addresses in (
            ("ours", LOCAL_OURS, ground.vlan, VMS),
            ("other", LOCAL_OTHER, OTHER, NEAR),
        ):
            ground.plug(vm, "tag=4095", INTEGRATION)
            ground.address(vm, "eth0", addresses)
            agent.provision(local, real)
            agent.bind(vm, local, real)
        ground.wait_for_flows()
        yield agent
    finally:
        build.down(name)


def test_a_vm_behind_br_int_is_federated(neutron: Neutron, family: int) -> None:
    """Both ways, and so that the bridge delivers answers where they belong."""
    ground = neutron.ground
    before = taken_bytes(ground)
    with ExitStack() as stack:
        far = listening(stack, ground.machine("vm1", "b"), FAR[family])
        client = dialled(stack, ground.machine("ours"), (VMS[family], 0), FAR[family])
        leg, seen = accepted(stack, far)
        assert seen[0] == VMS[family]
        exchange(client, leg)
        near = listening(stack, ground.machine("ours"), VMS[family])
        back = dialled(stack, ground.machine("vm1", "b"), (FAR[family], 0), VMS[family])
        leg, seen = accepted(stack, near)
        assert seen[0] == FAR[family]
        exchange(back, leg)
    assert taken_bytes(ground) - before > 2 * 300_000


def test_another_network_of_br_int_is_translated_by_neutron(neutron: Neutron, family: int) -> None:
    """Its gateway is on the provider bridge: what NORMAL had let out untranslated never comes."""
    ground = neutron.ground
    before = taken_bytes(ground)
    with ExitStack() as stack:
        far = listening(stack, ground.machine("gateway"), FAR[family])
        client = dialled(stack, ground.machine("other"), (NEAR[family], 0), FAR[family])
        leg, seen = accepted(stack, far)
        assert seen[0] == NEAR[family]
        exchange(client, leg)
        ping = ("ping", "-c", "2", "-i", "0.1", "-W", "2", FAR[family])
        assert " 0% packet loss" in ground.host.run(*ping, vm="other")
    assert taken_bytes(ground) == before


def test_what_neutron_drops_is_dropped(neutron: Neutron) -> None:
    """A frame to a remote prefix with a local VLAN of no network."""
    frame = (
        "tcp,dl_src=02:00:00:00:01:01,dl_dst=02:00:00:00:01:02,nw_src=10.1.0.31,nw_dst=10.2.0.11,"
        "tcp_src=40000,tcp_dst=80,tcp_flags=syn"
    )
    for tag in ("dl_vlan=77", f"dl_vlan={neutron.ground.vlan or 101}", "vlan_tci=0"):
        asked = ("ovs-appctl", "ofproto/trace", "--names", BRIDGE, f"in_port={HERE},{frame},{tag}")
        said = neutron.ground.host.run(*asked)
        assert "Datapath actions: drop" in said, said


def test_a_trace_finds_the_vms_port(neutron: Neutron) -> None:
    ground = neutron.ground
    with ExitStack() as stack:
        far = listening(stack, ground.machine("vm1", "b"), FAR[4])
        client = dialled(stack, ground.machine("ours"), (VMS[4], 0), FAR[4])
        exchange(client, accepted(stack, far)[0])
        port = client.getsockname()[1]
        said = ground.host.run("fedsdn", "trace", f"{VMS[4]}:{port}", f"{FAR[4]}:8000")
    assert HERE in said
    assert "guess" not in said


def test_flows_follow_what_the_agent_binds(neutron: Neutron) -> None:
    """A second network of the same number makes it unsaid which is meant; the log says so once."""
    ground = neutron.ground
    log = ground.host.log(CONTROLLER)
    before = log.read_text()
    ground.plug("second", "tag=4095", INTEGRATION)
    ground.wait_for_flows()
    assert SHOWN in tenants(ground)
    neutron.bind("second", LOCAL_SECOND, ground.vlan, "physnet2")
    wait_until(lambda: SHOWN not in tenants(ground), LIMIT_S, lambda: "still served")
    said = [line for line in log.read_text().removeprefix(before).splitlines() if "local" in line]
    assert len(said) == 1
    assert "may be local VLAN 1 (physnet1) and 3 (physnet2) of br-int" in said[0]
    assert f"VMs behind port {HERE} are not served" in ground.sh("fedsdn status || true")
    ground.host.run("ovs-vsctl", "del-port", INTEGRATION, "second")
    wait_until(lambda: SHOWN in tenants(ground), LIMIT_S, lambda: "not served again")


def tenants(ground: Ground) -> str:
    dump = ("ovs-ofctl", "-O", "OpenFlow13", "--names", "dump-flows", BRIDGE, "table=107")
    return ground.host.run(*dump)
