"""What VMs ask whose SYNs the proxy holds, for tests."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fedsdn.lab.wait import wait_until
from tests.real.proxy_connections import Net, connect_error, proxies
from tests.real.proxy_net import LIMIT_S, SiteOfNet

OTHER = {4: "10.1.0.12", 6: "fd00:1::12"}
"""Another VM of site a."""

SYN, RST = 0x02, 0x04


@contextmanager
def with_another_vm() -> Iterator[Net]:
    """Two sites with running proxies, and another VM at the near one."""
    with proxies() as (near, far):
        for address, length in zip(OTHER.values(), (32, 128), strict=True):
            for port in ("socksifier", "server"):
                near.output(f"ip -n vm address add {address}/{length} dev {port}")
        yield near, far


@contextmanager
def filtered(site: SiteOfNet, rule: str) -> Iterator[None]:
    """Have the site's VM do something with what comes to it during the block."""
    chain = "{ type filter hook input priority 0; }"
    site.output(
        f"ip netns exec vm nft 'table inet f {{ chain i {chain}; }}; add rule inet f i {rule}'"
    )
    try:
        yield
    finally:
        site.output("ip netns exec vm nft delete table inet f")


def port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


def outcome(near: SiteOfNet, address: str, port: int, tries: int = 1) -> tuple[int, float]:
    """What connect() says, after how many seconds; the VM sends ``tries`` more SYNs."""
    with near.vm.open(address) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, tries)
        begin = time.monotonic()
        said = connect_error(client, address, port)
        return said, time.monotonic() - begin


def outcome_of_one(near: SiteOfNet, address: str, port: int) -> tuple[int, int]:
    """What connect() says, and how many SYNs more the VM has sent until then."""
    with near.vm.open(address) as client:
        said = connect_error(client, address, port)
        return said, syns_repeated(client)


def syns_repeated(client: socket.socket) -> int:
    """How often the VM has sent its SYN again."""
    # tcpi_retransmits (include/uapi/linux/tcp.h) is the third octet.
    return client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[2]


@contextmanager
def connecting(near: SiteOfNet, address: str, port: int) -> Iterator[socket.socket]:
    """A client whose SYN is held by the time that the block begins."""
    before = near.statistics()["outbound_held"]
    with near.vm.open(address) as client:
        client.setblocking(False)
        client.connect_ex((address, port))
        client.settimeout(LIMIT_S)
        wait_until(
            lambda: near.statistics()["outbound_held"] == before + 1,
            LIMIT_S,
            lambda: "no SYN is held",
        )
        yield client


def served(listener: socket.socket, client: socket.socket) -> None:
    """Have one byte go each way, and both ends of the stream."""
    client.sendall(b"?")
    server, _ = listener.accept()
    with server:
        server.settimeout(LIMIT_S)
        assert server.recv(1) == b"?"
        server.sendall(b"!")
    assert client.recv(2) == b"!"
    assert client.recv(1) == b""


def nothing_is_held(site: SiteOfNet) -> bool:
    return site.statistics()["outbound_held"] == 0  # type: ignore[no-any-return]
