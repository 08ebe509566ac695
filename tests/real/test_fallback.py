"""Connections between sites that fall back to TCP, in a lab of their own: it counts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from fedsdn.lab import build
from fedsdn.lab.lab import Lab
from fedsdn.lab.wait import wait_until
from fedsdn.proxy.process.stats_socket import read_statistics
from tests.real.conftest import TWO_SITE
from tests.real.test_proxy_lab import LIMIT_SECONDS, Vm, connections, wait_until_all_ended

pytestmark = pytest.mark.real

SILENT_SECONDS = 3.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    name = f"test-{os.getpid()}-fallback"
    try:
        yield build.up(TWO_SITE, name)
    finally:
        build.down(name)


@contextmanager
def options_taken_off(lab: Lab, condition: str) -> Iterator[None]:
    """Have a middlebox take Multipath TCP's options off what site b gets under a condition."""
    host, inside = lab.host("b"), ("ip", "netns", "exec", "fedsdn", "nft")
    host.run(*inside, "add table inet middlebox")
    try:
        chain = "{ type filter hook prerouting priority -300 ; }"
        host.run(*inside, f"add chain inet middlebox c {chain}")
        rule = f"tcp flags & syn == 0 {condition} reset tcp option mptcp"
        host.run(*inside, f"add rule inet middlebox c {rule}")
        yield
    finally:
        host.run(*inside, "delete table inet middlebox")


def counted(lab: Lab, name: str) -> int:
    """Sum of a counter at both sites."""
    sockets = (host.run_directory / "fedsdn/proxy.sock" for host in lab.hosts)
    return int(sum(read_statistics(one)[name] for one in sockets))


def test_a_connection_that_falls_back_is_not_made_and_counted(lab: Lab, family: int) -> None:
    near, far = Vm(lab, "a", "vm1", family), Vm(lab, "b", "vm2", family)
    before = counted(lab, "ended_fallback")
    with options_taken_off(lab, ""), ExitStack() as stack:
        listener = stack.enter_context(far.namespace.listen(far.address))
        port = listener.getsockname()[1]
        client = stack.enter_context(near.namespace.open(near.address))
        client.settimeout(SILENT_SECONDS)
        with pytest.raises(TimeoutError):
            client.connect((far.address, port))
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()
    wait_until(
        lambda: counted(lab, "ended_fallback") > before,
        LIMIT_SECONDS,
        lambda: "no fallback was counted",
    )
    wait_until_all_ended(lab)


def test_one_that_falls_back_at_its_beginning_is_asked_for_again(lab: Lab, family: int) -> None:
    """The first two segments of a connection lose their options, unless others come between."""
    near, far = Vm(lab, "a", "vm1", family), Vm(lab, "b", "vm2", family)
    before = counted(lab, "asked_again")
    for _ in range(10):
        with (
            options_taken_off(lab, "limit rate 1/hour burst 2 packets"),
            connections(near, far) as [(client, server)],
        ):
            client.sendall(b"question")
            assert server.recv(100) == b"question"
            server.sendall(b"answer")
            assert client.recv(100) == b"answer"
        wait_until_all_ended(lab)
        if counted(lab, "asked_again") > before:
            return
    pytest.fail("none has fallen back")
