"""Whose a connection is, on a real bridge with the real packet filter; tests hold all sockets.

They are the VM's, and those that the proxy would have: the socksifier's and the SOCKS server's.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address

import pytest

from fedsdn.lab.namespaces import Namespace
from fedsdn.pipeline.declarations import SOCKSIFIER_LISTEN_PORTS, SocketMark
from fedsdn.proxy.sockets import tcp, transparent
from fedsdn.socket_address import SocketAddress
from tests.real.handing_in import handing_in
from tests.real.site_host import SiteHost
from tests.real.test_site_traffic import Ground

pytestmark = pytest.mark.real

LIMIT_S = 60.0
TOTAL_RETRANS = 100
"""Where ``tcpi_total_retrans`` begins (include/uapi/linux/tcp.h): SYNs are among them."""
SILENTLY = struct.pack("ii", 1, 0)
NEAR, FAR = {4: "10.1.0.11", 6: "fd00:1::11"}, {4: "10.2.0.11", 6: "fd00:2::11"}
Pair = tuple[socket.socket, socket.socket]


@dataclass
class Place:
    """A site's host; ``vm`` and ``proxy`` are namespaces on it, ``family`` is the tests'."""

    ground: Ground
    vm: Namespace
    proxy: Namespace
    socksifier: socket.socket
    stack: ExitStack
    family: int = 4
    ports: int = 7000

    def port(self) -> int:
        self.ports += 1
        return self.ports

    def inbound(self, near: int, far: int) -> Pair:
        """Open a connection from the peer's VM to ours; return the server's end and the VM's."""
        with self.vm.listen(NEAR[self.family], near) as listener:
            server = self.server_socket(far)
            server.connect((tcp.mapped(ip_address(NEAR[self.family])), near))
            client, _ = listener.accept()
        return server, self.kept(client)

    def server_socket(self, far: int) -> socket.socket:
        own = SocketAddress(ip_address(FAR[self.family]), far)
        sock = self.proxy.call(lambda: transparent.bound(own, SocketMark.SERVER))
        return self.kept(sock)

    def outbound(self, near: int, far: int) -> Pair:
        """Open a connection from our VM to the peer's; return the socksifier's end and the VM's."""
        vm = self.vm.connect(FAR[self.family], far, (NEAR[self.family], near))
        end, name = self.socksifier.accept()
        assert name[1] == near
        return self.kept(end), self.kept(vm)

    def kept(self, sock: socket.socket) -> socket.socket:
        sock.settimeout(LIMIT_S)
        return self.stack.enter_context(sock)

    def stray_syn(self, source: tuple[str, int], to: tuple[str, int], seq: int = 1) -> None:
        """Send a SYN from the VM's namespace, as a neighbour can."""
        family = socket.AF_INET6 if self.family == 6 else socket.AF_INET
        kind = socket.SOCK_RAW
        with self.vm.call(lambda: socket.socket(family, kind, socket.IPPROTO_RAW)) as raw:
            raw.sendto(syn(source, to, seq), (to[0], 0))

    def next_seq(self, near: int, work: Callable[[], None]) -> int:
        """Return about which sequence number the VM's connection is at after ``work``."""
        kind = socket.SOCK_DGRAM
        family = 0x86DD if self.family == 6 else 0x0800
        begin = 40 if self.family == 6 else 20
        with self.vm.call(
            lambda: socket.socket(socket.AF_PACKET, kind, socket.htons(3))
        ) as packets:
            packets.setblocking(False)
            work()
            seen = []
            with suppress(BlockingIOError):
                while True:
                    data, name = packets.recvfrom(200)
                    source, _, seq = struct.unpack_from("!HHI", data, begin)
                    if name[1] == family and name[2] == socket.PACKET_OUTGOING and source == near:
                        seen.append(seq)
        return int(seen[-1])


def syn(source: tuple[str, int], to: tuple[str, int], seq: int, flags: int = 0x02) -> bytes:
    """IP and TCP headers (RFC 791, 8200, 9293); the kernel does IPv4's checksum."""
    near, far = ip_address(source[0]).packed, ip_address(to[0]).packed
    header = struct.Struct("!HHIIBBHHH")
    fields = (source[1], to[1], seq, 0, 5 << 4, flags, 1000)
    summed = near + far + struct.pack("!II", header.size, 6) + header.pack(*fields, 0, 0)
    total = sum(struct.unpack(f"!{len(summed) // 2}H", summed))
    total = (total & 0xFFFF) + (total >> 16)
    segment = header.pack(*fields, 0xFFFF - (total & 0xFFFF) - (total >> 16), 0)
    if len(near) == 16:
        return struct.pack("!IHBB", 6 << 28, len(segment), 6, 64) + near + far + segment
    return struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, 6, 0) + near + far + segment


@pytest.fixture(scope="module")
def set_up() -> Iterator[Place]:
    with SiteHost() as host, ExitStack() as stack:
        ground = Ground(host)
        vm = Namespace(host.run_directory / "netns/vm")
        proxy = Namespace(host.run_directory / "netns/fedsdn")
        socksifier = proxy.call(
            lambda: transparent.listen(SOCKSIFIER_LISTEN_PORTS[0], SocketMark.SOCKSIFIER)
        )
        socksifier.settimeout(LIMIT_S)
        stack.enter_context(handing_in(host))
        yield Place(ground, vm, proxy, stack.enter_context(socksifier), stack)


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def place(set_up: Place, request: pytest.FixtureRequest) -> Place:
    set_up.family = request.param
    return set_up


def retransmitted(sock: socket.socket) -> int:
    """How often the kernel has sent something again: who opened a connection, its SYN."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TOTAL_RETRANS + 4)
    return int(struct.unpack_from("I", info, TOTAL_RETRANS)[0])


def exchange(one: socket.socket, other: socket.socket) -> None:
    for sender, receiver in ((one, other), (other, one)):
        sender.sendall(b"x" * 3000)
        received = 0
        while received < 3000:
            received += len(receiver.recv(3000))


@contextmanager
def silence(place: Place) -> Iterator[None]:
    """Nothing that the sockets say gets out of their namespaces."""
    rules = "table inet silence { chain output { type filter hook output priority 0; drop; }; }"
    for namespace in ("vm", "fedsdn"):
        place.ground.host.output(f"ip netns exec {namespace} nft '{rules}'")
    yield
    for namespace in ("vm", "fedsdn"):
        place.ground.host.output(f"ip netns exec {namespace} nft delete table inet silence")


def die(place: Place, *socks: socket.socket) -> None:
    """End sockets so that nobody hears of it; conntrack has the connection as established."""
    with silence(place):
        for sock in socks:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, SILENTLY)
            sock.close()


@pytest.mark.parametrize("where", [0, 1 << 31], ids=["in the window", "out of it"])
def test_a_stray_syn_does_not_turn_an_inbound_connection_round(place: Place, where: int) -> None:
    near, far = place.port(), place.port()
    server, vm = place.inbound(near, far)
    seq = place.next_seq(near, lambda: exchange(server, vm))
    for number in range(5):
        position = seq + where + number & 0xFFFF_FFFF
        place.stray_syn((NEAR[place.family], near), (FAR[place.family], far), position)
        exchange(vm, server)
    exchange(server, vm)


def test_a_stray_syn_does_not_end_an_outbound_connection(place: Place) -> None:
    near, far = place.port(), place.port()
    end, vm = place.outbound(near, far)
    for seq in (1, 1 << 31):
        place.stray_syn((NEAR[place.family], near), (FAR[place.family], far), seq)
        exchange(end, vm)
        exchange(vm, end)


def test_the_server_cannot_open_what_is_a_live_outbound_connection(place: Place) -> None:
    """The kernel has one socket for two addresses and ports: who speaks is the owner."""
    near, far = place.port(), place.port()
    end, vm = place.outbound(near, far)
    server = place.server_socket(far)
    with pytest.raises(OSError, match="Cannot assign requested address"):
        server.connect((tcp.mapped(ip_address(NEAR[place.family])), near))
    exchange(end, vm)


def test_two_sockets_serve_in_turns_from_both_ends_at_once(place: Place) -> None:
    """Whoever had the last one died without a word: conntrack still has it as established."""
    near, far = place.port(), place.port()
    for _ in range(2):
        exchange(*(pair := place.inbound(near, far)))
        die(place, *pair)
        _, vm = pair = place.outbound(near, far)
        assert retransmitted(vm) <= 1
        exchange(*pair)
        die(place, *pair)
        server, _ = pair = place.inbound(near, far)
        assert retransmitted(server) == 0
        exchange(*pair)
        die(place, *pair)


def test_a_connection_that_ended_leaves_its_sockets_to_the_other_end(place: Place) -> None:
    near, far = place.port(), place.port()
    server, vm = place.inbound(near, far)
    server.close()
    with pytest.raises(ConnectionResetError):
        vm.recv(1)
    vm.close()
    end, vm = place.outbound(near, far)
    assert retransmitted(vm) == 0
    exchange(end, vm)


def test_both_ends_open_at_once(place: Place) -> None:
    """The VM's SYN crosses the server's: one connection, the server's (RFC 9293, section 3.5)."""
    near, far = place.port(), place.port()
    server = place.server_socket(far)
    vm = place.kept(place.vm.open(NEAR[place.family]))
    vm.bind((NEAR[place.family], near))
    with silence_towards_vm(place):
        server.setblocking(False)
        assert server.connect_ex((tcp.mapped(ip_address(NEAR[place.family])), near)) != 0
        vm.setblocking(False)  # meanwhile: a VM that has not begun yet would refuse the server
        assert vm.connect_ex((FAR[place.family], far)) != 0
    for sock in (server, vm):
        sock.settimeout(LIMIT_S)
    exchange(server, vm)


@contextmanager
def silence_towards_vm(place: Place) -> Iterator[None]:
    """What arrives at the VM is lost."""
    rules = "table inet deaf { chain input { type filter hook input priority 0; drop; }; }"
    place.ground.host.output(f"ip netns exec vm nft '{rules}'")
    yield
    place.ground.host.output("ip netns exec vm nft delete table inet deaf")
