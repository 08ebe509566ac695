"""The proxy's processes: stopped, killed, kept from starting."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from fedsdn.lab.wait import wait_until as wait_at_most
from fedsdn.pipeline.declarations import SOCKSIFIER_LISTEN_PORTS
from fedsdn.proxy.sockets import transport
from tests.real.proxy_connections import is_reset, reset
from tests.real.proxy_life import (
    Net,
    ask_in_vain,
    beginning,
    exchange,
    listens_with_all_workers,
    open_connections,
)
from tests.real.proxy_net import LIMIT_S, SiteOfNet
from tests.real.site_host import wait_until
from tests.real.test_direction import syn

pytestmark = pytest.mark.real

RST = 0x04
REST_S = 0.2


def is_listening(site: SiteOfNet) -> bool:
    return bool(site.inside("ss -Hltn").strip())


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
        with suppress(ProcessLookupError):  # the parent has told it to stop already
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

    def others_run() -> bool:
        now = site.proxy_pids()
        assert now[0] == parent
        return len(now) == len(workers) + 1 and not set(now) & set(workers)

    wait_until(others_run)
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


@contextmanager
def killed_unheard(site: SiteOfNet) -> Iterator[None]:
    """Kill a site's proxy, with its resets lost, before the block; then the next one may run."""
    rules = (
        "table inet lost { chain out { type filter hook output priority 0; tcp flags rst drop; }; }"
    )
    site.inside(f"nft '{rules}'")
    try:
        pids = site.proxy_pids()
        os.kill(pids[0], signal.SIGKILL)
        wait_until(lambda: all(map(is_gone, pids)))
    finally:
        site.inside("nft delete table inet lost")
    yield
    site.start_proxy()


def test_a_connection_that_the_peer_has_lost_is_reset(net: Net) -> None:
    """What is sent next is refused."""
    client, _ = net.connection()
    with killed_unheard(net.far):
        client.sendall(b"is anybody there?")
        assert is_reset(client)
        wait_until(lambda: net.near.statistics()["outbound_open"] == 0)


def test_a_client_has_its_port_again_though_the_peer_holds_its_last_connection(net: Net) -> None:
    own, address = (net.near.addresses[4], 40_004), net.far.addresses[4]
    with net.far.vm.listen(address) as listener:
        port = listener.getsockname()[1]
        with net.near.vm.connect(address, port, own) as client, listener.accept()[0] as forgotten:
            client.sendall(b"?")
            assert forgotten.recv(1) == b"?"
            with killed_unheard(net.near):
                reset(client)
            with net.near.vm.connect(address, port, own) as again, listener.accept()[0] as server:
                assert is_reset(forgotten)
                exchange(again, server)
    wait_until(lambda: open_connections(net) == (0, 0))


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


def sockets_at_rest(site: SiteOfNet) -> int:
    """Wait until ready connections have been made, and what has ended is closed."""
    seen = [sockets_of(site)]

    def is_at_rest() -> bool:
        time.sleep(REST_S)
        seen.append(sockets_of(site))
        return len(set(seen[-3:])) == 1 and len(seen) > 3

    wait_until(is_at_rest)
    return seen[-1]


def test_whatever_ended_a_connection_no_socket_is_left(net: Net) -> None:
    near, far = net.near, net.far
    exchange(*net.connection())
    wait_until(lambda: open_connections(net) == (0, 0))
    before = sockets_at_rest(near), sockets_at_rest(far)
    failed = far.statistics()["inbound_failed"]
    for round_number in range(10):
        exchange(*net.connection(6))
        for which in (0, 1):
            pair = net.connection()
            pair[1 - which].sendall(bytes(1000))
            pair[which].close()  # with data unread: a reset
        ask_in_vain(net, far.addresses[4])
        wait_until(lambda: open_connections(net) == (0, 0))
        with beginning(net, "10.2.0.99", 80 + round_number):
            wait_until(lambda: open_connections(net)[1] > 0)
    wait_until(lambda: open_connections(net) == (0, 0))
    wait_until(lambda: sockets_of(near) <= before[0] and sockets_of(far) <= before[1])
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
        less = transport.ATTEMPT_SECONDS / 2
        wait_at_most(lambda: open_connections(net) == (0, 0), less, lambda: "it is still open")
    finally:
        net.near.inside("nft delete table inet silence")
