"""Connections between proxies that are ready before a VM needs them, and the order of requests."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace

import pytest

from fedsdn.config.model import Site
from tests.real.proxy_connections import (
    Net,
    connection,
    proxies,
    wait_until_none_is_open,
)
from tests.real.proxy_net import SiteOfNet
from tests.real.site_host import wait_until
from tests.unit.federations import own_identity

pytestmark = pytest.mark.real

PAIRS = 200
SYN_REPEATED_SECONDS = 0.9


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with proxies() as net:
        yield net


def ready(site: SiteOfNet) -> int:
    return int(site.statistics()["pool_open"])


def from_pool(site: SiteOfNet) -> int:
    return int(site.statistics()["from_pool"])


def speak(net: Net, family: int) -> None:
    """Open a connection, say something both ways, and end it."""
    with connection(*net, family) as (client, server):
        client.sendall(b"?")
        assert server.recv(1) == b"?"
        server.sendall(b"!")
        assert client.recv(1) == b"!"


def warm(net: Net) -> None:
    """Have ready connections at every worker of the near site."""
    near, far = net

    def is_warm() -> bool:
        with suppress(OSError):  # a federation file may still be taken up
            speak(net, 4)
        return ready(near) >= 2

    wait_until(is_warm)
    wait_until(lambda: far.statistics()["idle_open"] == ready(near))


def test_a_request_takes_a_ready_connection_and_another_one_is_made(net: Net, family: int) -> None:
    """If the worker that has the SYN has one: which worker that is depends on the port."""
    near, _ = net
    warm(net)

    def takes_one() -> bool:
        kept, before = ready(near), from_pool(near)
        with connection(*net, family):
            if from_pool(near) == before:
                return False
            wait_until(lambda: ready(near) >= kept)
            return True

    wait_until(takes_one)


def test_a_refusal_leaves_the_connection_ready(net: Net, family: int) -> None:
    near, far = net
    warm(net)
    wait_until_none_is_open(net)
    with far.vm.listen(far.addresses[family]) as closed:
        port = closed.getsockname()[1]
    wait_until(lambda: len(callers(far)) == far.statistics()["idle_open"])
    before = callers(far)
    for _ in range(10):
        with pytest.raises(ConnectionRefusedError):
            near.vm.connect(far.addresses[family], port)
    assert before <= callers(far), "a connection that was ready has been closed"


def callers(far: SiteOfNet) -> set[str]:
    """The other ends of connections between the proxies, as the far kernel has them."""
    listed = far.inside("ss -HMn state established sport = :1080")
    return {line.split()[-1] for line in listed.splitlines()}


def test_pairs_arrive_in_order(net: Net, family: int) -> None:
    """Whichever workers take them: at both sites there are two."""
    near, far = net
    address = far.addresses[family]
    swapped = counted = 0
    with far.vm.listen(address) as listener:
        port = listener.getsockname()[1]
        near.vm.connect(address, port).close()  # known to listen from here on
        listener.accept()[0].close()
        for _ in range(PAIRS):
            began = time.monotonic()
            with (
                near.vm.connect(address, port) as first,
                near.vm.connect(address, port) as second,
            ):
                accepted = []
                for _ in range(2):
                    server, name = listener.accept()
                    server.close()
                    accepted.append(name[1])
                # No request waits for longer than a second for the one before it.
                if time.monotonic() - began < SYN_REPEATED_SECONDS:
                    counted += 1
                    swapped += accepted != [first.getsockname()[1], second.getsockname()[1]]
    assert swapped == 0
    assert counted > PAIRS / 2


def open_at_once(near: SiteOfNet, address: str, port: int) -> list[socket.socket]:
    """Begin two connections, one right after the other."""
    both = [near.vm.open(address) for _ in range(2)]
    for sock in both:
        sock.setblocking(False)
    for sock in both:
        with suppress(BlockingIOError):
            sock.connect((address, port))
    return both


@pytest.mark.parametrize("known", [True, False])
def test_pairs_opened_at_the_same_time_arrive_in_order(net: Net, family: int, known: bool) -> None:
    near, far = net
    address = far.addresses[family]
    swapped = counted = 0
    with ExitStack() as stack:
        listener = stack.enter_context(far.vm.listen(address))
        for _ in range(PAIRS // 2):
            if not known:
                listener = stack.enter_context(far.vm.listen(address))
            began = time.monotonic()
            both = open_at_once(near, address, listener.getsockname()[1])
            opened = [sock.getsockname()[1] for sock in both]
            accepted = [listener.accept() for _ in both]
            # SYNs that nobody takes up for a second are repeated, by timers that know no order.
            if time.monotonic() - began < SYN_REPEATED_SECONDS:
                counted += 1
                swapped += [name[1] for _, name in accepted] != opened
            for sock in (*both, *(server for server, _ in accepted)):
                sock.close()
    assert swapped == 0
    assert counted > PAIRS / 4


def test_the_pool_is_made_anew_after_the_peer_was_restarted(net: Net) -> None:
    near, far = net
    warm(net)
    far.stop_proxy()
    wait_until(lambda: ready(near) == 0)
    far.start_proxy()
    warm(net)


def test_the_pool_survives_a_lost_uplink(net: Net) -> None:
    near, _ = net
    warm(net)
    near.inside("ip link set wan-up1 down")
    try:
        for _ in range(10):
            speak(net, 4)
    finally:
        near.inside("ip link set wan-up1 up")
    warm(net)


def test_ready_connections_keep_no_worker_from_stopping(net: Net) -> None:
    for site in net:
        warm(net)
        wait_until_none_is_open(net)
        assert site.stop_proxy() == 0
        assert "did not end in time" not in site.log
        site.start_proxy()


def renamed_to_c(site: Site) -> Site:
    return replace(site, name="c", identities=(own_identity("c").identity,))


def test_a_peer_that_is_taken_from_the_file_loses_its_ready_connections(net: Net) -> None:
    near, far = net
    warm(net)
    renamed = replace(far.federation, sites=(renamed_to_c(near.site), far.site))
    far.write(renamed)
    far.signal_proxy(signal.SIGHUP)
    wait_until(lambda: far.statistics()["idle_open"] == 0)
    far.write(far.federation)
    far.signal_proxy(signal.SIGHUP)
    warm(net)
    near.write(replace(near.federation, sites=(near.site, renamed_to_c(far.site))))
    near.signal_proxy(signal.SIGHUP)
    wait_until(lambda: near.statistics()["reloads"] == 1 and ready(near) == 0)
    near.write(near.federation)
    near.signal_proxy(signal.SIGHUP)
    warm(net)


def test_a_request_on_a_connection_whose_peer_has_vanished_is_made_on_another(net: Net) -> None:
    """The peer's sockets are gone, and the near site does not hear of it."""
    near, far = net
    address = far.addresses[4]
    warm(net)
    wait_until_none_is_open(net)
    near.inside("nft add table inet deaf")
    near.inside("nft 'add chain inet deaf c { type filter hook prerouting priority -400 ; }'")
    near.inside("nft 'add rule inet deaf c tcp sport 1080 tcp flags & (rst | fin) != 0 drop'")
    try:
        kept = ready(near)
        far.stop_proxy()
        assert ready(near) == kept > 0
        far.inside("nft add table inet deaf")
        far.inside("nft 'add chain inet deaf c { type filter hook output priority 0 ; }'")
        far.inside("nft 'add rule inet deaf c tcp sport 1080 tcp flags & rst != 0 drop'")
        far.start_proxy()
        with far.vm.listen(address) as listener:
            port = listener.getsockname()[1]
            with near.vm.connect(address, port) as client:  # not known to listen: nothing early
                server, name = listener.accept()
                with server:
                    assert name == client.getsockname()
                    server.sendall(b"!")
                    assert client.recv(1) == b"!"
                listener.settimeout(0.5)
                with pytest.raises(TimeoutError):  # and once only
                    listener.accept()
    finally:
        near.inside("nft delete table inet deaf")
        far.inside("nft delete table inet deaf")


def test_no_fault_is_logged(net: Net) -> None:
    for site in net:
        assert "Traceback" not in site.log
        assert "ERROR" not in site.log
