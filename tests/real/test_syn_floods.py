"""VMs that send more SYNs than they may: nothing grows, and others are served."""

from __future__ import annotations

import itertools
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from fedsdn.lab.wait import wait_until
from fedsdn.proxy.opening.held import MOST_HELD
from fedsdn.proxy.sockets.transparent import CONNECT_SECONDS
from tests.real.held_syns import (
    OTHER,
    RST,
    SYN,
    filtered,
    nothing_is_held,
    port_of,
    served,
    with_another_vm,
)
from tests.real.proxy_connections import Net
from tests.real.proxy_net import LIMIT_S, SiteOfNet
from tests.real.test_direction import retransmitted, syn

pytestmark = pytest.mark.real

FLOOD = 20_000
MOST_MEMORY_KB = 80_000
"""TLS and all, of as many connections as may be opened at a time; a second flood adds nothing."""


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with with_another_vm() as net:
        yield net


def memory(site: SiteOfNet) -> int:
    """What the workers hold of the machine's memory, in KiB (proc(5))."""
    _parent, *workers = site.proxy_pids()
    files = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in workers]
    return sum(int(size) for file in files for size in re.findall(r"Private_Dirty: +(\d+)", file))


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
            with near.vm.connect(address, port_of(listener), (OTHER[family], 0)) as client:
                at_once += retransmitted(client) == 0
                served(listener, client)
    assert at_once > tries * 0.8
    assert mine in near.inside(f"nft list set inet fedsdn senders_{'ip' if family == 4 else 'ip6'}")
    assert near.output("python -m tests.real.proxy_net filter") == "already loaded\n"
    wait_until(lambda: nothing_is_held(near), CONNECT_SECONDS + LIMIT_S, lambda: "some are held")


def test_nothing_went_wrong_on_the_way(net: Net) -> None:
    """Runs last."""
    for site in net:
        assert "Traceback" not in site.log
