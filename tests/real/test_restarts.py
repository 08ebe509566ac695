"""The README's table of restarts: connections between VMs while something of a site is killed."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from fedsdn.lab import operator, switch
from fedsdn.lab.host import Daemon, Host
from fedsdn.lab.lab import Lab
from fedsdn.lab.wait import wait_until
from tests.real.test_proxy_lab import LIMIT_SECONDS, Pair, Vm, connections, wait_until_all_ended

pytestmark = pytest.mark.real


@pytest.fixture
def pairs(lab: Lab) -> Iterator[list[Pair]]:
    """Connections opened at either site, with either IP version, that survive the test."""
    with ExitStack() as stack:
        found = []
        for near, far in (("a", "b"), ("b", "a")):
            for family in (4, 6):
                ends = Vm(lab, near, "vm1", family), Vm(lab, far, "vm2", family)
                found += stack.enter_context(connections(*ends))
        exchange(found)
        yield found
        exchange(found)
    wait_until_all_ended(lab)


def exchange(pairs: list[Pair]) -> None:
    """Say something both ways on each connection."""
    for client, server in pairs:
        for one, other in ((client, server), (server, client)):
            one.sendall(b"something")
            assert other.recv(9, socket.MSG_WAITALL) == b"something"


def open_new(lab: Lab) -> None:
    for near, far in (("a", "b"), ("b", "a")):
        with connections(Vm(lab, near, "vm1", 4), Vm(lab, far, "vm2", 4)) as new:
            exchange(new)


def kill(host: Host, name: str) -> None:
    daemon: Daemon = host.daemon(name)
    daemon.signal("KILL")
    wait_until(lambda: not daemon.alive(), LIMIT_SECONDS, lambda: f"{name} still runs")


@contextmanager
def without_application(lab: Lab, site: str) -> Iterator[Host]:
    host = lab.host(site)
    kill(host, operator.CONTROLLER)
    try:
        yield host
    finally:
        started = operator.start_controller(host)
        operator.wait_for_controller(host, lab.topology.federation.site(site), started)


def test_the_application_is_killed(lab: Lab, pairs: list[Pair]) -> None:
    """Flows, conntrack and proxies stay: nothing waits."""
    with without_application(lab, "a"), without_application(lab, "b"):
        exchange(pairs)
        open_new(lab)
    exchange(pairs)
    open_new(lab)


def say_meanwhile(pairs: list[Pair]) -> None:
    for pair in pairs:
        for end in pair:
            end.sendall(b"meanwhile")


def hear_it(pairs: list[Pair]) -> None:
    for pair in pairs:
        for end in pair:
            assert end.recv(9, socket.MSG_WAITALL) == b"meanwhile"


def test_the_database_is_killed(lab: Lab, pairs: list[Pair]) -> None:
    """Without it ovs-vswitchd forwards nothing in userspace, fedsdn or not."""
    host = lab.host("a")
    kill(host, switch.OVSDB)
    try:
        say_meanwhile(pairs)
    finally:
        switch.start_database(host)
    hear_it(pairs)
    exchange(pairs)
    open_new(lab)


def test_the_switch_is_killed(lab: Lab, pairs: list[Pair]) -> None:
    """Flows and conntrack are gone; connections wait until the application has put the flows."""
    host, site = lab.host("a"), lab.topology.federation.site("a")
    (lab_site,) = [one for one in lab.topology.sites if one.name == "a"]
    kill(host, switch.VSWITCHD)
    try:
        say_meanwhile(pairs)
    finally:
        switch.start_vswitchd(host)
        switch.make_bridge(host, site, lab_site, system=switch.kernel_datapath())
    hear_it(pairs)
    exchange(pairs)
    open_new(lab)
