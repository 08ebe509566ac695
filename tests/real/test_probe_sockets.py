"""Probes sent and received by real sockets, between two namespaces that a cable joins."""

from __future__ import annotations

import asyncio
import errno
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_interface

import pytest

from fedsdn.config.model import Address, Uplink
from fedsdn.uplinks.path import Way
from fedsdn.uplinks.sockets import ProbeSockets, open_socket
from tests.real.cables import Joined, joined
from tests.unit.federations import two_sites

pytestmark = pytest.mark.real

PORT = 1080
ABSENT = 12
ROUNDS = 100
LIMIT_SECONDS = 60.0
CABLE = {4: ("192.0.2.1/24", "192.0.2.2/24"), 6: ("2001:db8::1/64", "2001:db8::2/64")}


class Cable:
    """Two namespaces: ours with an uplink of each family, and the peer's."""

    def __init__(self, here: Joined, there: Joined) -> None:
        self.here, self.there = here, there

    def open(self, uplink: Uplink, port: int, peer: Address | None) -> socket.socket:
        return self.here.call(lambda: open_socket(uplink, port, peer))

    def peer(self, family: int, port: int = PORT) -> socket.socket:
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        sock = self.there.call(lambda: socket.socket(kind, socket.SOCK_DGRAM))
        sock.bind((str(ip_interface(CABLE[family][1]).ip), port))
        sock.settimeout(LIMIT_SECONDS)
        return sock


@pytest.fixture
def cable() -> Iterator[Cable]:
    with joined([list(CABLE.values())]) as ends:
        yield Cable(*ends)


def uplink_of(family: int) -> Uplink:
    up1 = two_sites().site("a").uplinks[0]
    return replace(up1, address=ip_interface(CABLE[family][0]))


class Probing:
    """``ProbeSockets`` in an event loop of their own."""

    def __init__(self, cable: Cable) -> None:
        self.loop = asyncio.new_event_loop()
        self.received: list[bytes] = []
        self.senders: list[Way] = []
        self.sockets = ProbeSockets(self.loop, self.take, lambda work: work(), cable.open)

    def take(self, datagrams: list[tuple[Way, bytes]]) -> None:
        self.senders += [way for way, _ in datagrams]
        self.received += [datagram for _, datagram in datagrams]

    def open(self, uplinks: list[Uplink], ways: list[Way]) -> list[str]:
        """Open the sockets of these uplinks and paths; return what is said of failures."""
        self.sockets.want(uplinks, ways, PORT)
        return self.sockets.open()

    def receive(self, count: int) -> list[bytes]:
        """Wait until so many have come, and whether more do that had time to."""

        async def wait() -> None:
            async with asyncio.timeout(LIMIT_SECONDS):
                while len(self.received) < count:
                    await asyncio.sleep(0.005)

        self.loop.run_until_complete(wait())
        return self.received


@pytest.fixture
def probing(cable: Cable) -> Iterator[Probing]:
    found = Probing(cable)
    yield found
    found.sockets.close()
    found.loop.close()


def test_absent_peers_do_not_silence_a_living_one(
    cable: Cable, probing: Probing, family: int
) -> None:
    """What is sent to them waits for ARP or ND."""
    uplink = uplink_of(family)
    living = ip_interface(CABLE[family][1]).ip
    ways: list[Way] = [(uplink.name, living + 99 + number) for number in range(ABSENT)]
    ways.append((uplink.name, living))
    with cable.peer(family) as peer:
        assert probing.open([uplink], ways) == []
        for number in range(ROUNDS):
            for way in ways:
                datagram = number.to_bytes(2, "big") + bytes(400)
                assert probing.sockets.send(way, datagram) is None
        came = [int.from_bytes(peer.recv(2048)[:2], "big") for _ in range(ROUNDS)]
    assert came == list(range(ROUNDS))


def test_a_path_that_cannot_send_silences_no_other(cable: Cable, probing: Probing) -> None:
    """Here a packet filter forbids it."""
    uplink = uplink_of(4)
    forbidden, living = ip_address("192.0.2.66"), ip_interface(CABLE[4][1]).ip
    rules = (
        "add table ip test; add chain ip test out { type filter hook output priority 0; };"
        f"add rule ip test out ip daddr {forbidden} drop"
    )
    cable.here.call(lambda: subprocess.run(["nft", rules], check=True))
    ways: list[Way] = [(uplink.name, forbidden), (uplink.name, living)]
    with cable.peer(4) as peer:
        assert probing.open([uplink], ways) == []
        for number in range(ROUNDS):
            assert probing.sockets.send(ways[0], b"x") == (
                None if number else "Operation not permitted"
            )
            assert probing.sockets.send(ways[1], bytes([number])) is None
        assert [peer.recv(2048)[0] for _ in range(ROUNDS)] == list(range(ROUNDS))


def test_what_is_dropped_is_told(
    cable: Cable, probing: Probing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_small(uplink: Uplink, port: int, peer: Address | None) -> socket.socket:
        sock = real(uplink, port, peer)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        return sock

    real = cable.open
    monkeypatch.setattr(probing.sockets, "_open_one", open_small)
    uplink = uplink_of(4)
    way = (uplink.name, ip_address("192.0.2.77"))
    probing.open([uplink], [way])
    said = {probing.sockets.send(way, bytes(400)) for _ in range(20)}
    assert said == {None, "what was sent before still waits in the kernel"}


def test_every_datagram_comes_once_from_whichever_port_and_address(
    cable: Cable, probing: Probing, family: int
) -> None:
    """A NAT may have given the peer others."""
    uplink = uplink_of(family)
    ours, peer_address = (str(ip_interface(one).ip) for one in CABLE[family])
    way = (uplink.name, ip_address(peer_address))
    other = (uplink.name, ip_address(peer_address) + 1)
    assert probing.open([uplink], [other, way]) == []
    with cable.peer(family) as peer, cable.peer(family, 4711) as behind_nat:
        for number in range(10):
            peer.sendto(f"{number}".encode(), (ours, PORT))
            behind_nat.sendto(f"{number} by another port".encode(), (ours, PORT))
        assert len(set(probing.receive(20))) == 20
        peer.sendto(b"last", (ours, PORT))
        assert probing.receive(21)[20:] == [b"last"]


def test_a_peer_that_does_not_listen_loses_no_probe(cable: Cable, probing: Probing) -> None:
    """The kernel tells of its ICMP error instead of sending the next datagram."""
    uplink = uplink_of(4)
    way = (uplink.name, ip_address("192.0.2.2"))
    probing.open([uplink], [way])
    for _ in range(10):
        assert probing.sockets.send(way, b"to nobody") is None
    with cable.peer(4) as peer:
        assert probing.sockets.send(way, b"to somebody") is None
        # The peer's backlog may still hold some of the ten when its socket opens.
        while (came := peer.recv(100)) == b"to nobody":
            pass
        assert came == b"to somebody"


def test_a_port_that_somebody_has_is_not_shared(cable: Cable) -> None:
    uplink = uplink_of(4)
    with cable.open(uplink, PORT, None), pytest.raises(OSError) as caught:  # noqa: PT011
        cable.open(uplink, PORT, None)
    assert caught.value.errno == errno.EADDRINUSE


def test_an_uplink_that_is_not_there_keeps_no_other_from_being_probed(
    cable: Cable, probing: Probing
) -> None:
    living = ip_address("192.0.2.2")
    missing = replace(uplink_of(4), name="up0", address=ip_interface("198.51.100.1/24"))
    uplink = uplink_of(4)
    ways = [("up0", ip_address("198.51.100.2")), (uplink.name, living)]
    with cable.peer(4) as peer:
        (trouble,) = probing.open([missing, uplink], ways)
        assert trouble.startswith("no probes over up0: UDP port 1080 of 198.51.100.1 cannot be had")
        probing.sockets.send(ways[1], b"probe")
        assert peer.recv(100) == b"probe"
