"""Between two proxies nobody reads along, and nobody speaks who is not the peer."""

from __future__ import annotations

import signal
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import cache
from ipaddress import ip_address
from pathlib import Path

import pytest

from fedsdn.config.model import Federation, Identity
from fedsdn.identity import new, store
from fedsdn.identity.new import NewIdentity
from fedsdn.proxy.relay.records import Kind, record
from fedsdn.proxy.socks.protocol import GREETING, SELECTION, Reply, Request, encode_reply
from fedsdn.socket_address import SocketAddress
from tests.real.proxy_connections import (
    Net,
    carried,
    connection,
    is_reset,
    noise,
    wait_until_none_is_open,
)
from tests.real.proxy_net import LIMIT_S, SiteOfNet, proxy_net
from tests.real.site_host import wait_until
from tests.unit.federations import own_identity, two_sites, unencrypted

pytestmark = pytest.mark.real

ADDRESSES = {"a": "192.0.2.1", "b": "192.0.2.2"}
MARK = b"nobody-reads-it-"
KNOWN = MARK * (1 << 12)
_ETH_P_ALL = 3


@cache
def identity(what: str) -> NewIdentity:
    """One that site a will have, one whose time is over, one that nobody knows."""
    with pytest.MonkeyPatch.context() as patched:
        if what == "expired":
            patched.setattr(new, "_EARLIER", timedelta(days=20))
            patched.setattr(new, "LIFE", timedelta(days=-10))
        return new.make({"fresh": "a", "foreign": "a", "expired": "b"}[what])


def with_identities(federation: Federation, name: str, *found: Identity) -> Federation:
    sites = tuple(
        replace(site, identities=found) if site.name == name else site for site in federation.sites
    )
    return replace(federation, sites=sites)


def the_federation() -> Federation:
    """Site a's first identity is not on its host yet; one of b's has expired."""
    own = own_identity("a").identity, own_identity("b").identity
    federation = with_identities(two_sites(), "a", identity("fresh").identity, own[0])
    return with_identities(federation, "b", own[1], identity("expired").identity)


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with proxy_net(the_federation()) as sites:
        for site in sites:
            site.start_proxy()
        yield sites


@contextmanager
def listening_in(site: SiteOfNet) -> Iterator[list[bytes]]:
    """Note all packets on a site's uplinks; those of the block are there behind it."""
    with ExitStack() as stack:
        ears = []
        for uplink in site.site.uplinks:
            ear = site.proxy.call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
            stack.enter_context(ear)
            ear.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)  # SO_RCVBUFFORCE
            ear.bind((f"wan-{uplink.name}", _ETH_P_ALL))  # and no other wire is heard before
            ears.append(ear)
        heard: list[bytes] = []
        yield heard
        for ear in ears:
            ear.setblocking(False)
            try:
                while True:
                    heard.append(ear.recv(1 << 17))
            except BlockingIOError:
                continue


def known_is_heard(net: Net, family: int) -> bool:
    """Send something known both ways; return whether it is seen on the wires."""
    near, far = net
    with (
        listening_in(near) as heard,
        connection(near, far, family) as (client, server),
        ThreadPoolExecutor(1) as thread,
    ):
        sent = thread.submit(client.sendall, KNOWN)
        assert _exactly(server, len(KNOWN)) == KNOWN
        sent.result()
        assert carried(KNOWN, server, client) == KNOWN
    assert sum(map(len, heard)) > 2 * len(KNOWN)
    return any(MARK in packet for packet in heard)


def _exactly(sock: socket.socket, count: int) -> bytes:
    received = bytearray()
    while len(received) < count and (data := sock.recv(count - len(received))):
        received += data
    return bytes(received)


def test_nobody_reads_along(net: Net, family: int) -> None:
    assert not known_is_heard(net, family)


# Callers


@contextmanager
def caller(
    net: Net, name: str, context: ssl.SSLContext | None, session: ssl.SSLSession | None = None
) -> Iterator[socket.socket]:
    """A connection from an uplink's address of a site to the other's server."""
    here, there = net if name == "a" else net[::-1]
    target, source = ADDRESSES[there.site.name], (ADDRESSES[name], 0)
    with closing(here.proxy.connect(target, 1080, source, socket.IPPROTO_MPTCP)) as plain:
        if context is None:
            yield plain
        else:
            with context.wrap_socket(plain, session=session) as sock:
                yield sock


def context_of(directory: Path, own: NewIdentity | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if own is not None:
        file = directory / "own.pem"
        file.write_bytes(own.public + own.tls_key)
        context.load_cert_chain(file)
    return context


@pytest.mark.parametrize("shown", ["none", "foreign", "expired", "its own"])
def test_who_shows_another_certificate_is_told_nothing(
    net: Net, tmp_path: Path, shown: str
) -> None:
    """Another one, or none, from the peer's own address: what it says behind that is not read."""
    name = "b" if shown == "expired" else "a"
    own = {"none": None, "its own": own_identity("b")}
    context = context_of(tmp_path, own[shown] if shown in own else identity(shown))
    called, peer = net[name == "a"], net[name != "a"]
    with called.counts(ended_callers_certificate=1, inbound=0), caller(net, name, context) as sock:
        assert answer(sock, GREETING) == b""
    # Those of the peer's proxy are kept, and nobody else's.
    wait_until(lambda: called.statistics()["idle_open"] == peer.statistics()["pool_open"])
    wait_until(lambda: "caller's certificate refused" in called.log)


def test_who_speaks_plainly_is_told_nothing(net: Net) -> None:
    with net[1].counts(ended_garbled=1), caller(net, "a", None) as sock:
        said = answer(sock, GREETING + _request(net[0].addresses[4], net[1].addresses[4], 80))
        assert SELECTION not in said


def answer(sock: socket.socket, said: bytes) -> bytes:
    """Say something; return what comes up to the end, which may be a reset or an alert."""
    received = bytearray()
    with suppress(OSError):
        sock.sendall(said)
        while data := sock.recv(100):
            received += data
    return bytes(received)


@pytest.mark.parametrize("client", ["10.2.0.11", "10.77.0.11"])
def test_a_proven_peer_speaks_for_its_own_clients_only(
    net: Net, tmp_path: Path, client: str
) -> None:
    context = context_of(tmp_path, own_identity("a"))
    asked = _request(client, net[1].addresses[4], 80)
    with net[1].counts(ended_foreign_client=1), caller(net, "a", context) as sock:
        sock.sendall(GREETING + asked)
        assert _exactly(sock, 12) == SELECTION + encode_reply(Reply.NOT_ALLOWED)


def _request(client: str, destination: str, port: int) -> bytes:
    asking, asked = ip_address(client), ip_address(destination)
    return Request(SocketAddress(asking, 40000), SocketAddress(asked, port), number=1).encode()


def test_a_session_is_resumed_by_any_worker(net: Net, tmp_path: Path) -> None:
    context = context_of(tmp_path, own_identity("a"))

    def session_of(session: ssl.SSLSession | None) -> ssl.SSLSession | None:
        """Connect; return the session, of which the server may have given a ticket."""
        with caller(net, "a", context, session) as sock:
            assert isinstance(sock, ssl.SSLSocket)
            sock.sendall(GREETING)
            assert _exactly(sock, 2) == SELECTION
            assert sock.session_reused is (session is not None)
            return sock.session

    def has_ticket() -> bool:
        found.append(session_of(None))
        return found[-1] is not None and found[-1].has_ticket

    found: list[ssl.SSLSession | None] = []
    wait_until(has_ticket)
    for _ in range(12):
        session_of(found[-1])


@pytest.mark.parametrize("behind", [b"", record(Kind.DATA, 5) + b"hal", b"\xff\xff\xff\xff"])
def test_a_stream_that_is_cut_off_is_a_reset(net: Net, tmp_path: Path, behind: bytes) -> None:
    """Only a record ends a VM's stream."""
    context = context_of(tmp_path, own_identity("a"))
    vm = net[1].addresses[4]
    with net[1].vm.listen(vm) as listener, caller(net, "a", context) as sock:
        sock.sendall(GREETING + _request(net[0].addresses[4], vm, listener.getsockname()[1]))
        server, _ = listener.accept()
        with server:
            server.settimeout(LIMIT_S)
            assert _exactly(sock, 12) == SELECTION + encode_reply(Reply.SUCCEEDED)
            sock.sendall(record(Kind.DATA, 4) + b"half" + behind)
            assert _exactly(server, 4) == b"half"
            sock.close()
            assert is_reset(server)
    wait_until_none_is_open(net)


# Changes


def test_keys_that_come_are_used_and_nothing_breaks(net: Net) -> None:
    """The host gets what the file lists first, and then what it had is not listed any more."""
    near, far = net
    with connection(near, far, 4) as (client, server):
        store.save(near.run_directory / "fedsdn/identity", identity("fresh"))
        only = with_identities(the_federation(), "a", identity("fresh").identity)
        far.write(only)
        far.signal_proxy(signal.SIGHUP)
        wait_until(lambda: far.log.count("reloaded: ") == 1)
        wait_until(lambda: _connects(near, far))
        for _ in range(20):
            with connection(near, far, 4) as pair:
                assert carried(KNOWN, *pair) == KNOWN
        assert carried(noise(1), client, server) == noise(1)
    far.write(the_federation())
    far.signal_proxy(signal.SIGHUP)
    wait_until(lambda: far.log.count("reloaded: ") == 2)


def _connects(near: SiteOfNet, far: SiteOfNet) -> bool:
    try:
        with connection(near, far, 4):
            return True
    except OSError:
        return False


def test_without_encryption_what_is_carried_goes_on_and_is_seen(net: Net) -> None:
    """Operators say so. What is encrypted lives on then; what is not is reset when it has to be."""
    near, far = net
    with connection(near, far, 4) as (client, server):
        _write(net, unencrypted(the_federation()))
        assert known_is_heard(net, 4)
        client.sendall(b"on")
        assert _exactly(server, 2) == b"on"
    with connection(near, far, 4) as plain:
        _write(net, the_federation())
        assert [is_reset(end) for end in plain] == [True, True]
    assert not known_is_heard(net, 4)


def _write(net: Net, federation: Federation) -> None:
    for site in net:
        before = site.log.count("reloaded: ")
        site.write(federation)
        site.signal_proxy(signal.SIGHUP)
        wait_until(lambda: site.log.count("reloaded: ") > before)  # noqa: B023  (it is called here)
    wait_until(lambda: _connects(*net))
