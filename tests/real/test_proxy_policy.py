"""The proxy is never an open one: what others, and peers that overstep, get from it.

The bridge and the packet filter keep most of this away from it; here its own judgement is tested.
"""

from __future__ import annotations

import errno
import re
import socket
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import datetime
from ipaddress import ip_address
from itertools import pairwise

import pytest

from fedsdn.proxy.admission.unproven import PROOF_SECONDS
from fedsdn.proxy.ended.record import Reason
from fedsdn.proxy.relay.records import Kind, record
from fedsdn.proxy.socks.protocol import (
    GREETING,
    NO_METHOD,
    SELECTION,
    Reply,
    Request,
    encode_reply,
)
from fedsdn.socket_address import SocketAddress
from tests.real.proxy_net import LIMIT_S, SiteOfNet, proxy_net
from tests.real.site_host import wait_until
from tests.unit.federations import two_sites, unencrypted

pytestmark = pytest.mark.real

PEER = {4: "192.0.2.1", 6: "2001:db8:2::1"}
OWN = {4: "192.0.2.2", 6: "2001:db8:2::2"}
STRANGER = "192.0.2.9"

Net = tuple[SiteOfNet, SiteOfNet]


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    """Site b has a proxy; in place of a's, the tests speak to it from a's namespace."""
    with proxy_net(unencrypted(two_sites())) as (near, far):
        near.inside(f"ip address add {STRANGER}/24 dev wan-up1")
        far.inside(f"nft insert rule inet fedsdn from_uplinks ip saddr {STRANGER} accept")
        far.start_proxy()
        yield near, far


def speak(
    net: Net, family: int = 4, protocol: int = socket.IPPROTO_MPTCP, source: str | None = None
) -> closing[socket.socket]:
    """Connect to b's SOCKS server from an uplink address of a."""
    sock = net[0].proxy.connect(OWN[family], 1080, (source or PEER[family], 0), protocol)
    return closing(sock)


def ask(client: str, destination: str, port: int = 80) -> bytes:
    request = Request(
        SocketAddress(ip_address(client), 40000),
        SocketAddress(ip_address(destination), port),
        number=1,
    )
    return GREETING + request.encode()


def receive_exactly(sock: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count and (data := sock.recv(count - len(received))):
        received += data
    return received


def is_selected(peer: socket.socket) -> bool:
    """Whether the server takes the greeting."""
    return receive_exactly(peer, len(SELECTION)) == SELECTION


def receive(sock: socket.socket) -> bytes:
    received = b""
    while data := sock.recv(1000):
        received += data
    return received


def test_a_peers_request_is_carried(net: Net, family: int) -> None:
    _, far = net
    vm = far.addresses[family]
    client = {4: "10.1.0.77", 6: "fd00:1::77"}[family]
    with (
        far.counts(inbound=1, ended_fallback=0),
        far.vm.listen(vm) as listener,
        speak(net, family) as peer,
    ):
        early = record(Kind.DATA, 5) + b"early"
        peer.sendall(ask(client, vm, listener.getsockname()[1]) + early)
        server, name = listener.accept()
        with server:
            server.settimeout(LIMIT_S)
            assert name[:2] == (client, 40000)
            assert server.recv(100) == b"early"
            server.sendall(b"answer")
        answer = record(Kind.DATA, 6) + b"answer" + record(Kind.END)
        expected = encode_reply(Reply.SUCCEEDED) + answer
        assert is_selected(peer)
        assert receive_exactly(peer, len(expected)) == expected


def test_a_connection_without_multipath_tcp_is_turned_away_and_counted(
    net: Net, family: int
) -> None:
    """What falls back may lose bytes; no data of it may reach a VM."""
    _, far = net
    vm = far.addresses[family]
    client = {4: "10.1.0.77", 6: "fd00:1::77"}[family]
    with (
        far.counts(inbound=0, asked_again=1),
        far.vm.listen(vm) as listener,
        speak(net, family, protocol=0) as peer,
    ):
        peer.sendall(ask(client, vm, listener.getsockname()[1]))
        assert is_selected(peer)
        assert receive(peer) == encode_reply(Reply.ASK_AGAIN)
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize(
    ("client", "destination", "counter"),
    [
        pytest.param("10.2.0.77", "10.2.0.11", "foreign_client", id="this site's VM"),
        pytest.param("10.3.0.77", "10.2.0.11", "foreign_client", id="nobody's VM"),
        pytest.param("10.1.0.2", "10.2.0.11", "peer_no_vm", id="the peer's proxy address"),
        pytest.param("10.1.0.0", "10.2.0.11", "peer_no_vm", id="the peer's network address"),
        pytest.param("10.1.0.255", "10.2.0.11", "peer_no_vm", id="the peer's broadcast address"),
        pytest.param("fd00:1::", "fd00:2::11", "peer_no_vm", id="the peer's anycast address"),
        pytest.param("224.0.0.1", "10.2.0.11", "peer_no_vm", id="multicast"),
        pytest.param("192.0.2.1", "10.2.0.11", "foreign_client", id="the peer's uplink"),
        pytest.param("192.0.2.2", "10.2.0.11", "foreign_client", id="this site's uplink"),
        pytest.param("127.0.0.1", "10.2.0.11", "peer_no_vm", id="loopback"),
        pytest.param("::ffff:10.1.0.77", "fd00:2::11", "peer_no_vm", id="mapped"),
        pytest.param("10.1.0.77", "10.1.0.11", "foreign_destination", id="back to the peer"),
        pytest.param("10.1.0.77", "10.2.0.2", "peer_no_vm", id="its proxy address"),
        pytest.param("10.1.0.77", "10.2.0.0", "peer_no_vm", id="its network address"),
        pytest.param("10.1.0.77", "10.2.0.255", "peer_no_vm", id="its broadcast address"),
        pytest.param("fd00:1::77", "fd00:2::", "peer_no_vm", id="its anycast address"),
        pytest.param("10.1.0.77", "255.255.255.255", "peer_no_vm", id="limited broadcast"),
        pytest.param("fd00:1::77", "ff02::1", "peer_no_vm", id="multicast, v6"),
        pytest.param("10.1.0.77", "192.0.2.2", "foreign_destination", id="its uplink"),
        pytest.param("10.1.0.77", "127.0.0.1", "peer_no_vm", id="its loopback"),
        pytest.param("10.1.0.77", "198.51.100.1", "foreign_destination", id="the world"),
        pytest.param("fd00:1::77", "fd00:2::2", "peer_no_vm", id="its proxy address, v6"),
        pytest.param("fd00:1::77", "::1", "peer_no_vm", id="its loopback, v6"),
        pytest.param("fd00:1::77", "::ffff:10.2.0.11", "peer_no_vm", id="mapped target"),
        pytest.param("fd00:1::77", "::ffff:127.0.0.1", "peer_no_vm", id="mapped loopback"),
    ],
)
def test_a_peer_that_oversteps_is_refused_and_counted(
    net: Net, client: str, destination: str, counter: str
) -> None:
    _, far = net
    with far.counts(inbound=0, **{f"ended_{counter}": 1}), speak(net) as peer:
        data = b"data that nobody will read"
        peer.sendall(ask(client, destination) + record(Kind.DATA, len(data)) + data)
        assert is_selected(peer)
        assert receive_exactly(peer, 10) == encode_reply(Reply.NOT_ALLOWED)
        peer.shutdown(socket.SHUT_WR)
        assert receive(peer) == b""


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"", id="HTTP"),
        pytest.param(b"\x04\x01\x00\x50\x0a\x02\x00\x0b\x00", b"", id="SOCKS4"),
        pytest.param(b"\x05\x01\x00", NO_METHOD, id="plain SOCKS5"),
    ],
)
def test_what_is_no_greeting_is_answered_and_counted(net: Net, said: bytes, answer: bytes) -> None:
    received = b""
    with net[1].counts(inbound=0, ended_garbled=1), speak(net) as peer:
        peer.sendall(said)
        try:
            peer.shutdown(socket.SHUT_WR)
            received = receive(peer)
        except OSError as error:
            if error.errno not in {errno.ECONNRESET, errno.ENOTCONN}:
                raise
        assert received == answer


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        pytest.param(GREETING + b"\x02" + bytes(30), Reply.FAILURE, id="earlier metadata"),
        pytest.param(GREETING + b"\x04" + bytes(30), Reply.FAILURE, id="later metadata"),
        pytest.param(
            ask("10.1.0.77", "10.2.0.11")[:20] + b"\x05\x02\x00" + bytes(30),
            Reply.COMMAND_NOT_SUPPORTED,
            id="BIND",
        ),
        pytest.param(
            ask("10.1.0.77", "10.2.0.11")[:23] + b"\x03\x01x\x00\x50",
            Reply.ADDRESS_TYPE_NOT_SUPPORTED,
            id="name",
        ),
        pytest.param(
            ask("10.1.0.77", "fd00:2::11"),
            Reply.ADDRESS_TYPE_NOT_SUPPORTED,
            id="mixed families",
        ),
        pytest.param(ask("10.1.0.77", "10.2.0.11", 0), Reply.FAILURE, id="port 0"),
    ],
)
def test_what_is_no_request_is_answered_and_counted(net: Net, said: bytes, answer: Reply) -> None:
    with net[1].counts(inbound=0, ended_protocol=1), speak(net) as peer:
        peer.sendall(said)
        peer.shutdown(socket.SHUT_WR)
        assert is_selected(peer)
        assert receive(peer) == encode_reply(answer)


def test_a_refused_request_may_be_followed_by_another(net: Net, family: int) -> None:
    """On the same connection, if nothing of a VM was behind it."""
    _, far = net
    vm = far.addresses[family]
    client = {4: "10.1.0.77", 6: "fd00:1::77"}[family]
    with far.vm.listen(vm) as listener, speak(net, family) as peer:
        port = listener.getsockname()[1]
        with far.vm.listen(vm) as closed:
            closed_port = closed.getsockname()[1]
        peer.sendall(ask(client, vm, closed_port))
        assert is_selected(peer)
        assert receive_exactly(peer, 10) == encode_reply(Reply.REFUSED)
        peer.sendall(ask(client, vm, port).removeprefix(GREETING))
        assert receive_exactly(peer, 10) == encode_reply(Reply.SUCCEEDED)
        listener.accept()[0].close()


def test_who_is_no_peer_is_refused_before_it_says_anything(net: Net) -> None:
    _, far = net
    with far.counts(inbound=0, ended_not_a_peer=2):
        for _ in range(2):
            with pytest.raises(ConnectionResetError), speak(net, source=STRANGER) as stranger:
                stranger.recv(1)
    wait_until(lambda: f"not a peer's uplink: inbound, by proxy, from {STRANGER}" in far.log)


def test_the_listening_port_of_the_socksifier_is_none_for_others(net: Net) -> None:
    """A connection that no TPROXY rule made has no destination in a peer's prefix."""
    _, far = net
    with (
        far.counts(outbound=0, outbound_failed=0, outbound_open=0),
        pytest.raises(ConnectionResetError),
        far.proxy.connect("::1", 1081) as direct,
    ):
        direct.recv(1)


def trickle(sock: socket.socket, data: bytes) -> None:
    """Send an octet for each time-out of the socket, unless there is an answer."""
    for octet in data:
        sock.send(bytes([octet]))
        with suppress(TimeoutError):
            sock.recv(1)


def test_silent_and_slow_peers_are_timed_out(net: Net) -> None:
    _, far = net
    with (
        far.counts(inbound=0, ended_silent_caller=2),
        speak(net) as silent,
        speak(net) as slow,
    ):
        slow.settimeout((PROOF_SECONDS + LIMIT_S) / 257)
        with pytest.raises(ConnectionError):
            trickle(slow, b"\x05\xff" + bytes(255))  # 255 methods, one after the other
        silent.settimeout(PROOF_SECONDS + LIMIT_S)
        with pytest.raises(ConnectionResetError):
            silent.recv(1)


def test_each_reason_is_logged_once_a_minute(net: Net) -> None:
    """Whichever worker met it: the refusals above were many, of few kinds."""
    found = re.findall(
        r"^(\S+ \S+) .*?: ([\w' ]+): .*--ended'\)(?: \(\d+ times[\w ]*\))?$",
        net[1].log,
        re.MULTILINE,
    )
    said = defaultdict(list)
    for when, reason in found:
        said[reason].append(datetime.strptime(when, "%Y-%m-%d %H:%M:%S,%f"))
    assert {
        Reason.NOT_A_PEER,
        Reason.FOREIGN_CLIENT,
        Reason.PROTOCOL,
        Reason.GARBLED,
    } <= said.keys()
    for times in said.values():
        assert all((b - a).total_seconds() > 59 for a, b in pairwise(times)), said


def test_nothing_is_left(net: Net) -> None:
    _, far = net
    wait_until(lambda: far.statistics()["inbound_open"] == 0)
    assert "Traceback" not in far.log
    assert "ERROR" not in far.log
