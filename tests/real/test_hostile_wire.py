"""Strangers on the uplinks' links, and hostile VMs: what they forge takes no path.

The sites are joined by plain wires, and what a stranger would send comes out of the other end.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

import pytest

from fedsdn.config.model import Address, Uplink
from fedsdn.pipeline.declarations import (
    MOST_STRANGERS,
    SERVER_PORT,
    SOCKSIFIER_PORT,
    port_mac,
    wan_port,
)
from tests.real import forger
from tests.real.proxy_connections import Net, carried, connection, proxies
from tests.real.proxy_net import LIMIT_S, SiteOfNet
from tests.real.site_host import wait_until

pytestmark = pytest.mark.real

STRANGER = {4: ip_address("203.0.113.66"), 6: ip_address("2001:db8:66::66")}
PROBES, PORT = 1080, 5000
ALL_KINDS = 3
DATA = bytes(range(256)) * 4096
CROWD = 600
ECHO_REQUEST = {4: 8, 6: 128}
ROUTERS = {4: ("192.0.2.77", "100.64.9.9"), 6: ("2001:db8:2::77", "fe80::77")}
"""Who asks last, by an address of the link, and by another one of his."""
FULL, SMALL, FLOOR = 1500, 1400, 1280
LEAST = {4: 600, 6: FLOOR}
"""The least that a router can say: less is no error in IPv6 (RFC 8201, section 4)."""


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with proxies() as sites:
        yield sites


def uplinks(net: Net, family: int) -> tuple[Uplink, Uplink]:
    """Return the two ends of the wire of a family."""
    near, far = (
        next(uplink for uplink in site.site.uplinks if uplink.family == family) for site in net
    )
    return near, far


def mtu(site: SiteOfNet, own: Uplink, peer: Uplink) -> int:
    """Return the MTU that the kernel believes a path to have."""
    route = site.inside(f"ip route get {peer.address.ip} from {own.address.ip}")
    found = re.search(r" mtu (?:lock )?(\d+)", route)
    return int(found[1]) if found else FULL


def known(site: SiteOfNet) -> str:
    return site.inside("ip neigh show nud permanent")


def test_forged_link_layer_addresses_take_no_path(net: Net) -> None:
    """On both wires at once, both ways: nothing would be left to go over."""
    near, far = net
    before = [known(site) for site in net]
    assert all(one.count("PERMANENT") >= 2 for one in before)
    with connection(near, far, 4) as (client, server), ExitStack() as stack:
        for mine, theirs in (uplinks(net, family) for family in (4, 6)):
            for place, claimed, victim in ((far, theirs, mine), (near, mine, theirs)):
                frames = list(forger.claims(claimed.address.ip, victim.address.ip))
                stack.enter_context(forger.flooding(place.proxy, wan_port(claimed), frames))
        assert carried(DATA, client, server) == DATA
        assert carried(DATA, server, client) == DATA
        assert [known(site) for site in net] == before


def of_kernel(site: SiteOfNet) -> list[str]:
    """What the kernel knows of the network: addresses, routes, neighbours that were not learnt."""
    commands = (
        "-o address",
        "route show table all",
        "-6 route show table all",
        "-6 route show cache",
    )
    shown = [site.output(f"ip -n fedsdn {command}") for command in commands]
    lines = "".join(shown).splitlines()
    return [re.sub(r"(expires|users|used|age) \S+", "", line) for line in lines] + [known(site)]


def about(protocol: int, source: Address, destination: Address, seq: int = 1) -> bytes:
    """Write a packet that nobody sent: a probe, an echo, or a segment."""
    if protocol == forger.UDP:
        head = struct.pack("!HHHH", PROBES, PROBES, 600, 0)
        return forger.ip(source, destination, protocol, head)
    if protocol == forger.ECHO:
        return forger.icmp(source, destination, 8 if source.version == 4 else 128, 0, bytes(600))
    return segment(source, destination, (PORT, PORT), seq)


def segment(source: Address, destination: Address, ports: tuple[int, int], seq: int) -> bytes:
    """Write a TCP segment of 1,400 octets, or as much of it as an error quotes."""
    head = struct.pack("!HHIIBBHHH", *ports, seq, 1, 5 << 4, 0x10, 1000, 0, 0)
    return forger.ip(source, destination, forger.TCP, head + bytes(1400))


def out_of_window(site: SiteOfNet) -> int:
    """ICMP errors that were about no sequence number under way."""
    names, numbers = site.inside("grep ^TcpExt /proc/net/netstat").splitlines()
    return int(dict(zip(names.split(), numbers.split(), strict=True))["OutOfWindowIcmps"])


def dropped(site: SiteOfNet) -> int:
    """ICMP errors that the packet filter has dropped."""
    rules = site.inside("nft list chain inet fedsdn from_uplinks")
    found = re.findall(r'packets (\d+) bytes \d+ drop comment "an error', rules)
    return sum(map(int, found))


@dataclass(frozen=True)
class Measured:
    """A TCP connection: both ends, and how to see what comes to the far one."""

    near: socket.socket
    far: socket.socket
    listening: Callable[[], socket.socket]

    def next_seq(self) -> int:
        """Have something carried, and return the sequence number of what comes next."""
        port, said = self.near.getsockname()[1], os.urandom(16)  # not what was sent before
        with self.listening() as wire:
            self.near.sendall(said)
            assert self.far.recv(len(said), socket.MSG_WAITALL) == said
            while True:
                packet, (_, _, kind, _, _) = wire.recvfrom(1 << 16)
                at = 40 if packet[0] >> 4 == 6 else 20
                data = packet[at + (packet[at + 12] >> 4) * 4 :]
                if kind == socket.PACKET_HOST and packet[at : at + 2] == port.to_bytes(2):
                    (seq,) = struct.unpack_from("!I", packet, at + 4)
                    if data == said:
                        return int(seq) + len(said)

    def carry(self) -> None:
        """See that much goes through."""
        left = len(DATA)
        with ThreadPoolExecutor(1) as thread:
            sending = thread.submit(self.near.sendall, DATA)
            while left:
                left -= len(self.far.recv(1 << 16))
            sending.result()


@contextmanager
def measured(site: SiteOfNet, peer: SiteOfNet, own: Uplink, to: Uplink) -> Iterator[Measured]:
    """A TCP connection from an uplink to a peer's, as fedsdn verify has them."""

    def listening() -> socket.socket:
        kind = socket.SOCK_DGRAM
        wire = peer.proxy.call(lambda: socket.socket(socket.AF_PACKET, kind, 0))
        peer.proxy.call(lambda: wire.bind((wan_port(to), ALL_KINDS)))
        wire.settimeout(LIMIT_S)
        return wire

    peer.inside(f"nft add element inet fedsdn measured '{{ {PORT} }}'")
    with (
        peer.proxy.listen(str(to.address.ip), PORT) as listener,
        site.proxy.connect(str(to.address.ip), PORT, (str(own.address.ip), 0)) as sock,
        listener.accept()[0] as other,
    ):
        yield Measured(sock, other, listening)
    for family in ("", "-6"):
        site.output(f"ip -n fedsdn {family} route flush cache")


def test_nobodys_word_about_probes_or_echoes_counts(net: Net, family: int) -> None:
    """Neither an MTU, nor that the peer is not there or does not want to hear."""
    near, far = net
    own, peer = uplinks(net, family)
    ends = own.address.ip, peer.address.ip
    kind = socket.AF_INET6 if family == 6 else socket.AF_INET
    with (
        near.proxy.call(lambda: socket.socket(kind, socket.SOCK_DGRAM)) as probes,
        forger.sending(far.proxy, wan_port(peer)) as wire,
    ):
        probes.bind((str(ends[0]), PROBES))
        probes.connect((str(ends[1]), PROBES))
        before, sent = dropped(near), 0
        for protocol in (forger.UDP, forger.ECHO):
            quoted = about(protocol, *ends)
            errors = [forger.too_big(STRANGER[family], quoted, 600)]
            errors += forger.unreachable(STRANGER[family], quoted)
            for error in errors:
                wire.send(forger.ethernet(error, family, to=port_mac(near.site, wan_port(own))))
            sent += len(errors)
        wait_until(lambda: dropped(near) == before + sent)
        assert mtu(near, own, peer) == FULL
        assert probes.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_about_tcp_only_what_is_under_way_counts(net: Net, family: int) -> None:
    """A router's word does: what is too big for it goes on in smaller pieces."""
    near, far = net
    own, peer = uplinks(net, family)
    ends = own.address.ip, peer.address.ip
    with (
        measured(near, far, own, peer) as connected,
        forger.sending(far.proxy, wan_port(peer)) as wire,
    ):
        ports = connected.near.getsockname()[1], PORT

        def say(seq: int, size: int) -> None:
            error = forger.too_big(STRANGER[family], segment(*ends, ports, seq), size)
            wire.send(forger.ethernet(error, family, to=port_mac(near.site, wan_port(own))))

        before, seq = out_of_window(near), connected.next_seq()
        say((seq + (1 << 30)) % (1 << 32), 600)
        wait_until(lambda: out_of_window(near) == before + 1)
        assert mtu(near, own, peer) == FULL
        for said, believed in ((SMALL, SMALL), (LEAST[family], FLOOR)):
            say(connected.next_seq(), said)
            wait_until(lambda: mtu(near, own, peer) == believed)  # noqa: B023  (waits here)
            connected.carry()


def test_a_stranger_changes_nothing_of_the_proxys_network(net: Net, family: int) -> None:
    """Redirects, routers that advertise themselves, and routes written into packets."""
    near, far = net
    own, peer = uplinks(net, family)
    ends = own.address.ip, peer.address.ip
    to = port_mac(near.site, wan_port(own))
    router = own.address.network[0x99]
    before = of_kernel(near)
    with measured(near, far, own, peer) as connected:
        quoted = segment(*ends, (connected.near.getsockname()[1], PORT), connected.next_seq())
        with forger.sending(far.proxy, wan_port(peer)) as wire:
            for about_one in (quoted, about(forger.UDP, *ends)):
                wire.send(
                    forger.ethernet(forger.redirect(router, about_one, router), family, to=to)
                )
                wire.send(
                    forger.ethernet(forger.redirect(ends[1], about_one, router), family, to=to)
                )
            if family == 6:
                for address in (ip_address("ff02::1"), ends[0]):
                    wire.send(
                        forger.ethernet(forger.router(forger.link_local(), address), 6, to=to)
                    )
            opening = struct.pack("!HHIIBBHHH", PORT, PROBES, 1, 0, 5 << 4, 0x02, 1000, 0, 0)
            routed = forger.source_routed(ends[1], STRANGER[family], ends[0], opening)
            wire.send(forger.ethernet(routed, family, to=to))
        connected.carry()
        assert of_kernel(near) == before


def crowd(own: Uplink) -> list[Address]:
    """Return the addresses of many strangers: of the link, of none, and link-local ones."""
    other = ip_network("100.64.0.0/16" if own.family == 4 else "fe80::/64")
    of_link = range(100, 200) if own.family == 4 else range(0x1000, 0x1000 + CROWD // 2)
    return [
        *(own.address.network[number] for number in of_link),
        *(other[number] for number in range(0x1000, 0x1000 + CROWD // 2)),
    ]


def question(source: Address, own: Uplink, to: str) -> bytes:
    if own.family == 4:
        return forger.arp_request(source, own.address.ip)
    return forger.ethernet(forger.solicitation(source, own.address.ip), 6, to=to)


def test_many_strangers_do_not_fill_the_hosts_neighbour_table(net: Net, family: int) -> None:
    """Those who are there already go on being answered, and who comes last, as a router may."""
    near, far = net
    own, peer = uplinks(net, family)
    far.output("ip netns exec fedsdn ping -qc1 -W20 " + str(own.address.ip))
    to = port_mac(near.site, wan_port(own))
    with forger.sending(far.proxy, wan_port(peer)) as wire:
        for one in crowd(own):
            echo = forger.icmp(one, own.address.ip, ECHO_REQUEST[family], 0, bytes(8))
            wire.send(forger.ethernet(echo, family, to=to))
            wire.send(question(one, own, to))
    # Comes behind all of them:
    far.output("ip netns exec fedsdn ping -qc1 -W20 " + str(own.address.ip))
    there = near.output(f"ip -n fedsdn -{family} neigh show dev {wan_port(own)}").splitlines()
    assert len(there) <= 4 * MOST_STRANGERS
    for router in ROUTERS[family]:
        asked = question(ip_address(router), own, to)
        assert forger.ask(far.proxy, wan_port(peer), asked, own.address.ip, LIMIT_S), router


# Hostile VMs


def hostile(site: SiteOfNet, peer: SiteOfNet, family: int, port: str) -> Iterator[bytes]:
    """Frames with which a VM might change the proxy's mind, at one of its ports."""
    own = next(one.proxy_address for one in site.site.prefixes if one.family == family)
    vm, far = ip_address(site.addresses[family]), ip_address(peer.addresses[family])
    uplink, other = uplinks((site, peer), family)
    to = port_mac(site.site, port)
    for claimed in (own, far, other.address.ip, uplink.address.ip):
        yield from forger.claims(claimed, own)
    for protocol in (forger.UDP, forger.ECHO, forger.TCP):
        for source in (own, far, uplink.address.ip):
            error = forger.too_big(vm, about(protocol, source, vm), 600)
            yield forger.ethernet(error, family, to=to)
            moved = about(protocol, source, vm)
            yield forger.ethernet(forger.redirect(vm, moved, vm), family, to=to)
    if family == 6:
        everybody = ip_address("ff02::1")
        yield forger.ethernet(forger.router(forger.link_local(), everybody), 6)
        yield forger.ethernet(forger.router(forger.link_local(), own), 6, to=to)
    opening = struct.pack("!HHIIBBHHH", PORT, PORT, 1, 0, 5 << 4, 0x02, 1000, 0, 0)
    yield forger.ethernet(forger.source_routed(vm, far, own, opening), family, to=to)


def test_a_vm_changes_nothing_of_the_proxys_network(net: Net, family: int) -> None:
    """What it forges is about its own link at most; nobody's connections notice."""
    near, far = net
    before = of_kernel(near)
    with connection(near, far, family) as (client, server):
        for port in (SOCKSIFIER_PORT, SERVER_PORT):
            with forger.sending(near.vm, port) as wire:
                for frame in hostile(near, far, family, port):
                    wire.send(frame)
        with connection(near, far, family) as ends:  # comes behind all of them
            assert carried(DATA, *ends) == DATA
        assert carried(DATA, client, server) == DATA
        assert carried(DATA, server, client) == DATA
    assert of_kernel(near) == before
