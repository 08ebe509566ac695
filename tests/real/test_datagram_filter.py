"""What the packet filter lets be routed, on a proxy's namespace between a VM and a tunnel.

The tunnel is a plain wire here, with its name: what comes out of it has passed WireGuard already.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import pytest

from fedsdn.config.model import Federation
from fedsdn.config.rules import Rule
from fedsdn.lab.namespaces import Namespace
from fedsdn.pipeline.declarations import (
    ROUTER_PORT,
    ROUTER_TABLE,
    TUNNELS_TABLE,
    SocketMark,
    ct_tunnel_received,
    ct_tunnel_sent,
)
from fedsdn.site import firewall, nft
from fedsdn.tunnels.plan import tunnels
from tests.real.forger import icmp, ip, redirect, too_big, unreachable
from tests.real.in_namespace import namespace_with
from tests.real.site_host import wait_until
from tests.unit.federations import three_sites, two_sites

pytestmark = pytest.mark.real

LIMIT_S = 60.0
SITE = two_sites().site("a")
TUNNELS = tunnels(two_sites(), SITE)
TUNNEL = TUNNELS[0].name
VM_MAC, ROUTER_MAC, FAR_MAC = (f"02:00:00:00:00:{number:02x}" for number in (1, 2, 3))
PROHIBITED = {4: "No route to host", 6: "Permission denied"}
UPLINKS = {4: "192.0.2.1", 6: "2001:db8:2::1"}
DNS, OTHER_PORT = 5353, 5454

_SET_UP = f"""
set -e
gate() {{ ip -n $gate "$@"; }}
gate link set lo up
gate link add {ROUTER_PORT} address {ROUTER_MAC} type veth peer eth0 address {VM_MAC} netns $vm
gate link add {TUNNEL} address {ROUTER_MAC} type veth peer eth0 address {FAR_MAC} netns $far
for setting in ipv4.conf.all.forwarding=1 ipv6.conf.all.forwarding=1 ipv4.fwmark_reflect=1 \\
    ipv6.fwmark_reflect=1 ipv4.icmp_ratelimit=0 ipv6.icmp.ratelimit=0; do
  ip netns exec $gate sysctl -qw net.$setting
done
for port in {ROUTER_PORT} {TUNNEL}; do gate link set $port up; done
for space in $vm $far; do
  number=1
  test $space = $vm || number=2
  ip -n $space link set lo up
  ip -n $space link set eth0 up
  for host in 11 12; do
    ip -n $space address add 10.$number.0.$host/24 dev eth0
    ip -n $space address add fd00:$number::$host/64 dev eth0 nodad
  done
  for router in 10.$number.0.254 fd00:$number::254; do
    ip -n $space neighbour add $router lladdr {ROUTER_MAC} dev eth0
    ip -n $space route add default via $router
  done
done
for family in 4 6; do
  gate -$family rule add priority 300 fwmark {SocketMark.ROUTED:#x} lookup {ROUTER_TABLE}
  gate -$family rule add priority 301 fwmark {SocketMark.ROUTED:#x} lookup {TUNNELS_TABLE}
done
gate address add 10.1.0.2/24 dev {ROUTER_PORT} noprefixroute
gate address add fd00:1::2/64 dev {ROUTER_PORT} nodad noprefixroute
gate route add 10.1.0.0/24 dev {ROUTER_PORT} src 10.1.0.2 table {ROUTER_TABLE}
gate route add 10.2.0.0/24 dev {TUNNEL} src 10.1.0.2 table {TUNNELS_TABLE}
gate route add fd00:1::/64 dev {ROUTER_PORT} src fd00:1::2 table {ROUTER_TABLE}
gate route add fd00:2::/64 dev {TUNNEL} src fd00:1::2 table {TUNNELS_TABLE}
for host in 10.1.0.11 10.1.0.12 fd00:1::11 fd00:1::12; do
  gate neighbour add $host lladdr {VM_MAC} dev {ROUTER_PORT}
done
for host in 10.2.0.11 10.2.0.12 fd00:2::11 fd00:2::12; do
  gate neighbour add $host lladdr {FAR_MAC} dev {TUNNEL}
done
"""


class Ends(NamedTuple):
    """A VM of a, one of b, and an address of nobody's."""

    near: str
    far: str
    stranger: str
    family: int


FAMILIES = pytest.mark.parametrize(
    "ends",
    [
        Ends("10.1.0.11", "10.2.0.11", "10.9.0.1", 4),
        Ends("fd00:1::11", "fd00:2::11", "fd00:9::1", 6),
    ],
    ids=["v4", "v6"],
)


class Gate:
    """The namespaces of the router, of the VM, and of whoever is behind the tunnel."""

    def __init__(self) -> None:
        self.names = {one: f"test-{one}-{uuid4().hex[:6]}" for one in ("gate", "vm", "far")}
        for name in self.names.values():
            subprocess.run(["ip", "netns", "add", name], check=True)
        subprocess.run(["sh", "-c", _SET_UP], check=True, env=os.environ | self.names)
        self.vm, self.far, self.gate = (
            Namespace(Path("/run/netns", self.names[one])) for one in ("vm", "far", "gate")
        )
        self.allow(None)

    def close(self) -> None:
        for name in self.names.values():
            subprocess.run(["ip", "netns", "delete", name], check=True)

    def allow(self, *rules: Rule | None) -> None:
        """Load the filter of a federation with these rules; None: without ``allow``."""
        allowed = None if rules == (None,) else tuple(one for one in rules if one)
        federation: Federation = replace(two_sites(), allow=allowed)
        firewall.apply(self.names["gate"], nft.ruleset(federation, SITE))

    def output(self, *command: str) -> str:
        inside = ["ip", "netns", "exec", self.names["gate"], *command]
        return subprocess.run(inside, check=True, capture_output=True, text=True).stdout

    def counted(self, comment: str) -> int:
        """How many packets the rules with this comment have seen."""
        listed = json.loads(self.output("nft", "-j", "list", "table", "inet", "fedsdn"))
        return sum(
            part["counter"]["packets"]
            for one in listed["nftables"]
            if one.get("rule", {}).get("comment") == comment
            for part in one["rule"]["expr"]
            if "counter" in part
        )

    def wait_for(self, comment: str, packets: int) -> None:
        """Wait until those rules have seen so many."""
        wait_until(lambda: self.counted(comment) >= packets)


@pytest.fixture(scope="module")
def gates() -> Iterator[Gate]:
    one = Gate()
    yield one
    one.close()


@pytest.fixture
def gate(gates: Gate) -> Gate:
    """The router of a site without rules."""
    gates.allow(None)
    return gates


def udp(space: Namespace, address: str, port: int = 0) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = space.call(lambda: socket.socket(family, socket.SOCK_DGRAM))
    sock.settimeout(LIMIT_S)
    sock.bind((address, port))
    return sock


def crosses(client: socket.socket, server: socket.socket, data: bytes = b"x") -> None:
    """See that what the client sends comes from its own address, and the answer gets back."""
    client.connect(server.getsockname()[:2])
    client.send(data)
    got, sender = server.recvfrom(1 << 16)
    assert (got, sender[:2]) == (data, client.getsockname()[:2])
    server.sendto(data[::-1], sender)
    assert client.recv(1 << 16) == data[::-1]


def refused(client: socket.socket, to: tuple[str, int], family: int) -> None:
    """See that the kernel tells the client that it is prohibited."""
    client.connect(to)
    client.send(b"x")
    with pytest.raises(OSError, match=PROHIBITED[family]):
        client.recv(1)


@FAMILIES
def test_datagrams_cross_both_ways_fragments_too(gate: Gate, ends: Ends) -> None:
    for size in (1, 1400, 9000):
        with udp(gate.vm, ends.near) as near, udp(gate.far, ends.far) as far:
            crosses(near, far, b"y" * size)
        with udp(gate.vm, ends.near) as near, udp(gate.far, ends.far) as far:
            crosses(far, near, b"y" * size)


@FAMILIES
def test_ping_and_refusals_of_ports_cross(gate: Gate, ends: Ends) -> None:
    ping = ["ping", "-c", "1", "-W", "20", ends.far]
    subprocess.run(["ip", "netns", "exec", gate.names["vm"], *ping], check=True)
    with udp(gate.vm, ends.near) as near:
        near.connect((ends.far, 9))
        near.send(b"x")
        with pytest.raises(ConnectionRefusedError):
            near.recv(1)


@FAMILIES
def test_tcp_is_never_routed(gate: Gate, ends: Ends) -> None:
    """Forwarding is on: without its rule a connection would cross, and have no proxy."""
    for space, own, to in ((gate.vm, ends.near, ends.far), (gate.far, ends.far, ends.near)):
        before = gate.counted("TCP is not routed")
        with space.open(own) as sock:
            sock.setblocking(False)
            sock.bind((own, 0))
            with suppress(BlockingIOError):
                sock.connect((to, 80))
            gate.wait_for("TCP is not routed", before + 1)


@FAMILIES
def test_a_foreign_source_or_destination_is_dropped_at_either_end(gate: Gate, ends: Ends) -> None:
    packets = (
        (gate.vm, ends.stranger, ends.far, "not from a prefix of ours"),
        (gate.vm, ends.far, ends.far, "not from a prefix of ours"),
        (gate.far, ends.far, ends.stranger, "not to a prefix of ours"),
        (gate.far, ends.far, UPLINKS[ends.family], "not to a prefix of ours"),
    )
    with udp(gate.vm, ends.near, DNS), udp(gate.far, ends.far, DNS):
        for space, source, to, why in packets:
            before = gate.counted(why)
            data = b"\x14\xe9\x14\xe9\x00\x09\x00\x00x"
            with space.raw(ends.family) as raw:
                raw.sendto(ip(ip_address(source), ip_address(to), 17, data), (to, 0))
            gate.wait_for(why, before + 1)


@FAMILIES
def test_without_encryption_a_tunnels_sources_are_its_peers_alone(gate: Gate, ends: Ends) -> None:
    plain = replace(three_sites(), default_encryption="none")
    (name,) = (
        one.name
        for one in tunnels(plain, SITE)
        if one.peers[0].site == "b" and one.uplink == TUNNELS[0].uplink
    )
    firewall.apply(gate.names["gate"], nft.ruleset(plain, SITE).replace(name, TUNNEL))
    with udp(gate.vm, ends.near) as near, udp(gate.far, ends.far) as far:
        crosses(near, far)
    others = {4: "10.3.0.11", 6: "fd00:3::11"}[ends.family]
    for source in (ends.stranger, others, ends.near):
        before = gate.counted("not from its peer's prefix")
        with gate.far.raw(ends.family) as raw:
            packet = ip(ip_address(source), ip_address(ends.near), 17, bytes(8))
            raw.sendto(packet, (ends.near, 0))
        gate.wait_for("not from its peer's prefix", before + 1)


@FAMILIES
def test_what_belongs_to_no_flow_is_dropped(gate: Gate, ends: Ends) -> None:
    """Errors about a datagram that nobody sent, and an answer to an echo that nobody asked for."""
    near, far = ip_address(ends.near), ip_address(ends.far)
    answer = {4: 0, 6: 129}[ends.family]
    about = ip(near, far, 17, b"\x99\x99\x88\x88\x00\x09\x00\x00x")
    unasked = icmp(far, near, answer, 0, bytes(8))
    packets = [*unreachable(far, about), too_big(far, about, 1280), unasked]
    before = gate.counted("of no flow")
    with gate.far.raw(ends.family) as raw:
        for packet in packets:
            raw.sendto(packet, (ends.near, 0))
    gate.wait_for("of no flow", before + len(packets))


def test_a_redirect_belongs_to_no_flow_though_it_names_one(gate: Gate) -> None:
    before = gate.counted("not an error of those that count")
    with udp(gate.vm, "10.1.0.11") as near, udp(gate.far, "10.2.0.11", DNS) as far:
        crosses(near, far)
        ports = struct.pack("!HHHH", near.getsockname()[1], DNS, 9, 0)
        about = ip(ip_address("10.1.0.11"), ip_address("10.2.0.11"), 17, ports + b"x")
        with gate.far.raw(4) as raw:
            told = redirect(ip_address("10.2.0.11"), about, ip_address("10.2.0.12"))
            raw.sendto(told, ("10.1.0.11", 0))
        gate.wait_for("not an error of those that count", before + 1)


@FAMILIES
def test_a_sweep_from_far_away_fills_no_table_of_neighbours(gate: Gate, ends: Ends) -> None:
    """It reaches so many addresses that never sent anything; who has sent is reached still."""
    swept = [*ip_network({4: "10.1.0.0/24", 6: "fd00:1::/120"}[ends.family]).hosts()][99:240]
    before = gate.counted("to more than are waited for")
    with gate.far.raw(ends.family) as raw:
        for address in swept:
            data = b"\x14\xe9\x14\xe9\x00\x09\x00\x00x"
            packet = ip(ip_address(ends.far.replace("11", "12")), address, 17, data)
            raw.sendto(packet, (str(address), 0))
    gate.wait_for("to more than are waited for", before + 1)
    shown = gate.output("ip", f"-{ends.family}", "neigh", "show", "nud", "all", "dev", ROUTER_PORT)
    known = {line.split()[0] for line in shown.splitlines()}
    reached = {str(address) for address in swept} & known
    assert 0 < len(reached) < len(swept)
    with udp(gate.vm, ends.near) as near, udp(gate.far, ends.far) as far:
        crosses(near, far)
    with udp(gate.vm, ends.near) as near, udp(gate.far, ends.far.replace("11", "12")) as far:
        crosses(far, near)


@FAMILIES
def test_rules_decide_who_may_begin(gate: Gate, ends: Ends) -> None:
    gate.allow(Rule(("a",), ("b",), "udp", (range(DNS, DNS + 1),)), Rule(("b",), ("a",), "icmp"))
    with udp(gate.vm, ends.near) as near, udp(gate.far, ends.far, DNS) as far:
        crosses(near, far)
    with udp(gate.vm, ends.near) as near:
        refused(near, (ends.far, OTHER_PORT), ends.family)
    with udp(gate.far, ends.far) as far:
        refused(far, (ends.near, DNS), ends.family)
    for space, to, status in (("far", ends.near, 0), ("vm", ends.far, 1)):
        ping = ["ip", "netns", "exec", gate.names[space], "ping", "-c", "1", "-W", "20", to]
        assert subprocess.run(ping, check=False).returncode == status


@FAMILIES
def test_other_rules_judge_open_flows_again(gate: Gate, ends: Ends) -> None:
    """An answer is judged as what it answers, so a flow goes on whoever speaks first."""
    with udp(gate.vm, ends.near) as near, udp(gate.far, ends.far, DNS) as far:
        crosses(near, far)
        gate.allow(Rule(("a",), None, ports=(range(DNS, DNS + 1),)))
        far.sendto(b"first", near.getsockname())
        assert near.recv(9) == b"first"
        crosses(near, far)
        gate.allow(Rule(("a",), None, ports=(range(OTHER_PORT, OTHER_PORT + 1),)))
        refused(near, far.getsockname()[:2], ends.family)
        refused(far, near.getsockname()[:2], ends.family)
        gate.allow(Rule(("a",), None, "udp"))
        crosses(near, far)


def test_the_application_puts_other_rules_in_place_and_nothing_else(gate: Gate) -> None:
    name = gate.names["gate"]
    before = firewall.read(name)
    federation = replace(two_sites(), allow=(Rule(("b",), ("a",), "udp"),))
    assert firewall.apply_rules(name, federation, SITE)
    with udp(gate.vm, "10.1.0.11") as near, udp(gate.far, "10.2.0.11") as far:
        refused(near, far.getsockname()[:2], 4)
        crosses(far, near)
    assert not firewall.apply_rules(name, federation, SITE), "they are there"
    assert firewall.read(name) == firewall.listing(nft.ruleset(federation, SITE))
    assert firewall.apply_rules(name, two_sites(), SITE)
    assert firewall.read(name) == before
    with namespace_with("true") as bare:
        assert not firewall.apply_rules(bare, federation, SITE), "no 'site up' has run"


@FAMILIES
def test_no_vm_has_the_networks_own_addresses(gate: Gate, ends: Ends) -> None:
    """The proxy's is among them: nobody reaches the proxy itself from a tunnel."""
    nobodys = {4: ("10.1.0.2", "10.1.0.0"), 6: ("fd00:1::2", "fd00:1::")}
    for address in nobodys[ends.family]:
        with udp(gate.far, ends.far) as far:
            refused(far, (address, DNS), ends.family)
    broadcast = ("10.1.0.255",) if ends.family == 4 else ()
    with udp(gate.far, ends.far, DNS) as far, udp(gate.vm, ends.near) as near:
        for address in (*nobodys[ends.family], *broadcast):
            data = b"\x14\xe9\x14\xe9\x00\x09\x00\x00x"
            packet = ip(ip_address(address), ip_address(ends.far), 17, data)
            with gate.vm.raw(ends.family) as raw:
                raw.sendto(packet, (ends.far, 0))
        crosses(near, far, b"the first that arrives")


@FAMILIES
def test_a_flow_tells_by_which_tunnels_it_goes_and_nothing_else_is_tracked(
    gate: Gate, ends: Ends
) -> None:
    family = {4: "ipv4", 6: "ipv6"}[ends.family]
    own = {4: "127.0.0.1", 6: "::1"}[ends.family]
    with gate.gate.listen(own) as listener, gate.gate.connect(*listener.getsockname()[:2]):
        pass
    with udp(gate.vm, ends.near) as near, udp(gate.far, ends.far) as far:
        port = near.getsockname()[1]
        crosses(near, far)
        listed = gate.output("conntrack", "-L", "-f", family, "-p", "udp", "--sport", str(port))
        mark = int(listed.split("mark=")[1].split()[0])
        assert ct_tunnel_sent(mark) == ct_tunnel_received(mark) == TUNNELS[0].slot
    assert not gate.output("conntrack", "-L", "-f", family, "-p", "tcp")
