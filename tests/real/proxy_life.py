"""Two sites whose proxies tests stop, kill and tell to read their file again."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from ipaddress import ip_address, ip_network

from fedsdn.config.model import Federation, Prefix
from tests.real.proxy_net import LIMIT_S, SiteOfNet
from tests.unit.federations import two_sites

BYTES = 1 << 20
Pair = tuple[socket.socket, socket.socket]
Sites = tuple[SiteOfNet, SiteOfNet]


class Net:
    """Both sites, and connections between their VMs that end with the test."""

    def __init__(self, near: SiteOfNet, far: SiteOfNet, stack: ExitStack) -> None:
        self.near = near
        self.far = far
        self._stack = stack

    def connection(self, family: int = 4) -> Pair:
        """Open one from a to b; it carries a byte each way."""
        address = self.far.addresses[family]
        listener = self._stack.enter_context(self.far.vm.listen(address))
        client = self._stack.enter_context(self.near.vm.connect(address, listener.getsockname()[1]))
        client.sendall(b"?")
        server = self._stack.enter_context(listener.accept()[0])
        server.settimeout(LIMIT_S)
        assert server.recv(1) == b"?"
        server.sendall(b"!")
        assert client.recv(1) == b"!"
        return client, server


@contextmanager
def running(sites: Sites) -> Iterator[Net]:
    """Have proxies run at both sites; whatever a test did to them is undone."""
    for site in sites:
        runs = site.process is not None and site.process.poll() is None
        if site.write(two_sites()) and runs:  # a test failed: the next ones do not fail with it
            site.stop_proxy()
            runs = False
        if not runs:
            site.start_proxy()
    with ExitStack() as stack:
        yield Net(*sites, stack)


@contextmanager
def beginning(net: Net, address: str, port: int) -> Iterator[socket.socket]:
    """A VM's socket that connects, and is closed after the block whatever it has come to."""
    with net.near.vm.open(address) as client:
        client.setblocking(False)
        client.connect_ex((address, port))
        yield client


def exchange(one: socket.socket, other: socket.socket) -> None:
    """Move data and the end of the stream both ways; that ends the connection."""
    move(one, other)
    move(other, one)


def move(one: socket.socket, other: socket.socket) -> None:
    one.setblocking(False)
    sent, received = 0, 0
    while received < BYTES:
        with suppress(BlockingIOError):
            if sent < BYTES:
                sent += one.send(bytes(min(BYTES - sent, 1 << 16)))
                if sent == BYTES:
                    one.shutdown(socket.SHUT_WR)
                continue
        received += len(other.recv(1 << 16))
    assert other.recv(1) == b""
    assert received == BYTES
    one.settimeout(LIMIT_S)


def ask_in_vain(net: Net, address: str) -> None:
    """Connect to a closed port, or from an address that may not."""
    with net.near.vm.open(address) as client:
        assert client.connect_ex((address, 9)) in {errno.ECONNREFUSED, errno.EACCES}


def listens_with_all_workers(site: SiteOfNet, port: int) -> bool:
    listeners = site.inside(f"ss -Hltn sport = :{port}").count("\n")
    counted = site.statistics()
    return bool(listeners == counted["running"] == counted["workers"])


def open_connections(net: Net) -> tuple[int, int]:
    return net.near.statistics()["outbound_open"], net.far.statistics()["inbound_open"]


def without_the_vm(federation: Federation) -> Federation:
    """The same sites, but the VM's IPv6 address is outside the first one's prefixes."""
    a, b = federation.sites
    small = Prefix(ip_network("fd00:1:0:0:8000::/65"), ip_address("fd00:1:0:0:8000::2"))
    return replace(federation, sites=(replace(a, prefixes=(a.prefixes[0], small)), b))
