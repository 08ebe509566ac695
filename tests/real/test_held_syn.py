"""What a VM's connect() says through two proxies: what the far VM has answered, and no more."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from fedsdn.lab.wait import wait_until
from fedsdn.proxy.sockets.transparent import CONNECT_SECONDS
from tests.real.held_syns import (
    RST,
    SYN,
    connecting,
    filtered,
    nothing_is_held,
    outcome,
    outcome_of_one,
    port_of,
    served,
    syns_repeated,
)
from tests.real.proxy_connections import Net, connection, is_reset, proxies, wait_until_none_is_open
from tests.real.proxy_net import LIMIT_S, SiteOfNet
from tests.real.test_direction import syn

pytestmark = pytest.mark.real

NOBODY = {4: "10.2.0.99", 6: "fd00:2::99"}
NO_VMS = {
    "the proxy": {4: "10.2.0.2", 6: "fd00:2::2"},
    "the network": {4: "10.2.0.0", 6: "fd00:2::"},
    "everybody there": {4: "10.2.0.255", 6: "fd00:2::"},
}
PROHIBITED = {4: errno.EHOSTUNREACH, 6: errno.EACCES}
"""What Linux makes of an ICMP error that says so (net/ipv4/icmp.c, net/ipv6/icmp.c)."""

FIN = 0x01
REFUSALS = 512


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with proxies() as net:
        yield net


def closed_port(site: SiteOfNet, family: int) -> int:
    with site.vm.listen(site.addresses[family]) as listener:
        return port_of(listener)


def is_connected(client: socket.socket) -> bool:
    try:
        client.getpeername()
    except OSError:
        return False
    return True


def near_leg(near: SiteOfNet, client: socket.socket) -> str:
    """What the kernel says of the proxy's socket towards a VM."""
    port, said = client.getsockname()[1], ""

    def is_there() -> bool:
        nonlocal said
        said = near.inside(f"ss -Htnoi state established dport = :{port}")
        return said != ""

    wait_until(is_there, LIMIT_S, lambda: "the proxy has no such connection")
    return said


# What the far VM says


def test_a_closed_port_refuses(net: Net, family: int) -> None:
    near, far = net
    port = closed_port(far, family)
    with (
        near.counts(outbound=1, outbound_failed=1, outbound_early=0, outbound_held=0),
        far.counts(inbound=1, inbound_failed=1),
    ):
        said = outcome_of_one(near, far.addresses[family], port)
    assert said == (errno.ECONNREFUSED, 0), "at the first SYN"


def test_refusals_one_after_the_other_all_arrive(net: Net, family: int) -> None:
    near, far = net
    address = far.addresses[family]
    refused = f"tcp dport 20000-{20_000 + REFUSALS} reject with tcp reset"
    with filtered(far, refused):
        said = {outcome_of_one(near, address, 20_000 + n) for n in range(REFUSALS)}
    assert said == {(errno.ECONNREFUSED, 0)}, "at their first SYNs"


def test_syns_that_no_listener_takes_are_dropped(net: Net, family: int) -> None:
    near, far = net
    address = far.addresses[family]
    with far.vm.listen(address) as listener, near.vm.raw(family) as sender, near.counts(outbound=1):
        ours, to = (near.addresses[family], 30_001), (address, port_of(listener))
        sender.sendto(syn(ours, to, 5, SYN | FIN), (address, 0))
        *damaged, last = syn(ours, to, 5)
        sender.sendto(bytes([*damaged, last ^ 1]), (address, 0))
        with near.vm.connect(address, port_of(listener)) as client:
            served(listener, client)


def test_a_vm_that_does_not_exist_is_unreachable(net: Net, family: int) -> None:
    """Before the server has waited in vain for an answer: nobody has the address."""
    near, far = net
    with far.counts(inbound=1, inbound_failed=1):
        said, seconds = outcome(near, NOBODY[family], 80, tries=4)
    assert said == errno.EHOSTUNREACH
    assert seconds < CONNECT_SECONDS / 2


ANSWERS = {
    "network": ("no-route", "net-unreachable", {4: errno.ENETUNREACH, 6: errno.ENETUNREACH}),
    "host": (
        "addr-unreachable",
        "host-unreachable",
        {4: errno.EHOSTUNREACH, 6: errno.EHOSTUNREACH},
    ),
    "prohibited": ("admin-prohibited", "admin-prohibited", PROHIBITED),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_an_icmp_error_arrives(net: Net, family: int, case: str) -> None:
    near, far = net
    code6, code4, said = ANSWERS[case]
    how = f"icmp type {code4}" if family == 4 else f"icmpv6 type {code6}"
    with filtered(far, f"tcp dport 7 reject with {how}"):
        assert outcome(near, far.addresses[family], 7)[0] == said[family]


@pytest.mark.parametrize("what", NO_VMS)
def test_an_address_that_no_vm_has_is_prohibited(net: Net, family: int, what: str) -> None:
    near, far = net
    refused = near.statistics()["ended_no_vm"]
    with far.counts(inbound=0):
        said, _ = outcome(near, NO_VMS[what][family], 80)
    assert said == PROHIBITED[family]
    wait_until(
        lambda: near.statistics()["ended_no_vm"] > refused, LIMIT_S, lambda: "it is not counted"
    )


def test_silence_is_silence_for_as_long_as_the_vm_asks(net: Net, family: int) -> None:
    """The VM repeats its SYN after one second and gives up after two more."""
    near, far = net
    with filtered(far, "tcp dport 7 drop"), far.counts(inbound=1):
        said, seconds = outcome(near, far.addresses[family], 7)
    assert said == errno.ETIMEDOUT
    assert seconds > 2.5
    wait_until(lambda: nothing_is_held(near), CONNECT_SECONDS + LIMIT_S, lambda: "it is held")


def test_a_syn_that_is_held_is_asked_for_once_and_answered_late(net: Net, family: int) -> None:
    near, far = net
    with far.vm.listen(far.addresses[family]) as listener:
        port = port_of(listener)
        with (
            near.counts(outbound=1, outbound_failed=0),
            far.counts(inbound=1),
            filtered(far, f"tcp dport {port} drop"),
            connecting(near, far.addresses[family], port) as client,
        ):
            wait_until(
                lambda: syns_repeated(client) > 0, LIMIT_S, lambda: "the SYN is not repeated"
            )
            assert not is_connected(client)
            far.output("ip netns exec vm nft flush chain inet f i")
            server, _ = listener.accept()
            server.sendall(b"!")
            assert client.recv(1) == b"!"
            server.close()


# What the VM says


@pytest.mark.parametrize("option", ["tcp_timestamps", "tcp_sack", "tcp_window_scaling"])
def test_options_of_the_syn_are_kept(net: Net, family: int, option: str) -> None:
    near, _ = net
    words = {"tcp_timestamps": "ts", "tcp_sack": "sack", "tcp_window_scaling": "wscale"}
    near.output(f"ip netns exec vm sysctl -qw net.ipv4.{option}=0")
    try:
        with connection(*net, family) as (client, _):
            found = near_leg(near, client)
    finally:
        near.output(f"ip netns exec vm sysctl -qw net.ipv4.{option}=1")
    others = set(words.values()) - {words[option]}
    assert re.search(rf"\b{words[option]}\b", found) is None
    assert all(re.search(rf"\b{word}\b", found) for word in others)


def test_the_mss_of_the_syn_is_kept(net: Net, family: int) -> None:
    near, far = net
    with (
        far.vm.listen(far.addresses[family]) as listener,
        near.vm.open(far.addresses[family]) as client,
    ):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 600)
        client.connect((far.addresses[family], port_of(listener)))
        assert int(re.findall(r"\bmss:(\d+)", near_leg(near, client))[0]) <= 600


def test_a_vm_that_has_given_up_resets_the_far_connection(net: Net, family: int) -> None:
    """Its kernel answers our SYN-ACK with a reset."""
    near, far = net
    with far.vm.listen(far.addresses[family]) as listener:
        port = port_of(listener)
        with filtered(far, f"tcp dport {port} drop"), connecting(near, far.addresses[family], port):
            pass
        server, _ = listener.accept()
        with server:
            server.settimeout(LIMIT_S)
            assert is_reset(server)
    wait_until_none_is_open(net)


def test_a_reset_gives_a_held_syn_up(net: Net, family: int) -> None:
    near, far = net
    address = far.addresses[family]
    with filtered(far, "tcp dport 7 drop"), connecting(near, address, 7) as client:
        ours = (near.addresses[family], client.getsockname()[1])
        held = near.statistics()["outbound_held"]
        with near.vm.raw(family) as sender:
            sender.sendto(syn(ours, (address, 7), 5), (address, 0))
            sender.sendto(syn(ours, (address, 7), 7, RST), (address, 0))  # a forgery
            sender.sendto(syn(ours, (address, 7), 6, RST), (address, 0))
        wait_until(
            lambda: near.statistics()["outbound_held"] == held - 1,
            LIMIT_S,
            lambda: "the SYN is held still",
        )
    wait_until_none_is_open(net)


# What happens to the proxy


def test_a_killed_workers_syns_are_taken_by_others(net: Net, family: int) -> None:
    near, far = net
    address = far.addresses[family]
    with far.vm.listen(address) as listener:
        port = port_of(listener)
        with filtered(far, f"tcp dport {port} drop"), connecting(near, address, port) as client:
            for pid in near.proxy_pids()[1:]:
                os.kill(pid, signal.SIGKILL)
            wait_until(lambda: nothing_is_held(near), LIMIT_S, lambda: "still held")
            far.output("ip netns exec vm nft flush chain inet f i")
            server, _ = listener.accept()
            with server:
                server.sendall(b"!")
                assert client.recv(1) == b"!"


def test_a_stopping_proxy_forgets_what_it_holds_and_the_next_one_takes_it(
    net: Net, family: int
) -> None:
    near, far = net
    address = far.addresses[family]
    with far.vm.listen(address) as listener:
        port = port_of(listener)
        with filtered(far, f"tcp dport {port} drop"), connecting(near, address, port) as client:
            begin = time.monotonic()
            assert near.stop_proxy() == 0
            assert time.monotonic() - begin < CONNECT_SECONDS, "it waits for no answer"
            far.output("ip netns exec vm nft flush chain inet f i")
            near.start_proxy()
            server, _ = listener.accept()
            with server:
                server.sendall(b"!")
                assert client.recv(1) == b"!"


def test_a_device_that_was_deleted_and_made_again_is_read_from(net: Net) -> None:
    near, far = net
    restarts = near.statistics()["restarts"]
    with connection(near, far, 4) as (client, server):
        near.inside("ip link delete held")
        for command in (
            "ip tuntap add held mode tun multi_queue",
            "ip link set held mtu 1500 up",
            "ip route add default dev held table 103",
            "ip -6 route add default dev held table 103",
        ):
            near.inside(command)
        for family in (4, 6):  # a SYN is sent again if nobody reads yet
            with connection(near, far, family):
                pass
        client.sendall(b"?")
        assert server.recv(1) == b"?"
    assert near.statistics()["restarts"] == restarts


def test_nothing_went_wrong_on_the_way(net: Net) -> None:
    """Runs last."""
    for site in net:
        assert "Traceback" not in site.log
