"""Uplinks that go and come back under live connections, on two whole sites."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from fedsdn.lab.lab import Lab
from fedsdn.lab.operator import CONTROLLER, PROXY, start_controller, start_proxy
from fedsdn.lab.wait import wait_until
from fedsdn.uplinks.status import PathState, PortState, SiteStatus, read_status
from tests.real.conftest import SITE_UP
from tests.real.test_proxy_lab import Vm

pytestmark = pytest.mark.real

LIMIT_S = 60.0
UP, DOWN = PathState.UP, PathState.DOWN
BOTH = {"up1", "up2"}
ADDRESSES = {
    "a": {"192.0.2.1": "up1", "2001:db8:2::1": "up2"},
    "b": {"192.0.2.2": "up1", "2001:db8:2::2": "up2"},
}
SITES = tuple(ADDRESSES)


def status_if_any(lab: Lab, site: str) -> SiteStatus | None:
    return read_status(lab.host(site).run_directory / "fedsdn/uplinks.json")


def status(lab: Lab, site: str) -> SiteStatus:
    found = status_if_any(lab, site)
    assert found is not None, f"site {site}: no status of an application that runs"
    return found


def paths(lab: Lab, site: str) -> dict[str, PathState]:
    """By uplink: each has one path, on the wire of its name. None while an application starts."""
    found = status_if_any(lab, site)
    return {path.uplink: path.state for path in found.paths} if found else {}


def inside(lab: Lab, site: str, *command: str) -> str:
    return lab.host(site).run("ip", "netns", "exec", "fedsdn", *command)


def endpoints(lab: Lab, site: str) -> set[str]:
    """Uplinks that the kernel has an endpoint for."""
    listed = json.loads(inside(lab, site, "ip", "-json", "mptcp", "endpoint") or "[]")
    return {ADDRESSES[site].get(one["address"], one["address"]) for one in listed}


def subflows(lab: Lab, site: str) -> set[str]:
    """Uplinks that carry an established subflow."""
    lines = inside(lab, site, "ss", "-Htn", "state", "established").splitlines()
    locals_ = {line.split()[2].rpartition(":")[0].strip("[]") for line in lines}
    found = {address.removeprefix("::ffff:") for address in locals_}
    return {uplink for address, uplink in ADDRESSES[site].items() if address in found}


def wait_for(lab: Lab, alive: set[str], *, carried: bool = True) -> None:
    """Wait until both sites agree about which uplinks live, down to the subflows."""

    def found() -> dict[str, object]:
        return {
            site: (
                {name for name, state in paths(lab, site).items() if state is UP},
                endpoints(lab, site),
                subflows(lab, site) if carried else alive,
            )
            for site in SITES
        }

    wait_until(
        lambda: found() == dict.fromkeys(SITES, (alive, alive, alive)),
        LIMIT_S,
        lambda: f"waited for {alive}, found {found()}",
    )


@dataclass
class Talk:
    """A connection whose ends answer each other for as long as it is open."""

    client: socket.socket
    server: socket.socket
    exchanged: int = 0
    trouble: list[str] = field(default_factory=list)
    over: bool = False

    def _echo(self) -> None:
        while data := self.server.recv(1 << 16):
            self.server.sendall(data)

    def _ask(self) -> None:
        source = random.Random(1)  # noqa: S311 -- no secrets
        while not self.over:
            data = source.randbytes(5000)
            self.client.sendall(data)
            answer = bytearray()
            while len(answer) < len(data):
                answer += self.client.recv(1 << 16) or b"ended"
            assert answer == data
            self.exchanged += 1
        self.client.shutdown(socket.SHUT_WR)

    def run(self, part: str) -> None:
        try:
            {"echo": self._echo, "ask": self._ask}[part]()
        except (OSError, AssertionError) as error:
            self.trouble.append(f"{part}: {error!r}")

    def goes_on(self) -> None:
        """Wait until more data have gone there and back, intact."""
        before = self.exchanged
        wait_until(
            lambda: self.exchanged > before + 3 or bool(self.trouble),
            LIMIT_S,
            lambda: "nothing was exchanged",
        )
        assert not self.trouble


@contextmanager
def talking(lab: Lab, family: int = 4, far_vm: str = "vm2") -> Iterator[Talk]:
    near, far = Vm(lab, "a", "vm1", family), Vm(lab, "b", far_vm, family)
    with far.namespace.listen(far.address) as listener:
        client = near.namespace.connect(far.address, listener.getsockname()[1])
        server, _ = listener.accept()
    with client, server:
        for sock in (client, server):
            sock.settimeout(60)
        talk = Talk(client, server)
        threads = [threading.Thread(target=talk.run, args=(part,)) for part in ("echo", "ask")]
        for thread in threads:
            thread.start()
        try:
            yield talk
            talk.goes_on()
        finally:
            talk.over = True
            for thread in threads:
                thread.join()
    assert not talk.trouble


@pytest.fixture
def talk(lab: Lab) -> Iterator[Talk]:
    """Return a connection that both uplinks carry; afterwards both must carry it again."""
    wait_for(lab, BOTH, carried=False)
    with talking(lab) as talk:
        wait_for(lab, BOTH)
        yield talk
        wait_for(lab, BOTH)


def set_link(lab: Lab, site: str, uplink: str, state: str) -> None:
    lab.host(site).run("ip", "link", "set", uplink, state)


def wait_for_port(lab: Lab, site: str, uplink: str, state: PortState) -> None:
    """Wait until the status says so of an uplink that has no endpoint."""

    def found() -> list[tuple[PortState, int | None]]:
        return [(one.port, one.endpoint) for one in status(lab, site).uplinks if one.name == uplink]

    wait_until(lambda: found() == [(state, None)], LIMIT_S, lambda: f"found {found()}")


@pytest.mark.parametrize("uplink", ["up1", "up2"])
@pytest.mark.parametrize("site", SITES)
def test_a_port_set_down_at_one_site(lab: Lab, talk: Talk, site: str, uplink: str) -> None:
    """The other end keeps its carrier, and is told."""
    set_link(lab, site, uplink, "down")
    try:
        wait_for(lab, BOTH - {uplink})
        wait_for_port(lab, site, uplink, PortState.DOWN)
        talk.goes_on()
    finally:
        set_link(lab, site, uplink, "up")


@pytest.mark.parametrize("wire", ["wire1", "wire2"])
def test_a_pulled_wire(lab: Lab, talk: Talk, wire: str) -> None:
    lab.change_wire(wire, carrier=False)
    try:
        wait_for(lab, BOTH - {wire.replace("wire", "up")})
        talk.goes_on()
    finally:
        lab.change_wire(wire, carrier=True)


def test_a_wire_that_swallows_everything(lab: Lab, talk: Talk) -> None:
    lab.change_wire("wire1", loss_percent=100)
    try:
        wait_for(lab, {"up2"})
        talk.goes_on()
    finally:
        lab.change_wire("wire1", loss_percent=0)


@pytest.mark.parametrize("site", SITES)
def test_one_direction_that_is_swallowed(lab: Lab, talk: Talk, site: str) -> None:
    """A flow of somebody else's on the bridge drops what the proxy sends by an uplink."""
    bridge = ("ovs-ofctl", "-O", "OpenFlow13", "--names")
    lab.host(site).run(
        *bridge, "add-flow", "br-provider", "cookie=7,priority=65000,in_port=wan-up2,actions=drop"
    )
    try:
        wait_for(lab, {"up1"})
        talk.goes_on()
    finally:
        lab.host(site).run(*bridge, "del-flows", "br-provider", "cookie=7/-1")


def test_a_port_that_is_removed_and_added_with_another_number(lab: Lab, talk: Talk) -> None:
    host = lab.host("a")
    before = host.run("ovs-vsctl", "get", "interface", "up1", "ofport")
    host.run("ovs-vsctl", "del-port", "br-provider", "up1")
    wait_for(lab, {"up2"})
    wait_for_port(lab, "a", "up1", PortState.ABSENT)
    talk.goes_on()
    host.run(
        *("ovs-vsctl", "add-port", "br-provider", "up1"),
        *("--", "set", "interface", "up1", "ofport_request=77"),
    )
    wait_for(lab, BOTH)
    assert host.run("ovs-vsctl", "get", "interface", "up1", "ofport") != before
    host.run(*SITE_UP)  # keeps the new port from NORMAL, too


def test_all_uplinks_down_and_back(lab: Lab, talk: Talk) -> None:
    for wire in ("wire1", "wire2"):
        lab.change_wire(wire, carrier=False)
    wait_until(
        lambda: all(set(paths(lab, site).values()) == {DOWN} for site in SITES),
        LIMIT_S,
        lambda: "the paths are not down",
    )
    for wire in ("wire1", "wire2"):
        lab.change_wire(wire, carrier=True)
    talk.goes_on()


def test_flapping_ends_with_the_right_endpoints(lab: Lab, talk: Talk) -> None:
    turns = random.Random(3)  # noqa: S311 -- no secrets
    for _ in range(20):
        site, uplink = turns.choice(SITES), turns.choice(["up1", "up2"])
        set_link(lab, site, uplink, "down")
        set_link(lab, site, uplink, "up")
    talk.goes_on()


def test_endpoints_that_somebody_changed_are_repaired(lab: Lab, talk: Talk) -> None:
    (first, *_) = json.loads(inside(lab, "a", "ip", "-json", "mptcp", "endpoint"))
    inside(lab, "a", "ip", "mptcp", "endpoint", "delete", "id", str(first["id"]))
    inside(lab, "b", "ip", "mptcp", "endpoint", "add", "198.51.100.1", "signal")
    wait_for(lab, BOTH)
    talk.goes_on()


def test_an_uplink_that_is_lost_again_and_again_is_used_again(lab: Lab, talk: Talk) -> None:
    """More often than the kernel's own path manager would take announcements of it: eight."""
    for _ in range(10):
        for site in SITES:
            set_link(lab, site, "up2", "down")
        wait_for(lab, {"up1"})
        for site in SITES:
            set_link(lab, site, "up2", "up")
        wait_for(lab, BOTH)
    talk.goes_on()


def test_a_connections_last_subflow_is_not_ended_but_replaced(lab: Lab) -> None:
    """Both uplinks are away in turn, and for a moment together."""
    wait_for(lab, BOTH, carried=False)
    lab.change_wire("wire2", carrier=False)
    try:
        wait_for(lab, {"up1"}, carried=False)
        with talking(lab) as talk:
            wait_for(lab, {"up1"})
            lab.change_wire("wire1", carrier=False)
            wait_until(
                lambda: all(set(paths(lab, site).values()) == {DOWN} for site in SITES),
                LIMIT_S,
                lambda: "the paths are not down",
            )
            assert subflows(lab, "a") == subflows(lab, "b") == {"up1"}
            lab.change_wire("wire2", carrier=True)
            wait_for(lab, {"up2"})
            talk.goes_on()
            lab.change_wire("wire1", carrier=True)
            wait_for(lab, BOTH)
    finally:
        for wire in ("wire1", "wire2"):
            lab.change_wire(wire, carrier=True)


def test_a_subflow_that_somebody_ended_is_opened_anew(lab: Lab, talk: Talk) -> None:
    inside(lab, "a", "ss", "-K", "dst", "[2001:db8:2::2]")
    wait_until(lambda: subflows(lab, "a") == {"up1"}, LIMIT_S, lambda: "it is still there")
    wait_for(lab, BOTH)


def test_an_application_that_is_started_while_an_uplink_is_down(lab: Lab, talk: Talk) -> None:
    """It finds an endpoint of a dead uplink, and takes it away; later it is put back."""
    lab.host("a").daemon(CONTROLLER).signal("TERM")
    wait_until(lambda: not lab.host("a").runs(CONTROLLER), LIMIT_S, lambda: "it does not stop")
    talk.goes_on()
    set_link(lab, "a", "up1", "down")
    assert endpoints(lab, "a") == BOTH
    start_controller(lab.host("a"))
    try:
        wait_for(lab, {"up2"})
    finally:
        set_link(lab, "a", "up1", "up")


def test_a_peer_without_its_application_keeps_its_connections(lab: Lab, talk: Talk) -> None:
    lab.host("b").daemon(CONTROLLER).signal("KILL")
    wait_until(
        lambda: set(paths(lab, "a").values()) == {PathState.UNKNOWN},
        LIMIT_S,
        lambda: f"found {status(lab, 'a').paths}",
    )
    assert endpoints(lab, "a") == subflows(lab, "a") == BOTH
    talk.goes_on()
    start_controller(lab.host("b"))


def test_a_site_that_is_taken_down_and_set_up_again(lab: Lab) -> None:
    """The application goes on in the new namespace."""
    host = lab.host("a")
    wait_for(lab, BOTH, carried=False)
    proxy = host.daemon(PROXY)
    proxy.signal("TERM")
    wait_until(lambda: not proxy.alive(), 40, lambda: "the proxy does not stop")
    host.run("fedsdn", "site", "down")
    host.run("fedsdn", "site", "up")
    inside(lab, "a", "ip", "mptcp", "endpoint", "flush")
    start_proxy(host)
    wait_for(lab, BOTH, carried=False)
    wait_until(
        lambda: "*:1080" in inside(lab, "a", "ss", "-Hltn"), LIMIT_S, lambda: "no proxy listens"
    )
    with talking(lab) as talk:
        wait_for(lab, BOTH)
        talk.goes_on()


def test_new_connections_begin_on_a_live_path(lab: Lab) -> None:
    wait_for(lab, BOTH, carried=False)
    lab.change_wire("wire1", loss_percent=100)
    try:
        wait_for(lab, {"up2"}, carried=False)
        for family in (4, 6, 4, 6):
            with talking(lab, family) as talk:
                talk.goes_on()
                asked = inside(lab, "a", "ss", "-Htn", "state", "syn-sent")
                assert "192.0.2.1" not in asked, "an attempt on the dead path"
                assert subflows(lab, "a") == {"up2"}
    finally:
        lab.change_wire("wire1", loss_percent=0)
    wait_for(lab, BOTH, carried=False)
