"""The rules of the federation file on two real proxies, between VMs' sockets.

Each end holds them by itself: the near one tells its VM at once, the far one trusts no near one.
"""

from __future__ import annotations

import errno
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from ipaddress import ip_network

import pytest

from fedsdn.config.model import Federation
from fedsdn.config.rules import Rule
from fedsdn.proxy.ended.record import Reason, Who
from fedsdn.proxy.process.stats_socket import read_refused
from tests.real.proxy_connections import connect_error, is_reset
from tests.real.proxy_life import Net as LivingNet
from tests.real.proxy_life import Pair, beginning
from tests.real.proxy_net import LIMIT_S, SiteOfNet, proxy_net
from tests.real.site_host import wait_until
from tests.unit.federations import two_sites

pytestmark = pytest.mark.real

PROHIBITED = {4: errno.EHOSTUNREACH, 6: errno.EACCES}
KEPT, NOT_NEAR, NOT_FAR, SILENT, NEVER_FAR, FORBIDDEN = range(8001, 8007)
"""Ports at b: the rules begin with all but the last, and the changed files lack some."""

Net = tuple[SiteOfNet, SiteOfNet]


def ruled(*ports: int) -> Federation:
    """VMs of a may reach these ports at b, and VMs of b one address at a."""
    to_b = Rule(("a",), ("b",), "tcp", tuple(range(port, port + 1) for port in ports))
    to_a = Rule(("b",), (ip_network("10.1.0.11"),), place=1)
    return replace(two_sites(), allow=(to_b, to_a))


RULED = ruled(KEPT, NOT_NEAR, NOT_FAR, SILENT, NEVER_FAR)


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    """Two sites with proxies that hold the rules; the last tests change them."""
    with proxy_net(RULED) as sites:
        for site in sites:
            site.start_proxy()
        yield sites


def take_up(site: SiteOfNet, federation: Federation) -> None:
    """Have a site's proxy take up another file, by all of its workers."""
    reloads = site.statistics()["reloads"]
    site.write(federation)
    site.signal_proxy(signal.SIGHUP)
    wait_until(lambda: site.statistics()["reloads"] > reloads)


def outcome(near: SiteOfNet, address: str, port: int) -> int:
    """Connect; return the error's number."""
    with near.vm.open(address) as client:
        return connect_error(client, address, port)


@contextmanager
def connection(near: SiteOfNet, far: SiteOfNet, family: int, port: int) -> Iterator[Pair]:
    """Both ends of an open connection to this port."""
    address = far.addresses[family]
    with far.vm.listen(address, port) as listener, near.vm.connect(address, port) as client:
        server, _ = listener.accept()
        with server:
            server.settimeout(LIMIT_S)
            exchange(client, server)
            yield client, server


def exchange(one: socket.socket, other: socket.socket) -> None:
    """Send a byte each way; the connection stays open."""
    for sender, receiver in ((one, other), (other, one)):
        sender.sendall(b"?")
        assert receiver.recv(1) == b"?"


def refused(site: SiteOfNet, peer: str, reason: Reason) -> int:
    found = read_refused(site.run_directory / "fedsdn/proxy.sock")
    return sum(one.count for one in found if (one.peer, one.reason) == (peer, reason))


def test_what_a_rule_allows_is_carried(net: Net, family: int) -> None:
    near, far = net
    with near.counts(outbound=1), far.counts(inbound=1), connection(near, far, family, KEPT):
        pass


def test_what_no_rule_allows_is_refused_at_its_own_site(net: Net, family: int) -> None:
    near, far = net
    counted = refused(near, "b", Reason.NO_RULE)
    with far.counts(inbound=0, ended_peer_no_rule=0), near.counts(outbound=0):
        assert outcome(near, far.addresses[family], FORBIDDEN) == PROHIBITED[family]
        wait_until(lambda: refused(near, "b", Reason.NO_RULE) == counted + 1)
    last = near.ended()[0]
    assert (last.reason, last.peer) == (Reason.NO_RULE, "b")
    assert last.detail.startswith("the nearest is allow[0], from a to b, tcp ports 8001, 8002")


def test_the_other_way_is_another_rule(net: Net) -> None:
    near, far = net
    with connection(far, near, 4, FORBIDDEN), near.counts(inbound=0):
        assert outcome(far, near.addresses[6], FORBIDDEN) == PROHIBITED[6]


@contextmanager
def silent(site: SiteOfNet, port: int) -> Iterator[None]:
    """Have SYNs to a port of a site's VM be lost on their way."""
    site.inside("nft 'table inet silence { chain out { type filter hook output priority 0; }; }'")
    try:
        site.inside(f"nft add rule inet silence out tcp dport {port} drop")
        yield
    finally:
        site.inside("nft delete table inet silence")


def test_a_change_ends_what_no_rule_allows_at_both_ends_and_nothing_else(net: Net) -> None:
    """Each site's file changes once; then they differ, and neither end believes the other."""
    near, far = net
    with silent(far, SILENT), ExitStack() as stack:
        opened = {
            port: [stack.enter_context(connection(near, far, family, port)) for family in (4, 6)]
            for port in (KEPT, NOT_NEAR, NOT_FAR)
        }
        opened[KEPT].append(stack.enter_context(connection(far, near, 4, KEPT)))
        waiting = stack.enter_context(
            beginning(LivingNet(near, far, stack), far.addresses[4], SILENT)
        )
        wait_until(lambda: far.statistics()["inbound_open"] == 7)
        take_up(near, ruled(KEPT, NOT_FAR, NEVER_FAR))
        all_are_reset(opened.pop(NOT_NEAR))
        # It repeats its SYN, and is told.
        wait_until(lambda: waiting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == PROHIBITED[4])
        all_go_on(opened)
        take_up(far, ruled(KEPT, NOT_NEAR))
        all_are_reset(opened.pop(NOT_FAR))
        all_go_on(opened)
        for site, count in ((near, 3), (far, 2)):
            found = [one.detail for one in site.ended() if one.reason is Reason.REVOKED]
            assert len(found) == count
            said = "no rule allows it any more: until now allow[0] did, from a to b, tcp ports "
            assert all(detail.startswith(said) for detail in found)
    the_far_end_refuses(net)


def all_are_reset(pairs: list[Pair]) -> None:
    assert [is_reset(end) for pair in pairs for end in pair] == [True] * 2 * len(pairs)


def all_go_on(opened: dict[int, list[Pair]]) -> None:
    for pairs in opened.values():
        for pair in pairs:
            exchange(*pair)


def the_far_end_refuses(net: Net) -> None:
    """Site a's file allows what b's does not, as if a lied: a's VM is told all the same."""
    near, far = net
    for family in (4, 6):
        counted = refused(far, "a", Reason.PEER_NO_RULE)
        with far.vm.listen(far.addresses[family], NEVER_FAR) as listener, far.counts(inbound=0):
            assert outcome(near, far.addresses[family], NEVER_FAR) == PROHIBITED[family]
            listener.settimeout(0)
            with pytest.raises(BlockingIOError):
                listener.accept()
        wait_until(lambda: refused(far, "a", Reason.PEER_NO_RULE) == counted + 1)  # noqa: B023 -- called at once
        with connection(near, far, family, KEPT):
            pass
    last = far.ended()[0]
    assert (last.reason, last.peer, last.who) == (Reason.PEER_NO_RULE, "a", Who.HERE)


def test_nothing_went_wrong(net: Net) -> None:
    for site in net:
        assert "Traceback" not in site.log
        assert "ERROR" not in site.log
