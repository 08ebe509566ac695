"""Machines of other networks on a federated bridge: same addresses, same MAC, same ports at once.

Each foreign network has a gateway of its own behind which there is another 10.2.0.11.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest

from fedsdn.lab import build
from fedsdn.lab.host import Host
from fedsdn.lab.lab import Lab
from fedsdn.lab.namespaces import Namespace
from fedsdn.lab.operator import CONTROLLER
from fedsdn.lab.wait import wait_until
from fedsdn.ovs.wanted import wanted_flows
from fedsdn.pipeline.declarations import SERVER_PORT, SOCKSIFIER_PORT, port_mac
from fedsdn.shell import Shell

pytestmark = pytest.mark.real

TOPOLOGIES = Path(__file__).parents[2] / "topo"
BRIDGE, BRANCH = "br-provider", "br-branch"
"""The second is joined to the first by a trunk, as Neutron's br-int is."""
OTHER = 7
"""A VLAN that is not federated."""
PORT = 8000
_SOURCE_PORTS = count(5000)
"""Each test its own: a closed connection keeps its port for a while."""
BYTES = 300_000
LIMIT_S = 60.0
NEAR = {4: "10.1.0.11", 6: "fd00:1::11"}
TRUNKED = {4: "10.1.0.21", 6: "fd00:1::21"}
FAR = {4: "10.2.0.11", 6: "fd00:2::11"}
WIDTH = {4: 24, 6: 64}
NOWHERE = 0.5
"""Seconds in which a connection would have come to the wrong machine."""


@dataclass(frozen=True)
class Ground:
    """A lab, whose network has ``vlan`` (0: it is flat); ``beside`` is one more that has not."""

    lab: Lab
    vlan: int
    beside: int

    @property
    def host(self) -> Host:
        return self.lab.host("a")

    def machine(self, name: str, site: str = "a") -> Namespace:
        pid = self.lab.host(site).process.pid
        return Namespace(Path(f"/proc/{pid}/root/run/netns/{name}"))

    def sh(self, *lines: str) -> str:
        return self.host.run("sh", "-e", "-c", "\n".join(lines))

    def plug(self, name: str, columns: str, bridge: str = BRIDGE) -> None:
        """Make a machine with a port; its eth0 has no address yet."""
        self.sh(
            f"ip netns add {name}",
            f"ip link add {name} type veth peer name eth0 netns {name}",
            f"ip link set {name} up",
            f"echo 8 >/proc/sys/net/ipv4/conf/{name}/arp_ignore",
            f"echo 1 >/proc/sys/net/ipv6/conf/{name}/disable_ipv6",
            f"ip -n {name} link set eth0 up",
            f"ovs-vsctl add-port {bridge} {name} {columns}",
        )

    def address(self, name: str, device: str, addresses: dict[int, str]) -> None:
        self.sh(
            f"ip -n {name} link set lo up",
            f"ip -n {name} link set {device} up",
            *(
                f"ip -n {name} address add {address}/{WIDTH[family]} dev {device}"
                + (" nodad" if family == 6 else "")
                for family, address in addresses.items()
            ),
            f"ip -n {name} route add default via 10.1.0.1",
            f"ip -n {name} route add default via fd00:1::1",
        )

    def gateway(self, name: str, vlan: int) -> None:
        """Make the gateway of a foreign network, and what is behind it."""
        self.plug(name, f"tag={vlan}")
        self.sh(
            f"ip -n {name} link set lo up",
            f"ip -n {name} address add 10.1.0.1/24 dev eth0",
            f"ip -n {name} address add fd00:1::1/64 dev eth0 nodad",
            f"ip -n {name} address add {FAR[4]}/32 dev lo",
            f"ip -n {name} address add {FAR[6]}/128 dev lo nodad",
        )

    def wait_for_flows(self) -> None:
        """Wait until the application has given the bridge's ports, as they are now, their flows."""
        shell = Shell("a", self.host.prefix)

        def followed() -> bool:
            wanted = wanted_flows(shell, self.lab.topology.federation, "a")
            dump = self.host.run("ovs-ofctl", "-O", "OpenFlow13", "--names", "dump-flows", BRIDGE)
            present = [line for line in dump.splitlines() if "table=107," in line]
            matches = {str(flow.match) for flow in wanted if flow.table == 107}
            return {_match(line) for line in present} == matches

        wait_until(followed, LIMIT_S, lambda: "the flows do not follow the ports")


def _match(line: str) -> str:
    """Return a flow's match, as ``str(flow.match)`` writes it."""
    return line.partition(" actions=")[0].partition("priority=")[2].partition(",")[2]


@pytest.fixture(scope="module", params=["flat", "VLAN"])
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    topology, vlan, beside = {"flat": ("two-site", 0, 101), "VLAN": ("vlan", 101, 0)}[request.param]
    name = f"v-test-{os.getpid()}-{request.param}"
    try:
        ground = Ground(build.up(TOPOLOGIES / f"{topology}.yaml", name), vlan, beside)
        furnish(ground)
        yield ground
    finally:
        build.down(name)


def furnish(ground: Ground) -> None:
    """Give site a a trunk with a federated and a foreign VM, and foreign machines on its bridge."""
    ground.gateway("gateway", OTHER)
    ground.gateway("beside-gw", ground.beside)
    mac = ground.sh("ip netns exec vm1 cat /sys/class/net/eth0/address").strip()
    for name, vlan in (("foreign", OTHER), ("beside", ground.beside)):
        ground.plug(name, f"tag={vlan}")
        ground.sh(f"ip -n {name} link set eth0 address {mac}")
        ground.address(name, "eth0", NEAR)
    ground.sh(
        f"ovs-vsctl add-br {BRANCH} -- set Bridge {BRANCH} "
        f"datapath_type=$(ovs-vsctl get Bridge {BRIDGE} datapath_type)",
        *(
            f"ovs-vsctl add-port {here} trunk-{here} -- set Interface trunk-{here} type=patch "
            f"options:peer=trunk-{there}"
            for here, there in ((BRIDGE, BRANCH), (BRANCH, BRIDGE))
        ),
    )
    for name, vlan in (("trunked", ground.vlan), ("trunked-foreign", OTHER)):
        ground.plug(name, f"tag={vlan}", BRANCH)
        ground.address(name, "eth0", TRUNKED)
    ground.wait_for_flows()


def listening(stack: ExitStack, machine: Namespace, address: str) -> socket.socket:
    return stack.enter_context(machine.listen(address, PORT))


def accepted(stack: ExitStack, listener: socket.socket) -> tuple[socket.socket, tuple[str, int]]:
    leg, client = listener.accept()
    leg.settimeout(LIMIT_S)
    return stack.enter_context(leg), client[:2]


def exchange(near: socket.socket, far: socket.socket) -> None:
    """See that data go from each end to the other."""
    for one, other in ((near, far), (far, near)):
        data = os.urandom(BYTES)
        left, got = memoryview(data), b""
        while left or len(got) < BYTES:
            if left:
                left = left[one.send(left[:65536]) :]
            if len(got) < BYTES:
                got += other.recv(1 << 16)
        assert got == data


def taken_bytes(ground: Ground) -> int:
    """Bytes that the tenants' tables have seen."""
    ground.host.run("ovs-appctl", "revalidator/wait")  # it has asked the datapath
    said = ground.host.run("ovs-ofctl", "-O", "OpenFlow13", "dump-aggregate", BRIDGE, "table=110")
    return int(said.partition("byte_count=")[2].split()[0])


def dialled(
    stack: ExitStack, machine: Namespace, source: tuple[str, int], address: str
) -> socket.socket:
    return stack.enter_context(machine.connect(address, PORT, source))


def test_every_network_has_its_own_connection_of_the_same_five_words(
    ground: Ground, family: int
) -> None:
    """All at once, with data both ways; a reset in one network is nobody else's."""
    far, near, trunked, port = FAR[family], NEAR[family], TRUNKED[family], next(_SOURCE_PORTS)
    with ExitStack() as stack:
        at_b = listening(stack, ground.machine("vm1", "b"), far)
        at_other = listening(stack, ground.machine("gateway"), far)
        at_beside = listening(stack, ground.machine("beside-gw"), far)
        places = {
            "vm1": (near, at_b),
            "trunked": (trunked, at_b),
            "foreign": (near, at_other),
            "trunked-foreign": (trunked, at_other),
            "beside": (near, at_beside),
        }
        pairs = {}
        for name, (source, listener) in places.items():
            client = dialled(stack, ground.machine(name), (source, port), far)
            leg, seen = accepted(stack, listener)
            assert seen == (source, port)
            pairs[name] = client, leg
        for name in (*places, "vm1"):
            exchange(*pairs[name])
        for name in ("foreign", "beside", "trunked-foreign"):
            for sock in pairs[name]:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()
        for name in ("vm1", "trunked"):
            exchange(*pairs[name])


def wait_for_ping(lab: Lab, place: str, to: str) -> None:
    """Wait until a VM gets an answer."""
    command = [*lab.prefix(place), "ping", "-c", "1", "-W", "1", to]
    wait_until(
        lambda: subprocess.run(command, capture_output=True, check=False).returncode == 0,
        LIMIT_S,
        lambda: f"nobody answers pings of {place} to {to}",
    )


def ping_in_order(host: Host, vm: str, to: str, number: int) -> None:
    """See that the first so many echo requests are answered.

    Ping sends until so many are: with ``-c`` alone it does not wait for a last answer that takes
    twice as long as all before.
    """
    said = host.run("ping", "-c", str(number), "-i", "0.05", "-w", f"{LIMIT_S:.0f}", to, vm=vm)
    assert set(map(int, re.findall(r"icmp_seq=(\d+)", said))) == set(range(1, number + 1)), said


def test_what_another_network_sends_is_not_even_looked_at(ground: Ground, family: int) -> None:
    seen, port = [taken_bytes(ground)], next(_SOURCE_PORTS)
    with ExitStack() as stack:
        at_b = listening(stack, ground.machine("vm1", "b"), FAR[family])
        at_other = listening(stack, ground.machine("gateway"), FAR[family])
        for name, source in (("foreign", NEAR), ("trunked-foreign", TRUNKED)):
            client = dialled(stack, ground.machine(name), (source[family], port), FAR[family])
            exchange(client, accepted(stack, at_other)[0])
            ping_in_order(ground.host, name, FAR[family], 2)
        seen.append(taken_bytes(ground))
        wait_for_ping(ground.lab, "a/vm1", FAR[family])
        client = dialled(stack, ground.machine("vm1"), (NEAR[family], port), FAR[family])
        exchange(client, accepted(stack, at_b)[0])
        seen.append(taken_bytes(ground))
    assert seen[1] - seen[0] < BYTES / 10 < BYTES < seen[2] - seen[1]


def test_a_peers_connection_reaches_the_federated_vm_and_no_other(
    ground: Ground, family: int
) -> None:
    """All of them listen, with the same address, and two with the same MAC."""
    with ExitStack() as stack:
        listeners = {
            name: listening(stack, ground.machine(name), NEAR[family])
            for name in ("vm1", "foreign", "beside")
        }
        source = FAR[family], next(_SOURCE_PORTS)
        client = dialled(stack, ground.machine("vm1", "b"), source, NEAR[family])
        leg, seen = accepted(stack, listeners["vm1"])
        assert seen == source
        exchange(client, leg)
        for name in ("foreign", "beside"):
            listeners[name].settimeout(NOWHERE)
            with suppress(TimeoutError):
                listeners[name].accept()
                pytest.fail(f"{name} was asked")


def test_the_proxy_asks_for_neighbours_in_its_own_network_only(ground: Ground, family: int) -> None:
    """Else the machines that have the address, too, had answered, and knew who asked."""
    ground.host.run("ip", "-n", "fedsdn", "neigh", "flush", "dev", "socksifier")
    with ExitStack() as stack:
        listener = listening(stack, ground.machine("vm1", "b"), FAR[family])
        source = NEAR[family], next(_SOURCE_PORTS)
        client = dialled(stack, ground.machine("vm1"), source, FAR[family])
        exchange(client, accepted(stack, listener)[0])
    site = ground.lab.topology.federation.site("a")
    macs = {port_mac(site, port) for port in (SOCKSIFIER_PORT, SERVER_PORT)}
    names = ("vm1", "foreign", "beside")
    known = {name: set(ground.sh(f"ip -n {name} neigh").split()) for name in names}
    assert {name for name in names if known[name] & macs} == {"vm1"}


def test_flows_follow_a_port_that_comes_changes_its_vlan_and_goes(ground: Ground) -> None:
    before = ground.host.log(CONTROLLER).read_text()
    ground.plug("roamer", f"tag={ground.vlan}")
    ground.address("roamer", "eth0", {4: "10.1.0.31", 6: "fd00:1::31"})
    far = FAR[4]
    with ExitStack() as stack:
        here = listening(stack, ground.machine("gateway"), far)
        there = listening(stack, ground.machine("vm1", "b"), far)
        for vlan, listener in ((ground.vlan, there), (OTHER, here), (ground.vlan, there)):
            ground.host.run("ovs-vsctl", "set", "Port", "roamer", f"tag={vlan}")
            ground.wait_for_flows()
            ground.sh("ip -n roamer neigh flush dev eth0")
            with ground.machine("roamer").connect(far, PORT) as client, ExitStack() as legs:
                exchange(client, accepted(legs, listener)[0])
        ground.host.run("ovs-vsctl", "set", "Port", "roamer", "vlan_mode=trunk", "trunks=9")
        ground.wait_for_flows()
    ground.host.run("ovs-vsctl", "del-port", BRIDGE, "roamer")
    ground.wait_for_flows()
    said = ground.host.log(CONTROLLER).read_text().removeprefix(before)
    assert "no port" not in said
    assert "Traceback" not in said


def test_a_restart_of_the_database_loses_no_change(ground: Ground) -> None:
    """The application hears of what happens after it, and of what happened meanwhile."""
    ground.plug("late", f"tag={OTHER}")
    ground.wait_for_flows()
    ground.sh(
        "kill $(cat /run/openvswitch/ovsdb-server.pid)",
        "while [ -e /run/openvswitch/ovsdb-server.pid ]; do sleep 0.02; done",
        "ovsdb-server /run/openvswitch/conf.db --remote=punix:/run/openvswitch/db.sock "
        "--no-chdir --detach --pidfile -vconsole:off --log-file=/run/log/ovsdb-server.log",
        f"ovs-vsctl set Port late tag={ground.vlan}",
    )
    ground.wait_for_flows()
    ground.host.run("ovs-vsctl", "del-port", BRIDGE, "late")
    ground.wait_for_flows()
