"""A site joins a running federation and leaves it, as docs/sites.md says; the others see nothing.

A wire each joins site c to a and b, so these get an uplink more. All the time connections between
these two carry data.

``FEDSDN_CONNECTIONS=250 pytest -s -k revoked tests/real/test_sites_come_and_go.py`` has a thousand
of these, and says how soon the connections of a site that is revoked end.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from fedsdn.config.model import Federation
from fedsdn.lab import build, operator
from fedsdn.lab.lab import Lab
from fedsdn.lab.wait import wait_until
from fedsdn.proxy.process.stats_socket import read_ended
from fedsdn.uplinks.status import read_status
from tests.real.test_proxy_lab import LIMIT_SECONDS, Pair, Vm, connections
from tests.real.test_revocation import SOME, SOON_SECONDS, exchange, reset_ends
from tests.real.test_uplinks import Talk, talking

pytestmark = pytest.mark.real

TOPOLOGY = Path(__file__).parents[2] / "topo" / "three-site.yaml"
MANY = int(os.environ.get("FEDSDN_CONNECTIONS", "30"))
"""Connections of each family and direction that are open all the time."""

ORDERS = [("abc", "cab"), ("cab", "abc"), ("bca", "bca")]
"""In which sites join and leave: each of them once first, in the middle, and last."""


def without_c(federation: Federation) -> Federation:
    """What a and b have before c joins: neither c, nor their own uplinks to it."""
    sites = (
        replace(site, uplinks=tuple(one for one in site.uplinks if one.name != "to-c"))
        for site in federation.sites
        if site.name != "c"
    )
    return replace(federation, sites=tuple(sites))


class Operators:
    """Those of the three sites, who do what docs/sites.md says, each when he gets to it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.three = lab.topology.federation
        self.two = without_c(self.three)

    def joins(self, name: str) -> None:
        host = self.lab.host(name)
        operator.write_settings(host, self.three)
        if name != "c":
            host.run("ovs-vsctl", "add-port", "br-provider", "to-c")
            operator.site_up(host)
            return
        operator.site_up(host)
        controller, proxy = operator.start_controller(host), operator.start_proxy(host)
        operator.wait_for_controller(host, self.three.site("c"), controller)
        operator.wait_for_proxy(host, self.three, proxy)

    def leaves(self, name: str) -> None:
        host = self.lab.host(name)
        if name != "c":
            operator.write_settings(host, self.two)
            operator.site_up(host)
            self.wait_for_application(name, self.two)
            host.run("ovs-vsctl", "del-port", "br-provider", "to-c")
            return
        daemons = [host.daemon(one) for one in (operator.PROXY, operator.CONTROLLER)]
        for daemon in daemons:
            daemon.signal("TERM")
        wait_until(
            lambda: not any(daemon.alive() for daemon in daemons),
            LIMIT_SECONDS,
            lambda: "site c does not stop",
        )
        host.run("fedsdn", "site", "down")

    def wait_for_application(self, name: str, federation: Federation) -> None:
        """Wait until a site's application has taken up its file."""
        peers = {peer.name for peer in federation.peers(name)}

        def followed() -> bool:
            status = read_status(self.lab.host(name).run_directory / "fedsdn/uplinks.json")
            return status is not None and {path.peer for path in status.paths} == peers

        wait_until(followed, LIMIT_SECONDS, lambda: f"site {name} does not follow its file")

    def files(self, name: str) -> dict[str, str]:
        """What a site's status says of federation files."""
        shown = self.lab.host(name).run("sh", "-c", "fedsdn status --json || true")
        (line,) = (part for part in json.loads(shown)["parts"] if part["name"] == "files")
        found: dict[str, str] = line
        return found


@pytest.fixture(scope="module")
def operators() -> Iterator[Operators]:
    """Return the operators of a and b, which run without c."""
    name = f"test-sites-{os.getpid()}"
    try:
        operators = Operators(build.up(TOPOLOGY, name))
        for site in "cab":
            operators.leaves(site)
        yield operators
    finally:
        build.down(name)


@pytest.fixture
def between(operators: Operators) -> Iterator[tuple[Talk, list[Pair]]]:
    """Return a transfer between a and b, and open connections both ways; at the end all go on."""
    lab = operators.lab
    with ExitStack() as stack:
        pairs: list[Pair] = []
        for family in (4, 6):
            for near, far in ("ab", "ba"):
                ends = Vm(lab, near, "vm1", family), Vm(lab, far, "vm1", family)
                pairs += stack.enter_context(connections(*ends, count=MANY))
        talk = stack.enter_context(talking(lab, far_vm="vm1"))
        yield talk, pairs
        exchange(pairs)
    for name, peer in ("ab", "ba"):
        socket = lab.host(name).run_directory / "fedsdn/proxy.sock"
        assert [ended for ended in read_ended(socket) if ended.peer == peer] == []


def exchanged(lab: Lab, near: str, far: str, family: int) -> bool:
    """Whether new connections between two sites, by any worker, carry a byte each way."""
    ends = Vm(lab, near, "vm1", family), Vm(lab, far, "vm1", family)
    try:
        with connections(*ends, count=SOME, limit=SOON_SECONDS) as pairs:
            exchange(pairs)
    except OSError:
        return False
    return True


@pytest.mark.parametrize(("joining", "leaving"), ORDERS)
def test_others_connections_go_on_while_a_site_joins_and_leaves(
    operators: Operators, between: tuple[Talk, list[Pair]], joining: str, leaving: str
) -> None:
    talk, pairs = between
    for site in joining:
        operators.joins(site)
        talk.goes_on()
        exchange(pairs)
    for near, far in ("ca", "ac", "cb", "bc"):
        for family in (4, 6):
            wait_until(
                lambda ends=(near, far, family): exchanged(operators.lab, *ends),  # type: ignore[misc]
                LIMIT_SECONDS,
                lambda: f"no connections between {near} and {far}",  # noqa: B023 -- called at once
            )
    for site in leaving:
        operators.leaves(site)
        talk.goes_on()
        exchange(pairs)


def test_a_site_that_is_revoked_loses_its_connections_and_nobody_else_does(
    operators: Operators, between: tuple[Talk, list[Pair]]
) -> None:
    """Its peer's file has it no more; it goes on with its own."""
    talk, pairs = between
    lab = operators.lab
    for site in "abc":
        operators.joins(site)
    for near, far in ("ca", "ac"):
        for family in (4, 6):
            wait_until(
                lambda ends=(near, far, family): exchanged(lab, *ends),  # type: ignore[misc]
                LIMIT_SECONDS,
                lambda: f"no connections between {near} and {far}",  # noqa: B023 -- called at once
            )
    with ExitStack() as stack:
        doomed: list[Pair] = []
        for near, far in ("ca", "ac"):
            ends = Vm(lab, near, "vm1", 4), Vm(lab, far, "vm1", 4)
            doomed += stack.enter_context(connections(*ends, count=10))
        exchange(doomed)
        began = time.monotonic()
        operator.write_settings(lab.host("a"), operators.two)
        assert [reset_ends(pair) for pair in doomed] == [(True, True)] * len(doomed)
        seconds = time.monotonic() - began
        print(f"{len(doomed)} reset within {seconds:.2f} s, beside {len(pairs)} of others")
        talk.goes_on()
        exchange(pairs)
    for site in "abc":
        operators.leaves(site)


def test_sites_whose_files_differ_are_told_so_until_they_are_the_same(operators: Operators) -> None:
    """Site b is to be told by its peer's probes, and by the command that it is then told to run."""
    operators.wait_for_application("b", operators.two)
    assert operators.files("b")["text"] == "no peer has another"
    operators.joins("a")
    operators.wait_for_application("a", operators.three)
    wait_until(
        lambda: operators.files("b")["text"].startswith("site a's federation file differs"),
        LIMIT_SECONDS,
        lambda: f"site b says {operators.files('b')}",
    )
    log = operators.lab.host("b").log("controller")
    wait_until(
        lambda: "the federation file of a differs from ours" in log.read_text(),
        LIMIT_SECONDS,
        lambda: "it is not in site b's log",
    )
    there = operators.lab.host("a").run_directory / "fedsdn/federation.yaml"
    told = operators.lab.host("b").run(
        "sh", "-c", "fedsdn federation diff /dev/stdin; test $? = 1", stdin=there.read_text()
    )
    assert [line.partition(": ")[0] for line in told.splitlines()] == [
        "site a, uplink to-c",
        "site b, uplink to-c",
        "site c",
    ]
    operators.joins("b")
    wait_until(
        lambda: operators.files("b")["text"] == "no peer has another",
        LIMIT_SECONDS,
        lambda: f"site b says {operators.files('b')}",
    )
    for site in "ab":
        operators.leaves(site)
