"""Datagrams between VMs of two sites go on over the paths that live, on two whole sites."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

from fedsdn.bench.cases import Kind
from fedsdn.bench.rig import Rig
from fedsdn.bench.ticked import Fate, OneWay, fate
from fedsdn.bench.ticking import finish, new_port, ticking
from fedsdn.cli.views import lab_views
from fedsdn.config.model import Family
from fedsdn.lab.lab import Lab
from fedsdn.lab.operator import CONTROLLER
from fedsdn.lab.wait import wait_until
from fedsdn.shell import Started
from fedsdn.tunnels.wireguard import read_peers

pytestmark = pytest.mark.real

LIMIT_S = 60.0
FAMILIES: tuple[Family, ...] = (4, 6)
SOME = 20


@dataclass
class Flows:
    """Both ends of flows between the first VMs, one of each IP version."""

    ends: list[tuple[Started, Started]]

    def came(self) -> list[int]:
        """How many datagrams have come so far, at each end."""
        return [int(one.ask("how many?")) for pair in self.ends for one in pair]

    def wait_for_more(self) -> None:
        """Wait until more have come at every end."""
        before = self.came()
        wait_until(
            lambda: all(now >= then + SOME for now, then in zip(self.came(), before, strict=True)),
            LIMIT_S,
            lambda: f"a flow of datagrams stands still: {before}, {self.came()} have come",
        )

    def finish(self) -> list[Fate]:
        """End all; return what became of each flow's datagrams, of which none came twice."""
        found = []
        for pair in self.ends:
            (sent, came), (sent_back, came_back) = map(finish, pair)
            ways = (OneWay(sent, came_back), OneWay(sent_back, came))
            found += [fate(way, 0.0, float("inf"), ()) for way in ways]
        assert not any(one.again for one in found)
        return found


@pytest.fixture(scope="module")
def rig(lab: Lab) -> Rig:
    return Rig(lab, lab_views(lab))


@contextmanager
def flows(rig: Rig, port: int | None = None) -> Iterator[Flows]:
    port = port or new_port()
    with ExitStack() as stack:
        ends = []
        for family in FAMILIES:
            path = rig.path(family)
            near, far = path.near_vm.shell, path.far_vm.shell
            pair = ticking((near, path.source), (far, path.destination), port)
            ends.append(stack.enter_context(pair))
        yield Flows(ends)


@contextmanager
def lost(rig: Rig, kind: Kind, wire: int) -> Iterator[None]:
    rig.lose(kind, wire, "upload")
    try:
        yield
    finally:
        rig.restore(kind, wire, "upload")


@pytest.mark.parametrize("kind", [Kind.WIRE, Kind.SILENT])
def test_flows_go_on_over_the_wire_that_is_left(rig: Rig, kind: Kind) -> None:
    rig.wait_steady()
    with flows(rig) as found:
        for wire in (0, 1):
            with lost(rig, kind, wire):
                found.wait_for_more()
            rig.wait_steady()
            found.wait_for_more()
        found.finish()


FLOWS = 40
MOST_SENT = 20
"""Datagrams of a flow, ten a second, until it is told; with the kernel's own limit, one error a
second, the last of the flows would send hundreds."""
_UNTIL_TOLD = f"""
import socket, sys, time
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
waiting = [socket.socket(family, socket.SOCK_DGRAM) for _ in range({FLOWS})]
level, receive_errors = (41, 25) if family == socket.AF_INET6 else (0, 11)  # IP_RECVERR
for one in waiting:
    one.setsockopt(level, receive_errors, 1)
    one.connect((sys.argv[1], 20999))
    one.setblocking(False)
sent, end = 0, time.monotonic() + {LIMIT_S}
while waiting and time.monotonic() < end:
    sent += 1
    told = []
    for one in waiting:
        try:
            one.send(b"?")
        except OSError:
            told.append(one)
    waiting = [one for one in waiting if one not in told]
    time.sleep(0.1)
print(len(waiting), sent)
"""


def is_told(rig: Rig, family: Family) -> bool:
    path = rig.path(family)
    ping = ("ping", "-c", "1", "-W", "1", str(path.destination))
    return "nreachable" in path.near_vm.shell.run(*ping).stdout


def test_without_a_path_each_flow_of_each_vm_is_told(rig: Rig) -> None:
    """Over IPv4 the kernel has a limit that is the whole host's: one a second."""
    rig.wait_steady()
    path = rig.path(6)
    vms = [vm.shell for vm in rig.sites[0].vms]
    assert len(vms) > 1
    with lost(rig, Kind.WIRE, 0), lost(rig, Kind.WIRE, 1), ExitStack() as stack:
        wait_until(
            lambda: all(is_told(rig, family) for family in FAMILIES),
            LIMIT_S,
            lambda: "nobody says that there is no path",
        )
        command = ("-c", _UNTIL_TOLD, str(path.destination))
        running = [stack.enter_context(vm.started(vm.python, *command)) for vm in vms]
        for one in running:
            untold, sent = map(int, one.finish(2 * LIMIT_S).split())
            assert untold == 0
            assert sent <= MOST_SENT
    rig.wait_steady()
    with flows(rig) as found:
        found.wait_for_more()


def heard(rig: Rig) -> dict[tuple[str, str], int]:
    """How many bytes have come to the first site, by tunnel and the sender's key."""
    return {(one.interface, one.key): one.received for one in read_peers(rig.sites[0].proxy)}


def test_what_comes_by_each_tunnel_is_known_by_the_peers_key(rig: Rig) -> None:
    (identity,) = rig.sites[1].site.identities
    key = b64encode(identity.tunnel_key).decode()
    wait_until(
        lambda: len(heard(rig)) == len(rig.wires) and all(heard(rig).values()),
        LIMIT_S,
        lambda: f"a tunnel has brought nothing: {heard(rig)}",
    )
    assert {one for _, one in heard(rig)} == {key}


def shown(rig: Rig) -> list[str]:
    """The kernel's next hops at both sites, but how long flows have had to pause there."""
    listed = [view.proxy.output("ip", "nexthop") for view in rig.sites]
    return [re.sub(r"unbalanced_time \S+", "", hops) for hops in listed]


def wait_for_hops(rig: Rig) -> list[str]:
    """Wait until each site has its group of both tunnels, of each IP version; return the hops."""
    found: list[str] = []

    def are_whole() -> bool:
        found[:] = shown(rig)
        return all(len(re.findall(r"group \d+/\d+ ", hops)) == len(FAMILIES) for hops in found)

    wait_until(are_whole, LIMIT_S, lambda: f"a tunnel is not used: {found}")
    return found


def test_flows_do_not_notice_that_the_application_is_away(rig: Rig, lab: Lab) -> None:
    rig.wait_steady()
    before = wait_for_hops(rig)
    with flows(rig) as found:
        found.wait_for_more()
        host = lab.host(rig.sites[0].name)
        daemon = host.daemon(CONTROLLER)
        daemon.signal("KILL")
        wait_until(lambda: not daemon.alive(), LIMIT_S, lambda: "the application still runs")
        found.wait_for_more()
        rig.start(host)
        rig.wait_steady()
        found.wait_for_more()
        assert wait_for_hops(rig) == before
        assert not any(one.late for one in found.finish())
