"""The lab that is up: VMs, commands in it, wires."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from fedsdn.lab.lab import Lab
from fedsdn.lab.switch import kernel_datapath
from fedsdn.lab.wait import wait_until
from fedsdn.shell import Shell
from fedsdn.traffic.runner import Transfer, send, serving
from fedsdn.traffic.values import Amount

pytestmark = pytest.mark.real
FEDSDN = str(Path(sys.executable).parent / "fedsdn")
WIRE = "wire1"
LIMIT_S = 60.0


def fedsdn(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [FEDSDN, "lab", *arguments], input=stdin, capture_output=True, text=True, check=False
    )


def shell(lab: Lab, place: str) -> Shell:
    return Shell(place, lab.prefix(place))


def link_state(lab: Lab, site: str, port: str) -> str:
    host = lab.host(site)
    return host.run("ovs-vsctl", "get", "interface", port, "link_state").strip()


def wait_for_link_state(lab: Lab, state: str) -> None:
    """Wait until both ends of the wire have it."""
    for site in ("a", "b"):
        wait_until(
            partial(lambda site: link_state(lab, site, "up1") == state, site),
            LIMIT_S,
            lambda: f"up1 does not go {state}",
        )


@pytest.mark.skipif(kernel_datapath(), reason="the kernel's datapath has no sockets")
def test_every_port_of_the_switch_has_room_for_frames(lab: Lab) -> None:
    """Those of the VMs, of the wires and of the proxy; a port's is what the kernel makes of it."""
    for site in ("a", "b"):
        host = lab.host(site)
        shown = host.run("ss", "--packet", "--no-header", "--oneline", "--memory", "--numeric")
        rooms = {port: int(room) for port, room in re.findall(r"\*:(\S+).*\brb(\d+)", shown)}
        assert {"vm1", "up1", "up2", "socksifier", "server", "wan-up1", "wan-up2"} <= rooms.keys()
        assert min(room for port, room in rooms.items() if port != "*") >= 2 << 20, rooms


@pytest.fixture
def wire(lab: Lab) -> Iterator[dict[str, Any]]:
    """Return the state of a wire that the test may change."""
    before = lab.wires()[WIRE]
    yield before
    quality = {key: before[key] for key in ("delay_ms", "rate_mbit", "loss_percent", "queue_ms")}
    lab.change_wire(WIRE, carrier=True, **quality)
    wait_for_link_state(lab, "up")


def test_everything_is_up(lab: Lab) -> None:
    shown = fedsdn("status", "--json", "--name", lab.name)
    status = json.loads(shown.stdout)
    assert status["up"] is True
    assert {site: set(s["daemons"].values()) for site, s in status["sites"].items()} == {
        "a": {True},
        "b": {True},
    }
    assert [wire["carrier"] for wire in status["wires"].values()] == [True, True]
    assert shown.returncode == 0
    for_people = fedsdn("status", "--name", lab.name)
    assert for_people.returncode == 0
    assert "DOWN" not in for_people.stdout


@pytest.mark.parametrize("place", ["a", "a/vm1"])
def test_exec_passes_standard_input_and_the_exit_status_through(lab: Lab, place: str) -> None:
    done = fedsdn("exec", "--name", lab.name, place, "--", "sh", "-c", "cat; exit 7", stdin="in")
    assert (done.stdout, done.returncode) == ("in", 7)


def test_exec_is_at_the_place_it_says(lab: Lab) -> None:
    address = fedsdn("exec", "--name", lab.name, "b/vm2", "--", "ip", "-br", "address", "show")
    assert "10.2.0.12/24" in address.stdout
    assert "fd00:2::12/64" in address.stdout
    assert fedsdn("exec", "--name", lab.name, "b", "--", "hostname").stdout == "b\n"


def test_the_operators_commands_work_on_a_host_without_options(lab: Lab) -> None:
    shown = fedsdn("exec", "--name", lab.name, "a", "--", "fedsdn", "site", "show")
    assert shown.returncode == 0, shown.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["exec", "a/vm9", "--", "true"], "no VM 'vm9': site a of lab NAME has vm1, vm2"),
        (["exec", "z", "--", "true"], "no site 'z': lab NAME has a, b"),
        (["link", "wire9", "down"], "no wire 'wire9': lab NAME has wire1, wire2"),
        (["link", "wire1", "rate"], "'rate' takes a number from 0.001 to 100000 (Mbit/s)"),
        (["link", "wire1", "loss", "101"], "'loss' takes a number from 0 to 100 (percent)"),
        (["link", "wire1", "down", "3"], "'down' takes no value, found 3: leave it out"),
    ],
)
def test_what_is_not_there_is_one_line(lab: Lab, arguments: list[str], message: str) -> None:
    command, *rest = arguments
    done = fedsdn(command, "--name", lab.name, *rest)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"fedsdn: {message.replace('NAME', lab.name)}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("address", ["10.1.0.12", "fd00:1::12", "10.1.0.1", "fd00:1::1"])
def test_data_arrive_intact_within_a_site(lab: Lab, address: str) -> None:
    """Checksums and segmentation are left to the receiver; wrong ones would stop TCP."""
    there = "a" if address.endswith(("0.1", "::1")) else "a/vm2"
    size = 5_000_000
    with serving(shell(lab, there)):
        moved = send(shell(lab, "a/vm1"), Transfer(ip_address(address), Amount(size=size)))
    assert [(c.error, c.received and c.received.intact) for c in moved] == [(None, True)]
    assert [c.received.size for c in moved if c.received] == [size]


def test_datagrams_arrive_whole_as_fragments_and_from_one_super_frame(lab: Lab) -> None:
    receive = (
        "import socket; s = socket.socket(type=socket.SOCK_DGRAM); "
        "s.bind(('10.1.0.12', 7000)); s.settimeout(60); "
        "print('bound', flush=True); print(*[len(s.recv(65536)) for _ in range(7)])"
    )
    send_all = (
        "import socket; s = socket.socket(type=socket.SOCK_DGRAM); "
        "s.connect(('10.1.0.12', 7000)); s.send(bytes(1000)); s.send(bytes(4000)); "
        "s.setsockopt(17, 103, 1200); s.send(bytes(6000))"  # SOL_UDP, UDP_SEGMENT: linux/udp.h
    )
    host = lab.host("a")
    log = host.log("receiver")
    command = ["ip", "netns", "exec", "vm2", sys.executable, "-c", receive]
    receiver = host.start("receiver", *command)
    wait_until(lambda: log.read_text() == "bound\n", LIMIT_S, receiver.last_line)
    shell(lab, "a/vm1").output(sys.executable, "-c", send_all)
    wait_until(lambda: not receiver.alive(), 2 * LIMIT_S, receiver.last_line)
    assert sorted(log.read_text().split()[1:]) == ["1000", *["1200"] * 5, "4000"]


def test_only_the_gateway_answers_for_its_address(lab: Lab) -> None:
    """The host's stack must not answer from the VM's port as well."""
    vm = shell(lab, "a/vm1")
    mac = shell(lab, "a").json("ip", "-json", "link", "show", "br-provider")[0]["address"]
    vm.output("ip", "neighbour", "flush", "dev", "eth0")
    host = lab.host("a")
    log = host.log("tcpdump")
    command = ["ip", "netns", "exec", "vm1", "tcpdump", "-nlU", "-i", "eth0", "-Q", "in", "arp"]
    capture = host.start("tcpdump", *command)
    wait_until(lambda: "listening on" in log.read_text(), LIMIT_S, capture.last_line)
    vm.output("ping", "-n", "-c", "3", "-i", "0.2", "-W", "20", "10.1.0.1")
    capture.signal("INT")
    wait_until(lambda: not capture.alive(), LIMIT_S, capture.last_line)
    answers = re.findall(r"Reply 10\.1\.0\.1 is-at ([0-9a-f:]+)", log.read_text())
    assert set(answers) == {mac}  # twice if it is asked again


def test_a_pulled_wire_has_no_carrier_at_either_end(lab: Lab, wire: dict[str, Any]) -> None:
    assert wire["carrier"] is True
    assert fedsdn("link", "--name", lab.name, WIRE, "down").returncode == 0
    wait_for_link_state(lab, "down")
    assert lab.wires()[WIRE]["carrier"] is False
    assert link_state(lab, "a", "up2") == "up"
    assert fedsdn("link", "--name", lab.name, WIRE, "up").returncode == 0
    wait_for_link_state(lab, "up")


def test_link_changes_delay_rate_and_loss(lab: Lab, wire: dict[str, Any]) -> None:
    for change, value in (("delay", "1.5"), ("rate", "12"), ("loss", "0.5")):
        assert fedsdn("link", "--name", lab.name, WIRE, change, value).returncode == 0
    after = lab.wires()[WIRE]
    assert (after["delay_ms"], after["rate_mbit"], after["loss_percent"]) == (1.5, 12, 0.5)
    assert wire["delay_ms"] == 15


def test_a_round_trip_is_no_shorter_than_the_delay_both_ways(
    lab: Lab, wire: dict[str, Any]
) -> None:
    sent = {end: counters["bytes"] for end, counters in wire["sent"].items()}
    lab.change_wire(WIRE, delay_ms=50)
    said = ping(lab, 5, 60)
    times = [
        float(line.split("time=")[1].split()[0]) for line in said.splitlines() if "time=" in line
    ]
    assert len(times) == 5
    assert min(times) >= 100
    for end, counters in lab.wires()[WIRE]["sent"].items():
        assert counters["bytes"] >= sent[end] + 5 * 98  # an echo is a frame of 98 bytes


def test_a_wire_that_loses_everything_carries_nothing(lab: Lab, wire: dict[str, Any]) -> None:
    assert wire["loss_percent"] == 0
    lab.change_wire(WIRE, loss_percent=100)
    assert "100% packet loss" in ping(lab, 3, 2)
    lab.change_wire(WIRE, loss_percent=0)
    assert set(re.findall(r"icmp_seq=(\d)", ping(lab, 3, 60))) == {"1", "2", "3"}


def ping(lab: Lab, number: int, seconds: int) -> str:
    """Ping over the wire, from a's proxy to b's, until so many are answered, or for so long."""
    prefix = (*lab.host("a").prefix, "ip", "netns", "exec", "fedsdn")
    command = ["ping", "-n", "-c", str(number), "-i", "0.2", "-w", str(seconds), "192.0.2.2"]
    return subprocess.run([*prefix, *command], capture_output=True, text=True, check=False).stdout
