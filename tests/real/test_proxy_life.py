"""The proxy's processes: stopped, killed, told to read its file again, kept from starting."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from fedsdn.config.model import Federation, Prefix
from fedsdn.lab.wait import wait_until as wait_at_most
from fedsdn.pipeline.declarations import SOCKSIFIER_LISTEN_PORTS
from fedsdn.proxy.sockets import transport
from tests.real.proxy_net import LIMIT_S, SiteOfNet, proxy_net
from tests.real.site_host import wait_until
from tests.real.test_direction import syn
from tests.unit.federations import two_sites

pytestmark = pytest.mark.real

BYTES = 1 << 20
RST = 0x04
Pair = tuple[socket.socket, socket.socket]


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


@pytest.fixture(scope="module")
def sites() -> Iterator[tuple[SiteOfNet, SiteOfNet]]:
    with proxy_net(two_sites()) as (near, far):
        yield near, far


@pytest.fixture
def net(sites: tuple[SiteOfNet, SiteOfNet]) -> Iterator[Net]:
    """Return the two sites with running proxies; whatever a test did to them is undone."""
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


def is_reset(sock: socket.socket) -> bool:
    try:
        while sock.recv(1 << 16):
            pass
    except ConnectionResetError:
        return True
    return False


def ask_in_vain(net: Net, address: str) -> None:
    """Connect to a closed port, or from an address that may not."""
    with net.near.vm.open(address) as client:
        assert client.connect_ex((address, 9)) in {errno.ECONNREFUSED, errno.EACCES}


def is_listening(site: SiteOfNet) -> bool:
    return bool(site.inside("ss -Hltn").strip())


def listens_with_all_workers(site: SiteOfNet, port: int) -> bool:
    listeners = site.inside(f"ss -Hltn sport = :{port}").count("\n")
    counted = site.statistics()
    return bool(listeners == counted["running"] == counted["workers"])


def takes_syns_with_all_workers(site: SiteOfNet) -> bool:
    """Whether each of them listens on the port of its own."""
    count = len(site.proxy_pids()) - 1
    listening = site.inside("ss -Hltn").split()
    return all(f"*:{port}" in listening for port in SOCKSIFIER_LISTEN_PORTS[:count])


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def the_socket_is_gone(site: SiteOfNet) -> bool:
    return not (site.run_directory / "fedsdn/proxy.sock").exists()


def open_connections(net: Net) -> tuple[int, int]:
    return net.near.statistics()["outbound_open"], net.far.statistics()["inbound_open"]


@pytest.mark.parametrize("which", [0, 1], ids=["socksifier", "server"])
def test_a_stop_takes_no_more_and_lets_what_runs_finish(net: Net, which: int) -> None:
    site = (net.near, net.far)[which]
    client, server = net.connection()
    site.signal_proxy(signal.SIGTERM)
    wait_until(lambda: not is_listening(site))
    exchange(client, server)
    assert site.process is not None
    assert site.process.wait(LIMIT_S) == 0
    assert the_socket_is_gone(site)
    assert "Traceback" not in site.log
    site.start_proxy()
    exchange(*net.connection(6))


def test_an_idle_proxy_stops_at_once_with_status_0(net: Net) -> None:
    assert net.near.stop_proxy() == 0
    assert the_socket_is_gone(net.near)


def test_a_second_sigterm_resets_what_has_not_ended(net: Net) -> None:
    client, server = net.connection()
    net.far.signal_proxy(signal.SIGTERM)
    wait_until(lambda: not is_listening(net.far))
    assert net.far.stop_proxy() == 0
    assert is_reset(client)
    assert is_reset(server)
    assert "resetting 1 connections" in net.far.log


def test_what_has_not_ended_when_the_time_is_over_is_reset(net: Net) -> None:
    assert net.far.stop_proxy() == 0
    net.far.start_proxy("--drain-seconds", "0.2")
    client, server = net.connection()
    assert net.far.stop_proxy() == 0
    assert is_reset(client)
    assert is_reset(server)


def test_an_interrupt_from_the_terminal_is_one_stop_not_two(net: Net) -> None:
    """A terminal sends SIGINT to parent and workers alike."""
    client, server = net.connection()
    for pid in net.far.proxy_pids():
        os.kill(pid, signal.SIGINT)
    wait_until(lambda: not is_listening(net.far))
    exchange(client, server)
    assert net.far.process is not None
    assert net.far.process.wait(LIMIT_S) == 0


@pytest.mark.parametrize("which", [0, 1], ids=["socksifier", "server"])
def test_killed_workers_reset_their_connections_and_are_started_again(net: Net, which: int) -> None:
    site = (net.near, net.far)[which]
    client, server = net.connection()
    client.sendall(bytes(1000))
    parent, *workers = site.proxy_pids()
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    assert is_reset(client)
    assert is_reset(server)
    wait_until(lambda: open_connections(net) == (0, 0))
    wait_until(lambda: len(site.proxy_pids()) == len(workers) + 1)
    assert site.proxy_pids()[0] == parent
    assert not set(site.proxy_pids()[1:]) & set(workers)
    wait_until(partial(listens_with_all_workers, site, 1080))
    wait_until(partial(takes_syns_with_all_workers, site))
    exchange(*net.connection())
    assert site.statistics()["workers"] == len(workers)
    assert site.log.count("ended (status -9); starting it again") == len(workers)


def test_a_stop_while_workers_are_missing_is_a_stop(net: Net) -> None:
    for worker in net.near.proxy_pids()[1:]:
        os.kill(worker, signal.SIGKILL)
    wait_until(lambda: net.near.statistics()["running"] == 0)
    assert net.near.stop_proxy() == 0
    assert the_socket_is_gone(net.near)


def test_workers_do_not_outlive_their_parent_and_the_next_proxy_starts(net: Net) -> None:
    client, server = net.connection()
    pids = net.far.proxy_pids()
    os.kill(pids[0], signal.SIGKILL)
    wait_until(lambda: all(map(is_gone, pids)))
    assert is_reset(client)
    assert is_reset(server)
    net.far.start_proxy()
    exchange(*net.connection())


def test_a_connection_that_the_peer_has_lost_is_reset(net: Net) -> None:
    """The peer's proxy is gone, and its resets are lost: what is sent next is refused."""
    client, _ = net.connection()
    rules = (
        "table inet lost { chain out { type filter hook output priority 0; tcp flags rst drop; }; }"
    )
    net.far.inside(f"nft '{rules}'")
    try:
        pids = net.far.proxy_pids()
        os.kill(pids[0], signal.SIGKILL)
        wait_until(lambda: all(map(is_gone, pids)))
    finally:
        net.far.inside("nft delete table inet lost")
    client.sendall(b"is anybody there?")
    assert is_reset(client)
    wait_until(lambda: net.near.statistics()["outbound_open"] == 0)


def test_a_second_proxy_says_so_and_disturbs_nobody(net: Net) -> None:
    client, server = net.connection()
    second = net.near.run("fedsdn proxy run")
    assert second.returncode == 1
    assert second.stderr.count("\n") == 1
    assert "another proxy runs here" in second.stderr
    exchange(client, server)
    assert net.near.statistics()["outbound"] >= 1


def test_somebody_who_asks_for_statistics_and_does_not_read_holds_nothing_up(net: Net) -> None:
    path = str(net.near.run_directory / "fedsdn/proxy.sock")
    with socket.socket(socket.AF_UNIX) as lazy, socket.socket(socket.AF_UNIX) as gone:
        gone.connect(path)
        gone.close()
        lazy.connect(path)
        assert net.near.statistics()["workers"]
        assert net.near.stop_proxy() == 0


def sockets_of(site: SiteOfNet) -> int:
    """How many sockets the workers have open, without those that are ready for connections."""
    links = [link for pid in site.proxy_pids()[1:] for link in Path(f"/proc/{pid}/fd").iterdir()]
    names = []
    for link in links:
        with suppress(FileNotFoundError):
            names.append(str(link.readlink()))
    counted = site.statistics()
    ready: int = counted["pool_open"] + counted["idle_open"]
    return sum(name.startswith("socket:") for name in names) - ready


def test_whatever_ended_a_connection_no_socket_is_left(net: Net) -> None:
    near, far = net.near, net.far
    exchange(*net.connection())
    wait_until(lambda: open_connections(net) == (0, 0))
    before = sockets_of(near), sockets_of(far)
    failed = far.statistics()["inbound_failed"]
    for round_number in range(10):
        exchange(*net.connection(6))
        for which in (0, 1):
            pair = net.connection()
            pair[1 - which].sendall(bytes(1000))
            pair[which].close()  # with data unread: a reset
        ask_in_vain(net, far.addresses[4])
        with beginning(net, "10.2.0.99", 80 + round_number):
            wait_until(lambda: open_connections(net)[1] > 0)
    wait_until(lambda: open_connections(net) == (0, 0))
    wait_until(lambda: (sockets_of(near), sockets_of(far)) == before)
    assert far.statistics()["inbound_failed"] == failed + 20, "the refused, and nobody's address"


def test_a_client_that_gives_up_before_a_path_answers_is_let_go_at_once(net: Net) -> None:
    silence = "table inet silence { chain output { type filter hook output priority 0; }; }"
    net.near.inside(f"nft '{silence}'")
    try:
        net.near.inside("nft add rule inet silence output tcp dport 1080 drop")
        with net.near.vm.raw(4) as sender:
            ends = (net.near.addresses[4], 40_003), (net.far.addresses[4], 9)
            sender.sendto(syn(*ends, seq=5), (net.far.addresses[4], 0))
            wait_until(lambda: open_connections(net) == (1, 0))
            sender.sendto(syn(*ends, seq=6, flags=RST), (net.far.addresses[4], 0))
        less = transport.ATTEMPT_SECONDS / 3
        wait_at_most(lambda: open_connections(net) == (0, 0), less, lambda: "it is still open")
    finally:
        net.near.inside("nft delete table inet silence")


def without_the_vm(federation: Federation) -> Federation:
    """The same sites, but the VM's IPv6 address is outside the first one's prefixes."""
    a, b = federation.sites
    small = Prefix(ip_network("fd00:1:0:0:8000::/65"), ip_address("fd00:1:0:0:8000::2"))
    return replace(federation, sites=(replace(a, prefixes=(a.prefixes[0], small)), b))


def is_refused(net: Net) -> bool:
    """Whether the worker that gets the next connection finds its client foreign."""
    before: int = net.far.statistics()["ended_foreign_client"]
    ask_in_vain(net, net.far.addresses[6])
    after: int = net.far.statistics()["ended_foreign_client"]
    return after == before + 1


def test_a_changed_file_is_taken_up_and_what_it_allows_goes_on(net: Net) -> None:
    forbidden, allowed = net.connection(6), net.connection(4)
    net.far.write(without_the_vm(two_sites()))
    net.far.signal_proxy(signal.SIGHUP)
    wait_until(lambda: all(is_refused(net) for _ in range(10)))
    assert [is_reset(end) for end in forbidden] == [True, True]
    # One of those that ask whether they are refused may be reset with it, by any worker.
    said = re.compile(r"[12] connections? reset: fd00:1::/64 is no longer a prefix of site a")
    wait_until(lambda: said.search(net.far.log) is not None)
    assert len(said.findall(net.far.log)) <= 2
    exchange(*allowed)
    exchange(*net.connection(4))
    net.far.write(two_sites())
    net.far.signal_proxy(signal.SIGHUP)
    wait_until(lambda: not any(is_refused(net) for _ in range(10)))
    exchange(*net.connection(6))
    assert net.far.log.count("reloaded: ") == 2


@pytest.mark.parametrize("which", [0, 1], ids=["outbound", "inbound"])
def test_a_changed_file_also_resets_what_is_still_being_opened(net: Net, which: int) -> None:
    """Near, the peer does not answer; far, the VM does not."""
    site, port, opening = [(net.near, 1080, (1, 0)), (net.far, 9, (1, 1))][which]
    silence = "table inet silence { chain output { type filter hook output priority 0; }; }"
    site.inside(f"nft '{silence}'")
    try:
        site.inside(f"nft add rule inet silence output tcp dport {port} drop")
        with beginning(net, net.far.addresses[6], 9) as client:
            wait_until(lambda: open_connections(net) == opening)
            site.write(without_the_vm(two_sites()))
            site.signal_proxy(signal.SIGHUP)
            wait_until(lambda: open_connections(net) == (0, 0))
            # Its SYN is repeated. Near, it comes from nobody's prefix now, and nobody answers.
            told = 0 if site is net.near else errno.EACCES
            wait_until(lambda: client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == told)
    finally:
        site.inside("nft delete table inet silence")
        site.write(two_sites())
        site.signal_proxy(signal.SIGHUP)
    wait_until(lambda: not any(is_refused(net) for _ in range(10)))


def test_a_bad_file_is_named_once_and_changes_nothing(net: Net) -> None:
    file = net.far.run_directory / "fedsdn/federation.yaml"
    file.write_text("sites: 7\n")
    before = net.far.log
    net.far.signal_proxy(signal.SIGHUP)
    wait_until(lambda: net.far.log != before and net.far.log.endswith("\n"))
    assert "not reloaded, going on as before: " in net.far.log
    assert "federation.yaml:1: " in net.far.log
    exchange(*net.connection(4))
    exchange(*net.connection(6))
    assert net.far.log.count("\n") == before.count("\n") + 1


def test_another_port_for_peers_is_listened_on(net: Net) -> None:
    elsewhere = replace(two_sites(), proxy_port=1200)
    client, server = net.connection()
    for site in (net.near, net.far):
        site.inside("nft insert rule inet fedsdn from_peer tcp dport 1200 accept")
        site.write(elsewhere)
        site.signal_proxy(signal.SIGHUP)
        wait_until(partial(listens_with_all_workers, site, 1200))
        assert not site.inside("ss -Hltn sport = :1080")
    exchange(*net.connection())
    exchange(client, server)
    for site in (net.near, net.far):
        assert site.stop_proxy() == 0
