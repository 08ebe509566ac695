"""Two hosts with two untagged uplinks each, wired to each other: no loop, no leak, no storm."""

from __future__ import annotations

import select
import socket
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from fedsdn.lab.namespaces import Namespace
from tests.real.site_host import BRIDGE, LIMIT_S, SiteHost, federation

pytestmark = pytest.mark.real

ETHERTYPE = 0x88B5
"""For experiments (RFC 9542, section 3): nobody else's frames are counted."""
BROADCAST, ROUTER = b"\xff" * 6, bytes.fromhex("02000000aa01")
UPLINKS = ("up1", "up2")
SETTLED_S = 0.5
STORM = 50
"""So many frames on one wire are a storm; no need to wait for more."""


@dataclass
class Eyes:
    """Sockets that see all frames of the experiment at one interface; ``name`` is for people."""

    name: str
    sock: socket.socket

    def send(self, tag: int | None, destination: bytes = BROADCAST) -> None:
        source = bytes.fromhex("02000000bb01")
        vlan = b"" if tag is None else struct.pack("!HH", 0x8100, tag)
        frame = destination + source + vlan + struct.pack("!H", ETHERTYPE) + bytes(50)
        self.sock.send(frame)


@dataclass
class Ring:
    """The two hosts, a and b, and what is seen where."""

    hosts: dict[str, SiteHost]
    eyes: dict[str, Eyes]

    def seen(self, least: int = 0) -> Counter[str]:
        """Count the frames that come anywhere until it is quiet, or there is a storm.

        So many are waited for, however busy the machine is.
        """
        found: Counter[str] = Counter()
        by_socket = {eyes.sock: name for name, eyes in self.eyes.items()}
        while max(found.values(), default=0) < STORM:
            limit = SETTLED_S if found.total() >= least else LIMIT_S
            ready, _, _ = select.select(list(by_socket), [], [], limit)
            if not ready:
                break
            for sock in ready:
                data, name = sock.recvfrom(200)
                if name[2] != socket.PACKET_OUTGOING and struct.pack("!H", ETHERTYPE) in data:
                    found[by_socket[sock]] += 1
        return found


def eyes(stack: ExitStack, name: str, namespace: Namespace, device: str) -> Eyes:
    sock = namespace.call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
    namespace.call(lambda: sock.bind((device, 0)))
    return Eyes(name, stack.enter_context(sock))


def add_vm(host: SiteHost, vm: str) -> Namespace:
    host.output(
        f"ip netns add {vm} && ip link add tap-{vm} type veth peer name eth0 netns {vm} && "
        f"ip link set tap-{vm} addrgenmode none up && ip -n {vm} link set eth0 addrgenmode none && "
        f"ip -n {vm} link set eth0 up && ovs-vsctl add-port {BRIDGE} tap-{vm}"
    )
    return Namespace(host.run_directory / f"netns/{vm}")


@pytest.fixture(scope="module")
def ring() -> Iterator[Ring]:
    with ExitStack() as stack:
        hosts = {name: stack.enter_context(SiteHost()) for name in ("a", "b")}
        seen = {}
        for uplink in UPLINKS:
            for host in hosts.values():
                host.output(f"ovs-vsctl del-port {uplink} && ip link delete {uplink}")
            ends = [word for one in hosts.values() for word in (uplink, "netns", str(one.pid))]
            wire = ["ip", "link", "add", *ends[:3], "type", "veth", "peer", "name", *ends[3:]]
            subprocess.run(wire, check=True)
            for host in hosts.values():
                host.output(
                    f"ip link set {uplink} addrgenmode none up && "
                    f"ovs-vsctl add-port {BRIDGE} {uplink}"
                )
        for name, host in hosts.items():
            host.output(f"ip link set {BRIDGE} addrgenmode none up")
            root = Namespace(Path(f"/proc/{host.pid}/ns/net"))
            for vm in ("vm1", "vm2"):
                seen[f"{name}/{vm}"] = eyes(stack, f"{name}/{vm}", add_vm(host, vm), "eth0")
            for uplink in UPLINKS:
                seen[f"{name}/{uplink}"] = eyes(stack, f"{name}/{uplink}", root, uplink)
            host.write(federation(), site=name)
            host.up()
        yield Ring(hosts, seen)


def give_flows(ring: Ring, whose: str) -> None:
    """Give the hosts the application's flows, or only another owner's NORMAL, as before them."""
    for name, host in ring.hosts.items():
        host.output(f"ovs-ofctl del-flows {BRIDGE} && ovs-appctl fdb/flush {BRIDGE}")
        if whose == "ours":
            host.give_flows(federation(), name)
        else:
            host.output(f"ovs-ofctl -O OpenFlow13 add-flow {BRIDGE} priority=0,actions=NORMAL")


TAGS = pytest.mark.parametrize(
    ("whose", "tag"), [("ours", None), ("ours", 7), ("others'", None), ("others'", 7)]
)


@TAGS
def test_a_vms_broadcast_is_seen_once_and_only_at_home(
    ring: Ring, whose: str, tag: int | None
) -> None:
    give_flows(ring, whose)
    ring.eyes["a/vm1"].send(tag)
    assert ring.seen(1) == {"a/vm2": 1}


@TAGS
@pytest.mark.parametrize("to", [BROADCAST, ROUTER], ids=["broadcast", "unknown unicast"])
def test_what_comes_by_an_uplink_ends_there(
    ring: Ring, whose: str, tag: int | None, to: bytes
) -> None:
    """At b arrives what a's host sends out; nobody gets it, and it does not come back."""
    give_flows(ring, whose)
    ring.eyes["a/up1"].send(tag, to)
    assert ring.seen(1) == {"b/up1": 1}


@pytest.mark.parametrize(("sender", "seen"), [("a/vm1", {}), ("a/up1", {"b/up1": 1})])
def test_the_tag_that_keeps_normal_off_is_nobodys(
    ring: Ring, sender: str, seen: dict[str, int]
) -> None:
    give_flows(ring, "ours")
    ring.eyes[sender].send(4095)
    assert ring.seen(len(seen)) == seen


def test_nobody_learns_who_is_behind_an_uplink(ring: Ring) -> None:
    """Else a VM could send there by the link-layer address."""
    give_flows(ring, "ours")
    ring.eyes["a/up1"].send(None)
    ring.seen(1)
    ring.eyes["b/vm1"].send(None, bytes.fromhex("02000000bb01"))
    assert set(ring.seen()) <= {"b/vm2"}


def test_a_peers_packet_still_reaches_the_proxy(ring: Ring) -> None:
    """Flows that name an uplink's port are not concerned by what NORMAL may do with it."""
    give_flows(ring, "ours")
    ring.hosts["a"].inside("ping -c 1 -W 20 192.0.2.2")


def test_site_down_gives_the_uplinks_back(ring: Ring) -> None:
    host = ring.hosts["a"]
    host.down()
    host.output("ovs-vsctl set Port up1 tag=7 vlan_mode=native-tagged trunks=8,9")
    before = host.traces()["ports"]
    host.up()
    assert host.differences() == []
    assert host.traces()["ports"] != before
    host.down()
    assert host.traces()["ports"] == before
