"""One lab for all tests that only use it, and names for those that build their own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from fedsdn.lab import build, operator
from fedsdn.lab.lab import Lab
from fedsdn.lab.wait import wait_until
from tests.real.proxy_life import Net, Sites, running
from tests.real.proxy_net import proxy_net
from tests.unit.federations import two_sites

TWO_SITE = Path(__file__).parents[2] / "topo" / "two-site.yaml"
SITE_UP = (sys.executable, "-m", "fedsdn.cli.main", "site", "up")
_NUMBERS = count(1)

# A shell's background job, as these tests may be, ignores SIGINT, and what it starts would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Return a two-site lab that is up; a test that changes it changes it back."""
    name = f"test-{os.getpid()}"
    try:
        yield build.up(TWO_SITE, name)
    finally:
        build.down(name)


@pytest.fixture(scope="module")
def new_proxies(lab: Lab) -> None:
    """Begin without failures: verify looks back ten minutes, into what tests before have broken."""
    for site in lab.topology.sites:
        host = lab.host(site.name)
        proxy = host.daemon(operator.PROXY)
        proxy.signal("TERM")
        wait_until(lambda proxy=proxy: not proxy.alive(), 40, lambda: "a proxy still runs")  # type: ignore[misc]
        operator.wait_for_proxy(host, lab.topology.federation, operator.start_proxy(host))


@pytest.fixture
def lab_name() -> Iterator[str]:
    """Return a name that no other lab has; what is called so is removed afterwards."""
    name = f"test-{os.getpid()}-{next(_NUMBERS)}"
    yield name
    build.down(name)


@pytest.fixture(scope="module")
def sites() -> Iterator[Sites]:
    """Return two sites, for the tests of one file, that have no proxies yet."""
    with proxy_net(two_sites()) as sites:
        yield sites


@pytest.fixture
def net(sites: Sites) -> Iterator[Net]:
    """Return them with proxies that run, whatever the test before has done to those."""
    with running(sites) as net:
        yield net


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> int:
    """Run a test for each IP version."""
    number: int = request.param
    return number
