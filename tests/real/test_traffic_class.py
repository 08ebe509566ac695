"""The traffic class of a VM's connection, on every wire that it takes."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

import pytest

from fedsdn.lab.namespaces import Namespace
from fedsdn.pipeline.declarations import wan_port
from tests.real.proxy_connections import Net, proxies, wait_until_none_is_open
from tests.real.proxy_net import LIMIT_S, SiteOfNet

pytestmark = pytest.mark.real

EXPEDITED = 0xB8
"""DSCP 46 (RFC 3246)."""

BYTES = 1 << 24
ROUNDS = 20
_ALL = 0x0003
"""``ETH_P_ALL`` (linux/if_ether.h)."""

_ECN = 0x03
"""The bits that the kernels set (RFC 3168)."""

_IPV4, _IPV6 = 0x0800, 0x86DD
Class = tuple[int, int]
"""IP version and traffic class."""


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with proxies() as sites:
        yield sites


def read(packet: bytes, protocol: int) -> tuple[int, int] | None:
    """Return family and traffic class of a TCP segment that carries more than requests do."""
    if protocol == _IPV4 and packet[9] == socket.IPPROTO_TCP:
        family, value, tcp = 4, packet[1], packet[20:]
    elif protocol == _IPV6 and packet[6] == socket.IPPROTO_TCP:
        (first,) = struct.unpack_from("!I", packet)
        family, value, tcp = 6, first >> 20 & 0xFF, packet[40:]
    else:
        return None
    return (family, value & ~_ECN) if len(tcp) > 1000 else None


class Wire:
    """What arrives at an interface."""

    def __init__(self, namespace: Namespace, interface: str) -> None:
        self._tap = namespace.call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0))
        self._tap.bind((interface, _ALL))
        self._tap.setblocking(False)

    def close(self) -> None:
        self._tap.close()

    def classes(self) -> set[Class]:
        """Return the classes of the data that have arrived since the last call."""
        found = set()
        with suppress(BlockingIOError):
            while True:
                packet, (_, protocol, kind, *_) = self._tap.recvfrom(1 << 16)
                if kind != socket.PACKET_OUTGOING and (seen := read(packet, protocol)):
                    found.add(seen)
        return found


class Wires:
    """All wires that the data of connections from a to b, and back, arrive by."""

    def __init__(self, near: SiteOfNet, far: SiteOfNet, stack: ExitStack) -> None:
        at = {
            "near VM": (near.vm, "socksifier"),
            "far VM": (far.vm, "server"),
            **{
                f"{name}, {uplink.name}": (site.proxy, wan_port(uplink))
                for name, site in (("near", near), ("far", far))
                for uplink in site.site.uplinks
            },
        }
        self._wires = {name: Wire(*where) for name, where in at.items()}
        for wire in self._wires.values():
            stack.callback(wire.close)

    def classes(self) -> dict[str, set[Class]]:
        return {name: wire.classes() for name, wire in self._wires.items()}


@contextmanager
def with_class(
    near: SiteOfNet, far: SiteOfNet, family: int, traffic_class: int
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Open a connection whose client has set its traffic class."""
    address = far.addresses[family]
    with far.vm.listen(address) as listener, near.vm.open(address) as client:
        give_class(client, family, traffic_class)
        client.connect((address, listener.getsockname()[1]))
        with listener.accept()[0] as server:
            server.settimeout(LIMIT_S)
            yield client, server


def give_class(sock: socket.socket, family: int, traffic_class: int) -> None:
    if family == 4:
        sock.setsockopt(socket.SOL_IP, socket.IP_TOS, traffic_class)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, traffic_class)


def classes_of_data(wires: Wires, client: socket.socket, server: socket.socket) -> set[Class]:
    """Send data both ways until every wire has had some; return the classes of all of them."""
    found: dict[str, set[Class]] = {}
    for _ in range(ROUNDS):
        for one, other in ((client, server), (server, client)):
            with ThreadPoolExecutor(1) as thread:
                thread.submit(one.sendall, bytes(BYTES))
                left = BYTES
                while left:
                    left -= len(other.recv(min(left, 1 << 16)))
            for name, classes in wires.classes().items():
                found.setdefault(name, set()).update(classes)
        if all(found.values()):
            break
    assert all(found.values()), f"no data on some wires: {found}"
    return set().union(*found.values())


def test_every_leg_has_the_class_of_the_clients_first_segment(net: Net, family: int) -> None:
    for traffic_class in (EXPEDITED, 0):
        # What was sent over two uplinks may still come when it has been received over one.
        wait_until_none_is_open(net)
        with ExitStack() as stack:
            wires = Wires(*net, stack)
            with with_class(*net, family, traffic_class) as ends:
                found = classes_of_data(wires, *ends)
            assert found == {(4, traffic_class), (6, traffic_class)}


def test_a_refused_connection_leaves_its_class_to_nobody(net: Net, family: int) -> None:
    near, far = net
    address = far.addresses[family]
    with ExitStack() as stack:
        for _ in range(10):
            with near.vm.open(address) as client:
                give_class(client, family, EXPEDITED)
                with pytest.raises(ConnectionRefusedError):
                    client.connect((address, 9))
        wires = Wires(*net, stack)
        for _ in range(3):
            with with_class(*net, family, 0) as ends:
                assert classes_of_data(wires, *ends) == {(4, 0), (6, 0)}
