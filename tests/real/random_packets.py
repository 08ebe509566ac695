"""Sends random packets through a bridge, and compares where they go with what a trace foretold.

Runs on a host of its own (``SiteHost``), whose bridge has a site's flows: ``python -m
tests.real.random_packets FEDERATION SITE COUNT SEED`` prints JSON.
"""

from __future__ import annotations

import json
import random
import select
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from os_ken.lib.packet import ethernet, ipv4, ipv6, packet, tcp, udp

from fedsdn.config.loader import load_federation
from fedsdn.config.model import Address, Site
from fedsdn.ovs.conntrack import Entry, entries
from fedsdn.ovs.packet import TracedPacket, state
from fedsdn.ovs.trace import run_trace
from fedsdn.pipeline.declarations import (
    ROUTER_PORT,
    SERVER_PORT,
    SOCKSIFIER_PORT,
    port_mac,
    wan_port,
)
from fedsdn.shell import Shell
from fedsdn.socket_address import SocketAddress

LIMIT_S = 60.0
VM_MACS = {"tap-vm1": "02:00:00:00:01:01", "tap-vm2": "02:00:00:00:01:02"}
GATEWAY = "02:00:00:00:01:fe"
STRANGERS = {4: "203.0.113.9", 6: "2001:db8:ffff::9"}
_OUTGOING = 4
_SYN, _ACK = 0x02, 0x10
_shell = Shell("host")


@dataclass
class Flow:
    """A connection, as far as it has come: 0 to 3, the last two again and again."""

    near_port: str
    client: SocketAddress
    server: SocketAddress
    outbound: bool
    stage: int = 0


@dataclass
class Shot:
    """A packet to send: what is traced, and the TCP header that goes with it."""

    kind: str
    packet: TracedPacket
    flags: int
    seq: int = 1
    ack: int = 0


@dataclass
class Wires:
    """Raw sockets on the other ends of the bridge's ports."""

    devices: dict[str, str]
    sockets: dict[str, socket.socket] = field(default_factory=dict)
    seen: dict[int, set[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for port, device in self.devices.items():
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            sock.bind((device, 0))
            sock.setblocking(False)
            self.sockets[port] = sock

    def send(self, number: int, shot: Shot) -> None:
        self.sockets[shot.packet.in_port].send(frame(shot, b"packet %08d" % number))

    def read(self, seconds: float) -> None:
        ready, _, _ = select.select(list(self.sockets.values()), [], [], seconds)
        for port, sock in self.sockets.items():
            while sock in ready:
                try:
                    data, name = sock.recvfrom(2000)
                except BlockingIOError:
                    break
                at = data.find(b"packet ")
                if at >= 0 and name[2] != _OUTGOING:
                    self.seen.setdefault(int(data[at + 7 : at + 15]), set()).add(port)

    def wait(self, number: int, ports: set[str]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not ports <= self.seen.get(number, set()) and time.monotonic() < deadline:
            self.read(0.05)


def frame(shot: Shot, payload: bytes) -> bytes:
    one = shot.packet
    family = one.source.address.version
    protocol = 0x86DD if family == 6 else 0x0800
    built = packet.Packet()
    built.add_protocol(ethernet.ethernet(one.destination_mac, one.source_mac, protocol))
    ends = {"src": str(one.source.address), "dst": str(one.destination.address)}
    number = 6 if one.protocol == "tcp" else 17
    header = ipv6.ipv6(nxt=number, **ends) if family == 6 else ipv4.ipv4(proto=number, **ends)
    built.add_protocol(header)
    ports = {"src_port": one.source.port, "dst_port": one.destination.port}
    if one.protocol == "tcp":
        built.add_protocol(tcp.tcp(seq=shot.seq, ack=shot.ack, bits=shot.flags, **ports))
    else:
        built.add_protocol(udp.udp(**ports))
    built.add_protocol(payload)
    built.serialize()
    return bytes(built.data)


class Range:
    """Draws packets of every kind at one site, whose peer is the other one."""

    def __init__(self, site: Site, peer: Site, seed: int) -> None:
        self.site, self.peer = site, peer
        self.random = random.Random(seed)  # noqa: S311 -- to be repeated, not secret
        self.flows: list[Flow] = []
        self.ports = iter(range(20000, 60000))

    def vm(self, site: Site, port: str, family: int) -> Address:
        [prefix] = [one for one in site.prefixes if one.family == family]
        return prefix.network.network_address + (11 if port == "tap-vm1" else 12)

    def draw(self) -> Shot:
        kinds = {
            self._open: 3,
            self._go_on: 6,
            self._lost: 1,
            self._stray: 1,
            self._turn: 2,
            self._pretend: 2,
            self._datagram: 3,
            self._uplink: 2,
        }
        return self.random.choices(list(kinds), list(kinds.values()))[0]()

    def _open(self) -> Shot:
        flow = self._flow()
        self.flows.append(flow)
        return self._segment(flow)

    def _flow(self) -> Flow:
        family, outbound = self.random.choice((4, 6)), self.random.random() < 0.5
        port = self.random.choice(list(VM_MACS))
        near = SocketAddress(self.vm(self.site, port, family), next(self.ports))
        far = SocketAddress(self.vm(self.peer, "tap-vm1", family), next(self.ports))
        client, server = (near, far) if outbound else (far, near)
        return Flow(port, client, server, outbound)

    def _go_on(self) -> Shot:
        return self._segment(self.random.choice(self.flows)) if self.flows else self._open()

    def _segment(self, flow: Flow) -> Shot:
        """SYN, SYN and ACK, then ACKs from both ends in turn."""
        back = flow.stage % 2 == 1
        numbers = {0: (_SYN, 1, 0), 1: (_SYN | _ACK, 9, 2), 2: (_ACK, 2, 10), 3: (_ACK, 10, 2)}
        flags, seq, ack = numbers[flow.stage]
        shot = self._shot(flow, "open" if flow.stage == 0 else "on", flags, back=back)
        shot.seq, shot.ack = seq, ack
        flow.stage = 2 if flow.stage == 3 else flow.stage + 1
        return shot

    def _shot(self, flow: Flow, kind: str, flags: int, *, back: bool) -> Shot:
        source, destination = (flow.server, flow.client) if back else (flow.client, flow.server)
        vm_mac = VM_MACS[flow.near_port]
        if back is flow.outbound:  # from the proxy
            port = SOCKSIFIER_PORT if flow.outbound else SERVER_PORT
            macs = port_mac(self.site, port), vm_mac
        else:
            port, macs = flow.near_port, (vm_mac, GATEWAY)
        opening = flags & (_SYN | _ACK) == _SYN
        return Shot(kind, TracedPacket(port, source, destination, *macs, opening), flags)

    def _lost(self) -> Shot:
        """In the middle of a connection that conntrack does not know."""
        return self._shot(self._flow(), "lost", _ACK, back=self.random.random() < 0.5)

    def _stray(self) -> Shot:
        """From a VM to what is not federated."""
        flow = self._flow()
        family = flow.client.address.version
        near = flow.client if flow.outbound else flow.server
        far = SocketAddress(ip_address(STRANGERS[family]), 80)
        macs = VM_MACS[flow.near_port], GATEWAY
        return Shot("stray", TracedPacket(flow.near_port, near, far, *macs, opening=True), _SYN)

    def _turn(self) -> Shot:
        """A SYN from the VM's side, with the addresses and ports of a connection that is there."""
        if not self.flows:
            return self._open()
        flow = self.random.choice(self.flows)
        near, far = (flow.client, flow.server) if flow.outbound else (flow.server, flow.client)
        macs = VM_MACS[flow.near_port], GATEWAY
        one = TracedPacket(flow.near_port, near, far, *macs, opening=True)
        return Shot("turn", one, _SYN, seq=self.random.getrandbits(32))

    def _pretend(self) -> Shot:
        """From a proxy port, what it may not send."""
        flow = self._flow()
        family = flow.client.address.version
        near = flow.client if flow.outbound else flow.server
        far = flow.server if flow.outbound else flow.client
        port = self.random.choice((SOCKSIFIER_PORT, SERVER_PORT))
        own = next(p.proxy_address for p in self.site.prefixes if p.family == family)
        source, destination = self.random.choice(
            [
                (SocketAddress(ip_address(STRANGERS[family]), 80), near),
                (SocketAddress(own, 80), near),
                (near, far),
                (far, SocketAddress(ip_address(STRANGERS[family]), 80)),
                (far, near),
            ]
        )
        macs = port_mac(self.site, port), VM_MACS[flow.near_port]
        one = TracedPacket(port, source, destination, *macs, opening=True)
        return Shot("pretend", one, _SYN)

    def _datagram(self) -> Shot:
        """UDP: from a VM or from one of the proxy's ports, to another site or to nobody's."""
        flow = self._flow()
        family = flow.client.address.version
        near = flow.client if flow.outbound else flow.server
        far = flow.server if flow.outbound else flow.client
        stranger = SocketAddress(ip_address(STRANGERS[family]), 53)
        vm_mac = VM_MACS[flow.near_port]
        if self.random.random() < 0.5:
            ends = self.random.choice([(near, far), (near, far), (near, stranger), (stranger, far)])
            where, macs = flow.near_port, (vm_mac, GATEWAY)
        else:
            ends = self.random.choice([(far, near), (far, near), (stranger, near), (far, stranger)])
            where = self.random.choice((ROUTER_PORT, ROUTER_PORT, SOCKSIFIER_PORT, SERVER_PORT))
            macs = port_mac(self.site, where), vm_mac
        one = TracedPacket(where, *ends, *macs, opening=False, protocol="udp")
        return Shot("datagram", one, 0)

    def _uplink(self) -> Shot:
        """Through an uplink, of a peer or a stranger, to the proxy or somebody else."""
        index = self.random.randrange(len(self.site.uplinks))
        own = self.site.uplinks[index]
        family = own.family
        far = SocketAddress(self.peer.uplinks[index].address.ip, next(self.ports))
        near, stranger = (
            SocketAddress(own.address.ip, 1080),
            SocketAddress(ip_address(STRANGERS[family]), 80),
        )
        mac = port_mac(self.site, wan_port(own))
        inward = [(far, near), (stranger, near), (far, stranger)]
        outward = [(near, far), (stranger, far)]
        if self.random.random() < 0.5:
            ends, port = self.random.choice(inward), own.port
            macs = GATEWAY, mac
        else:
            ends, port = self.random.choice(outward), wan_port(own)
            macs = mac, GATEWAY
        return Shot("uplink", TracedPacket(port, *ends, *macs, opening=True), _SYN)


def entry_of(known: list[Entry], one: TracedPacket) -> Entry | None:
    ends = {one.source, one.destination}
    return next((entry for entry in known if {entry.client, entry.destination} == ends), None)


def learn(wires: Wires) -> Iterator[str]:
    """Have the bridge learn where the VMs are, as it would from their first frames."""
    for port, mac in VM_MACS.items():
        built = packet.Packet()
        built.add_protocol(ethernet.ethernet("ff:ff:ff:ff:ff:ff", mac, 0x88B5))
        built.add_protocol(b"\0" * 46)
        built.serialize()
        wires.sockets[port].send(bytes(built.data))
        yield mac


def main() -> None:
    federation = load_federation(Path(sys.argv[1]))
    site, count, seed = federation.site(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    [peer] = federation.peers(site.name)
    bridge = site.provider_network.bridge
    ours = SOCKSIFIER_PORT, SERVER_PORT, ROUTER_PORT
    devices = {port: port for port in (*VM_MACS, *ours, bridge)}
    for number, uplink in enumerate(site.uplinks, 1):
        devices |= {uplink.port: f"far{number}", wan_port(uplink): wan_port(uplink)}
    wires = Wires(devices)
    macs = set(learn(wires))
    deadline = time.monotonic() + LIMIT_S
    while not all(mac in _shell.output("ovs-appctl", "fdb/show", bridge) for mac in macs):
        if time.monotonic() > deadline:
            sys.exit("the bridge does not learn")
    draw, foretold = Range(site, peer, seed), {}
    shots: list[Shot] = []
    for number in range(count):
        shot = draw.draw()
        entry = entry_of(entries(_shell, bridge), shot.packet)
        flow = shot.packet.flow(entry.mark if entry else 0)
        trace = run_trace(_shell, bridge, flow, state(shot.packet, entry))
        foretold[number] = set(trace.ports) - {shot.packet.in_port}
        wires.send(number, shot)
        wires.wait(number, foretold[number])
        shots.append(shot)
    wires.read(0.2)
    wrong = [
        {
            "number": number,
            "kind": shot.kind,
            "packet": str(shot.packet),
            "foretold": sorted(foretold[number]),
            "seen": sorted(wires.seen.get(number, set())),
        }
        for number, shot in enumerate(shots)
        if foretold[number] != wires.seen.get(number, set())
    ]
    kinds = Counter(shot.kind for shot in shots)
    dropped = sum(not ports for ports in foretold.values())
    print(json.dumps({"kinds": kinds, "dropped": dropped, "wrong": wrong}))


if __name__ == "__main__":
    main()
