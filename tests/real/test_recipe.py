"""README's recipe for a real site, word by word, on two bare hosts that are joined by two wires."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest

from fedsdn.config.loader import dump_federation
from tests.real.sandbox import settings_of
from tests.real.site_host import (
    BRIDGE,
    COMMANDS,
    Program,
    SiteHost,
    federation,
    pinging,
    wait_until,
)
from tests.real.test_site_bridge import without_files

pytestmark = pytest.mark.real

README = Path(__file__).parents[2] / "README.md"

UNTAGGED_TOO = True
"""Whether uplinks without tags, on a bridge that is secure from its first moment, are tried, too:
True where our flows keep uplinks apart, whatever their tags."""

MOST_FRAMES = 200
"""In two seconds on one wire or at one VM: probes, pings and ARP are a fifth of it, and one frame
that goes round makes thousands."""

_REPLACED = {
    "python3 -m venv /opt/fedsdn": f"mkdir /opt/fedsdn && ln -s {COMMANDS} /opt/fedsdn/bin",
    "/opt/fedsdn/bin/pip install .": "true",  # this checkout is what the link leads to
    "systemctl daemon-reload": "true",
}
"""What stands for a command that needs the network, or systemd."""


def commands() -> list[str]:
    """All commands of the section, in their order: those of its ``sh`` blocks."""
    text = README.read_text()
    section = text.split("## A real site\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", section, re.MULTILINE | re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines()]


def plain_programs() -> list[str]:
    """The commands that the units run, as the section lists them."""
    (block,) = re.findall(r"^ *```\n( *fedsdn site up.*?)^ *```$", README.read_text(), re.M | re.S)
    return [line.split("#")[0].strip() for line in block.splitlines()]


class Site:
    """One of the hosts, a VM and its gateway, and what runs there."""

    def __init__(self, name: str, host: SiteHost, *, tagged: bool) -> None:
        self.name, self.host, self.tagged = name, host, tagged
        self.number = {"a": 1, "b": 2}[name]
        self.programs: list[Program] = []
        self._ends = ExitStack()
        self.host.output(
            "mkdir /run/etc && cp -a /etc/. /run/etc && mount --bind /run/etc /etc && "
            "mount -t tmpfs none /opt && mkdir /run/checkout"
        )
        self.identity = ""
        """What the federation file is to have of this site's keys, as it was printed."""

    def take_file(self, text: str) -> None:
        """Get the file from whoever writes it for all sites."""
        (self.host.run_directory / "checkout/federation.yaml").write_text(text)

    def follow(self, command: str) -> None:
        """Do what the recipe says."""
        if command.startswith("apt-get install "):
            self.host.output(f"dpkg --status {command.removeprefix('apt-get install ')}")
        elif command.startswith("systemctl enable --now "):
            self.start()
        elif command.startswith("systemctl disable --now "):
            self.stop()
        elif command.endswith("fedsdn identity init"):
            self.identity = self.host.output(command)
        elif command == "systemctl restart fedsdn-app":
            self.restart_application()
        elif command.startswith("systemctl reload "):
            self.reload(command.rsplit(maxsplit=1)[-1])
        else:
            command = _REPLACED.get(command, command).replace("site = a", f"site = {self.name}")
            if not self.tagged:
                command = re.sub(" tag=4[0-9]+", "", command)
            self.host.output(f"cd /run/checkout && {command}")
        if " add-br " in command:
            # The openvswitch module is not to be had here, and the text says what to do then.
            self.host.output(f"ovs-vsctl set bridge {BRIDGE} datapath_type=netdev")
            if not self.tagged:
                self.host.output(f"ovs-vsctl set-fail-mode {BRIDGE} secure")
            self.add_vm()

    def add_vm(self) -> None:
        """Put a VM and its gateway on the bridge, as its owner does, whenever there is one."""
        for name, last in (("vm", 11), ("gw", 1)):
            self.host.output(
                f"ip netns add {name} && ip link add {name} type veth peer eth0 netns {name} && "
                f"ip netns exec {name} ethtool --offload eth0 tx off && "
                f"ip link set {name} up && ip -n {name} link set eth0 up && "
                f"ip -n {name} address add 10.{self.number}.0.{last}/24 dev eth0 && "
                f"ovs-vsctl add-port {BRIDGE} {name}"
            )
        self.host.output(f"ip -n vm route add default via 10.{self.number}.0.1")

    def start(self) -> None:
        site_up, *others = plain_programs()
        self.host.output(f"/opt/fedsdn/bin/{site_up}")
        assert frames_of_two_seconds(self) < MOST_FRAMES, "before the application runs"
        self.programs = [
            self._ends.enter_context(self.host.program(*command.split())) for command in others
        ]
        wait_until(lambda: "table=110" in self.host.output(f"ovs-ofctl dump-flows {BRIDGE}"))
        wait_until(lambda: ":1080" in self.host.inside("ss -ltn"))

    def reload(self, unit: str) -> None:
        for command in settings_of(unit)["ExecReload"]:
            self.host.output(command.lstrip("+"))

    def restart_application(self) -> None:
        application, *_ = self.programs
        application.terminate()
        assert application.wait(60) == 0
        _, command, _ = plain_programs()
        self.programs[0] = self._ends.enter_context(self.host.program(*command.split()))

    def stop(self) -> None:
        for program in reversed(self.programs):
            program.terminate()
            assert program.wait(60) == 0
        self.host.output("/opt/fedsdn/bin/fedsdn site down")

    def counters(self) -> dict[str, int]:
        """Frames that have come in by each wire, and at the VM."""
        shown = {
            "up1": self.host.json("ip -json -statistics link show up1"),
            "up2": self.host.json("ip -json -statistics link show up2"),
            "vm": self.host.json("ip -n vm -json -statistics link show eth0"),
        }
        return {name: link["stats64"]["rx"]["packets"] for name, (link,) in shown.items()}

    def broadcast(self) -> AbstractContextManager[Program]:
        """Have the VM ask for somebody who is not there."""
        command = f"ip netns exec vm ping -q -c3 -i0.3 -W1 10.{self.number}.0.99"
        return self.host.program(*command.split())

    @contextmanager
    def pinging(self) -> Iterator[None]:
        """See that the VM reaches its gateway all the time."""
        with pinging(self.host, f"10.{self.number}.0.1", every=0.05, least=100):
            yield


def frames_of_two_seconds(*sites: Site) -> int:
    """The most that any wire or VM has got in two seconds, in which VMs have broadcast."""
    before, start = [site.counters() for site in sites], time.monotonic()
    with ExitStack() as asking:
        for site in sites:
            asking.enter_context(site.broadcast())
        wait_until(lambda: time.monotonic() > start + 2)
    after, took = [site.counters() for site in sites], time.monotonic() - start
    most = max(
        now[name] - then[name] for now, then in zip(after, before, strict=True) for name in now
    )
    return int(most * 2 / max(took, 2))


def wanted(every: Sequence[Site]) -> str:
    """Two sites whose uplinks share a link each, one of either family, with what was printed."""
    sites = tuple(
        replace(
            site,
            identities=(),
            uplinks=(
                site.uplinks[0],
                replace(
                    site.uplinks[1], address=ip_interface(f"2001:db8::{number}/64"), gateway=None
                ),
            ),
        )
        for number, site in enumerate(federation().sites, 1)
    )
    text = dump_federation(replace(federation(), sites=sites))
    for site in every:
        text = text.replace(f"  {site.name}:\n", f"  {site.name}:\n{site.identity}")
    return text


def hand_out_the_file(step: str, sites: Sequence[Site]) -> None:
    """Write the file for all sites, before they are to have it."""
    if step.startswith("install ") and step.endswith("/etc/fedsdn/federation.yaml"):
        for site in sites:
            site.take_file(wanted(sites))


def join(near: SiteHost, far: SiteHost) -> None:
    """Lay two wires."""
    for name in ("up1", "up2"):
        subprocess.run(
            ["ip", "link", "add", name, "netns", str(near.pid), "type", "veth",
             "peer", name, "netns", str(far.pid)],
            check=True,
        )  # fmt: skip


_SERVE = """
import socket
with socket.create_server(("10.2.0.11", 8000)) as server:
    print("ready", flush=True)
    connection, address = server.accept()
    connection.sendall(address[0].encode() + b" " + bytes(100_000))
"""
_FETCH = """
import socket
with socket.create_connection(("10.2.0.11", 8000), timeout=20) as connection:
    data = b"".join(iter(lambda: connection.recv(65536), b""))
print(data.split()[0].decode(), len(data))
"""


def fetch(a: Site, b: Site) -> str:
    """Move 100 kB from b's VM to a's, over the federation, and say whom the server saw."""
    (b.host.run_directory / "serve.py").write_text(_SERVE)
    (a.host.run_directory / "fetch.py").write_text(_FETCH)
    with b.host.program(*["ip", "netns", "exec", "vm", "python3", "/run/serve.py"]) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        return a.host.output("ip netns exec vm python3 /run/fetch.py")


@pytest.mark.parametrize("tagged", [True, False] if UNTAGGED_TOO else [True])
def test_the_recipe_word_by_word(tagged: bool) -> None:
    steps = commands()
    assert any(step.startswith("systemctl disable") for step in steps)
    with SiteHost(bare=True) as near, SiteHost(bare=True) as far, ExitStack() as pings:
        join(near, far)
        sites = [Site("a", near, tagged=tagged), Site("b", far, tagged=tagged)]
        made: dict[str, dict[str, Any]] = {}
        for step in steps:
            if step.startswith("install -d /etc/fedsdn"):  # the bridge is ready
                assert frames_of_two_seconds(*sites) < MOST_FRAMES, "before"
                for site in sites:
                    made[site.name] = site.host.traces()
                    if tagged:
                        pings.enter_context(site.pinging())
            if step.endswith("fedsdn verify"):
                for site in sites:
                    if not tagged:
                        pings.enter_context(site.pinging())
                assert frames_of_two_seconds(*sites) < MOST_FRAMES, "while it is up"
                assert fetch(*sites).split()[0] == "10.1.0.11"
            if step.startswith("systemctl disable"):
                assert fetch(*sites).split()[0] == "10.1.0.11", "after the upgrade"
            hand_out_the_file(step, sites)
            for site in sites:
                site.follow(step)
        assert frames_of_two_seconds(*sites) < MOST_FRAMES, "after"
        pings.close()
        for site in sites:
            left = site.host.traces()
            if not tagged:  # a bridge that forwarded nothing forwards, and says so
                made[site.name] |= {"flows": left["flows"]}
            assert without_files(left) == without_files(made[site.name])
