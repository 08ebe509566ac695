"""What a VM's connect() says through two proxies: what the far VM has answered, and no more."""

from __future__ import annotations

import errno
import itertools
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from fedsdn.lab.wait import wait_until
from fedsdn.proxy.opening.held import MOST_HELD
from fedsdn.proxy.sockets.transparent import CONNECT_SECONDS
from tests.real.proxy_connections import (
    Net,
    connection,
    is_reset,
    proxies,
    reset,
    wait_until_none_is_open,
)
from tests.real.proxy_net import LIMIT_S, SiteOfNet
from tests.real.test_direction import syn

pytestmark = pytest.mark.real

NOBODY = {4: "10.2.0.99", 6: "fd00:2::99"}
PROXY = {4: "10.2.0.2", 6: "fd00:2::2"}
PROHIBITED = {4: errno.EHOSTUNREACH, 6: errno.EACCES}
"""What Linux makes of an ICMP error that says so (net/ipv4/icmp.c, net/ipv6/icmp.c)."""

OTHER = {4: "10.1.0.12", 6: "fd00:1::12"}
"""Another VM of site a."""

FIN, SYN, RST = 0x01, 0x02, 0x04
REFUSALS = 512
SYN_REPEATED_S = 0.9
"""Less than the time after which a SYN is sent again (RFC 6298, section 2)."""

FLOOD = 20_000
MOST_MEMORY_KB = 40_000


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
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


def closed_port(site: SiteOfNet, family: int) -> int:
    with site.vm.listen(site.addresses[family]) as listener:
        return port_of(listener)


def outcome(near: SiteOfNet, address: str, port: int, tries: int = 1) -> tuple[int, float]:
    """What connect() says, after how many seconds; the VM sends ``tries`` more SYNs."""
    with near.vm.open(address) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, tries)
        begin = time.monotonic()
        said = client.connect_ex((address, port))
        return said, time.monotonic() - begin


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


def syns_repeated(client: socket.socket) -> int:
    """How often the VM has sent its SYN again."""
    # tcpi_retransmits (include/uapi/linux/tcp.h) is the third octet.
    return client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[2]


def is_connected(client: socket.socket) -> bool:
    try:
        client.getpeername()
    except OSError:
        return False
    return True


# What the far VM says


def test_a_closed_port_refuses(net: Net, family: int) -> None:
    near, far = net
    port = closed_port(far, family)
    with (
        near.counts(outbound=1, outbound_failed=1, outbound_early=0, outbound_held=0),
        far.counts(inbound=1, inbound_failed=1),
    ):
        said, seconds = outcome(near, far.addresses[family], port)
    assert said == errno.ECONNREFUSED
    assert seconds < 1, "at the first SYN"


def test_refusals_one_after_the_other_all_arrive(net: Net, family: int) -> None:
    near, far = net
    address = far.addresses[family]
    refused = f"tcp dport 20000-{20_000 + REFUSALS} reject with tcp reset"
    with filtered(far, refused):
        said = [outcome(near, address, 20_000 + n) for n in range(REFUSALS)]
    assert {error for error, _ in said} == {errno.ECONNREFUSED}
    assert max(seconds for _, seconds in said) < SYN_REPEATED_S


def test_syns_that_no_listener_takes_are_dropped(net: Net, family: int) -> None:
    near, far = net
    address = far.addresses[family]
    with (
        far.vm.listen(address) as listener,
        near.vm.raw(family) as sender,
        near.counts(outbound=1),
    ):
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


def test_what_policy_forbids_is_prohibited(net: Net, family: int) -> None:
    """The other site's proxy is none of its VMs."""
    near, far = net
    with far.counts(inbound=0):
        said, seconds = outcome(near, PROXY[family], 80)
    assert said == PROHIBITED[family]
    assert seconds < 1


def test_silence_is_silence_for_as_long_as_the_vm_asks(net: Net, family: int) -> None:
    """The VM repeats its SYN after one second and gives up after two more."""
    near, far = net
    with filtered(far, "tcp dport 7 drop"), far.counts(inbound=1):
        said, seconds = outcome(near, far.addresses[family], 7)
    assert said == errno.ETIMEDOUT
    assert 2.5 < seconds < 5
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
                lambda: syns_repeated(client) > 0,
                LIMIT_S,
                lambda: "the SYN is not repeated",
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


def near_leg(near: SiteOfNet, client: socket.socket) -> str:
    """What the kernel says of the proxy's socket towards a VM."""
    port = client.getsockname()[1]
    return near.inside(f"ss -Htnoi state established dport = :{port}")


def test_a_vm_that_has_given_up_resets_the_far_connection(net: Net, family: int) -> None:
    """Its kernel answers our SYN-ACK with a reset."""
    near, far = net
    with far.vm.listen(far.addresses[family]) as listener:
        port = port_of(listener)
        with (
            filtered(far, f"tcp dport {port} drop"),
            connecting(near, far.addresses[family], port),
        ):
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


# Known destinations


def test_a_known_destination_is_answered_at_once_until_it_refuses(net: Net, family: int) -> None:
    """Which worker takes a connection, nobody chooses: what one learns, the others know."""
    near, far = net
    address = far.addresses[family]
    with far.vm.listen(address) as listener:
        port = port_of(listener)
        with near.counts(outbound=1, outbound_early=0), near.vm.connect(address, port) as client:
            served(listener, client)
        with near.counts(outbound=20, outbound_early=20, outbound_failed=0):
            for _ in range(20):
                with near.vm.connect(address, port) as client:
                    served(listener, client)
    with near.counts(outbound=1, outbound_early=1, outbound_failed=1):
        try:
            client = near.vm.connect(address, port)
        except ConnectionResetError:  # the reset was sooner than who waited for connect()
            pass
        else:
            with client:
                assert is_reset(client)
    with near.counts(outbound=20, outbound_early=0, outbound_failed=20):
        assert {outcome(near, address, port)[0] for _ in range(20)} == {errno.ECONNREFUSED}


def test_a_reset_makes_a_destination_unknown(net: Net, family: int) -> None:
    near, far = net
    address = far.addresses[family]
    with far.vm.listen(address) as listener:
        port = port_of(listener)
        with near.vm.connect(address, port) as client:
            server, _ = listener.accept()
            reset(server)
            assert is_reset(client)
        wait_until_none_is_open(net)
        with near.counts(outbound=1, outbound_early=0), near.vm.connect(address, port) as client:
            served(listener, client)


def test_a_vm_that_gives_up_leaves_a_destination_known(net: Net, family: int) -> None:
    """It says nothing of the destination; anybody could take that away from all others."""
    near, far = net
    address = far.addresses[family]
    with far.vm.listen(address) as listener, near.vm.raw(family) as other:
        port = port_of(listener)
        with near.vm.connect(address, port) as client:
            served(listener, client)
        with near.counts(outbound=1, outbound_early=1, outbound_failed=1):
            # It is answered by a SYN-ACK, and its kernel, which knows nothing of it, by a reset.
            other.sendto(syn((OTHER[family], 33_333), (address, port), 7), (address, 0))
        with near.counts(outbound=1, outbound_early=1), near.vm.connect(address, port) as client:
            served(listener, client)


def served(listener: socket.socket, client: socket.socket) -> None:
    """Have one byte go each way, and both ends of the stream."""
    client.sendall(b"?")
    server, _ = listener.accept()
    with server:
        assert server.recv(1) == b"?"
        server.sendall(b"!")
    assert client.recv(2) == b"!"
    assert client.recv(1) == b""


# Too many


@pytest.mark.parametrize("answer", ["drop", "reject with tcp reset", "accept"])
def test_a_flood_of_syns_grows_nothing(net: Net, family: int, answer: str) -> None:
    near, far = net
    address = far.addresses[family]
    listener = far.vm.listen(address, 7)
    with listener, filtered(far, f"tcp dport 7 {answer}"):
        before, unasked = memory(near), near.statistics()["ended_unasked"]
        held = 0
        with near.vm.raw(family) as sender:
            for number in range(FLOOD):
                source = (near.addresses[family], 1024 + number)
                sender.sendto(syn(source, (address, 7), number), (address, 0))
                if number % 1000 == 0:
                    held = max(held, near.statistics()["outbound_held"])
        wait_until(
            lambda: near.statistics()["ended_unasked"] > unasked,
            LIMIT_S,
            lambda: "no SYN of the flood was counted",
        )
        assert held <= near.statistics()["workers"] * MOST_HELD
        assert memory(near) - before < MOST_MEMORY_KB
        with (
            far.vm.listen(address) as other,
            near.vm.connect(address, port_of(other), (OTHER[family], 0)) as client,
        ):
            served(other, client)
    wait_until(lambda: nothing_is_held(near), CONNECT_SECONDS + LIMIT_S, lambda: "some are held")


@contextmanager
def flooding(near: SiteOfNet, packets: list[bytes], to: str) -> Iterator[None]:
    """Have a process send packets from the VM's namespace as fast as it can."""
    with near.vm.raw(6 if ":" in to else 4) as sender:
        pid = os.fork()
        if pid == 0:
            for packet in itertools.cycle(packets):
                with suppress(OSError):
                    sender.sendto(packet, (to, 0))
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.parametrize("flags", [SYN, RST])
def test_a_vm_that_floods_does_not_hinder_others(net: Net, family: int, flags: int) -> None:
    near, far = net
    address = far.addresses[family]
    mine = near.addresses[family]
    packets = [syn((mine, 1024 + n), (address, 7), n, flags) for n in range(5000)]
    tries = 30
    with (
        far.vm.listen(address) as listener,
        filtered(far, "tcp dport 7 drop"),
        flooding(near, packets, address),
    ):
        at_once = 0
        for _ in range(tries):
            begin = time.monotonic()
            with near.vm.connect(address, port_of(listener), (OTHER[family], 0)) as client:
                at_once += time.monotonic() - begin < SYN_REPEATED_S
                served(listener, client)
    assert at_once > tries * 0.8
    assert mine in near.inside(f"nft list set inet fedsdn senders_{'ip' if family == 4 else 'ip6'}")
    assert near.output("python -m tests.real.proxy_net filter") == "already loaded\n"
    wait_until(lambda: nothing_is_held(near), CONNECT_SECONDS + LIMIT_S, lambda: "some are held")


def memory(site: SiteOfNet) -> int:
    """What the workers hold of the machine's memory, in KiB (proc(5))."""
    _parent, *workers = site.proxy_pids()
    files = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in workers]
    return sum(int(size) for file in files for size in re.findall(r"Private_Dirty: +(\d+)", file))


def nothing_is_held(site: SiteOfNet) -> bool:
    return site.statistics()["outbound_held"] == 0  # type: ignore[no-any-return]


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
            assert time.monotonic() - begin < 5
            far.output("ip netns exec vm nft flush chain inet f i")
            near.start_proxy()
            server, _ = listener.accept()
            with server:
                server.sendall(b"!")
                assert client.recv(1) == b"!"


def test_nothing_went_wrong_on_the_way(net: Net) -> None:
    """Runs last."""
    for site in net:
        assert "Traceback" not in site.log


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
