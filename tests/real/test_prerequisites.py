"""Every command where something that it needs is missing or damaged: one line, no traceback."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from fedsdn.errors import FINAL_STATUS
from tests.real.site_host import Done, SiteHost

pytestmark = pytest.mark.real

LIMIT_S = 300
CONFIG = "--config-file=/run/fedsdn.conf"
LOOKING = (
    f"status {CONFIG}",
    f"uplinks {CONFIG}",
    f"connections {CONFIG}",
    f"trace 10.1.0.11 10.2.0.11:80 {CONFIG}",
    f"flows dump {CONFIG}",
    f"flows diff {CONFIG}",
    f"site show {CONFIG}",
    "proxy stats",
    f"verify {CONFIG}",
)
OTHERS = (
    "flows render a",
    f"flows render a {CONFIG}",
    "flows dump /run/no.dump",
    "topology check /run/no.yaml",
    "lab status",
    "lab exec a -- true",
    "lab link wire1 down",
    "lab down no-such-lab",
    "verify",
    "verify --lab no-such-lab",
    "verify --machines /run/no.yaml",
    "trace --lab no-such-lab 10.1.0.11 10.2.0.11:80",
)
BUNDLE = (f"support-bundle /run/bundle.tar.gz {CONFIG}",)
OF_A_LAB = ("lab status --name x", "lab link wire1 down --name x", "lab down x")
CHANGING = (f"site up {CONFIG}", f"site down {CONFIG}")
PROXY = (f"proxy run {CONFIG}",)
IDENTITY = tuple(f"identity {word} {CONFIG}" for word in ("check", "show", "rotate", "init"))
NOT_ROOT = "setpriv --reuid=65534 --clear-groups "


@dataclass(frozen=True)
class State:
    """A host in a state, made by ``make``; ``user`` runs the commands."""

    make: Callable[[SiteHost], None]
    commands: tuple[str, ...]
    user: str = ""


def nothing(_host: SiteHost) -> None:
    """Leave the host as it is: not set up, no application, no proxy."""


def set_up(host: SiteHost) -> None:
    host.up()


def no_file(host: SiteHost) -> None:
    host.output("rm /run/federation.yaml")


def no_settings(host: SiteHost) -> None:
    host.output("rm /run/fedsdn.conf")


def no_keys(host: SiteHost) -> None:
    host.output("rm -r /run/identity")


def damaged_keys(host: SiteHost) -> None:
    host.output("for file in /run/identity/*; do echo no key >$file; done")


def no_database(host: SiteHost) -> None:
    host.up()
    host.end("ovsdb-server")
    host.end("ovs-vswitchd")


def no_switch(host: SiteHost) -> None:
    host.up()
    host.end("ovs-vswitchd")


def halted_switch(host: SiteHost) -> None:
    host.up()
    host.output("kill -STOP $(cat /run/openvswitch/ovs-vswitchd.pid)")


def no_bridge(host: SiteHost) -> None:
    host.output("ovs-vsctl del-br br-provider")


def no_namespace(host: SiteHost) -> None:
    host.up()
    host.output("ip netns delete fedsdn")


def files_of(content: bytes) -> Callable[[SiteHost], None]:
    """Every file in which something stands under /run/fedsdn holds this instead."""

    def make(host: SiteHost) -> None:
        host.up()
        for name in ("site.json", "uplinks.json", "proxy.sock", "channel.sock"):
            (host.run_directory / "fedsdn" / name).write_bytes(content)
        lab = host.run_directory / "fedsdn-lab" / "x"
        lab.mkdir(parents=True)
        for name in ("state.json", "topology.yaml", "wan.json"):
            (lab / name).write_bytes(content)

    return make


STATES = {
    "not set up": State(nothing, (*LOOKING, *OTHERS)),
    "set up, and nothing runs": State(set_up, LOOKING),
    "no federation file": State(no_file, (*LOOKING, *CHANGING, *PROXY, *OTHERS[:2], *IDENTITY)),
    "no settings": State(no_settings, (*LOOKING, *CHANGING, *PROXY, *IDENTITY)),
    "no keys": State(no_keys, (*IDENTITY, LOOKING[0])),
    "no keys, and not root": State(no_keys, IDENTITY, NOT_ROOT),
    "damaged keys": State(damaged_keys, (*IDENTITY, LOOKING[0])),
    "no database": State(no_database, (*LOOKING, *BUNDLE, *CHANGING)),
    "no ovs-vswitchd": State(no_switch, (*LOOKING, CHANGING[0])),
    "ovs-vswitchd hangs": State(halted_switch, (LOOKING[0], LOOKING[4])),
    "no bridge": State(no_bridge, (*LOOKING, CHANGING[0])),
    "no namespace": State(no_namespace, LOOKING),
    "not root": State(set_up, (*LOOKING, *CHANGING, *PROXY, *IDENTITY), NOT_ROOT),
    "truncated files": State(files_of(b'{"site": "a", "upl'), (*LOOKING, *OF_A_LAB, *CHANGING)),
    "files of another sort": State(files_of(b"[]\n"), (*LOOKING, *OF_A_LAB, *CHANGING)),
    "files of other fields": State(files_of(b'{"written": 1}\n'), LOOKING),
    "files without text": State(files_of(b"\xff\xfe\x00"), (*LOOKING, *OF_A_LAB, *CHANGING)),
}


@pytest.fixture(params=STATES)
def state(request: pytest.FixtureRequest) -> Iterator[tuple[SiteHost, State]]:
    with SiteHost() as host:
        host.limit = LIMIT_S
        found = STATES[request.param]
        found.make(host)
        yield host, found


def complaint(command: str, done: Done) -> str | None:
    """What is wrong with how a command ended; None if a person can live with it."""
    errors = [line for line in done.stderr.splitlines() if "share a VLAN" not in line]
    if "Traceback" in done.stderr + done.stdout:
        return f"{command}: {done.stderr[-600:]}"
    if done.returncode == 0:
        return None
    if done.returncode in {1, FINAL_STATUS} and len(errors) <= 1 and (errors or done.stdout):
        return None
    return f"{command}: status {done.returncode}, {done.stdout!r}, {errors}"


def test_a_command_ends_in_one_line(state: tuple[SiteHost, State]) -> None:
    host, what = state
    looking = [command for command in what.commands if command not in CHANGING]
    changing = [command for command in CHANGING if command in what.commands]
    ended = host.fedsdn(looking, user=what.user)
    for command in changing:
        ended += host.fedsdn([command], user=what.user)
    complaints = [complaint(*one) for one in zip(looking + changing, ended, strict=True)]
    assert not any(complaints), "\n".join(filter(None, complaints))
