"""What a site runs may be started in any order, and once: the services wait, or are refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from fedsdn.errors import FINAL_STATUS
from tests.real.site_host import BRIDGE, Program, SiteHost, federation, wait_until
from tests.real.test_site_bridge import own

pytestmark = pytest.mark.real

APPLICATION = ("osken-manager", "--config-file=/run/fedsdn.conf", "fedsdn.app")
PROXY = ("fedsdn", "proxy", "run", "--config-file=/run/fedsdn.conf", "--drain-seconds=0")
MISSING = "network namespace fedsdn is missing"


class Service:
    """A program and its log."""

    def __init__(self, host: SiteHost, name: str, program: Program) -> None:
        self.host, self.name, self.program = host, name, program

    def said(self, text: str) -> int:
        """How many lines of its log have this text."""
        lines = (self.host.run_directory / self.name).read_text().splitlines()
        return sum(text in line for line in lines)


@contextmanager
def service(host: SiteHost, name: str, command: tuple[str, ...]) -> Iterator[Service]:
    with (
        (host.run_directory / name).open("w") as log,
        host.program(*command, stderr=log) as program,
    ):
        yield Service(host, name, program)


@pytest.fixture(scope="module")
def services() -> Iterator[tuple[SiteHost, Service, Service]]:
    """Start the services first, on a host that has nothing of what they need but the files."""
    with SiteHost(bare=True) as host:
        host.write(federation())
        host.end("ovs-vswitchd")
        with (
            service(host, "application", APPLICATION) as application,
            service(host, "proxy", PROXY) as proxy,
        ):
            wait_until(lambda: application.said(MISSING) > 0 and proxy.said(MISSING) > 0)
            wait_until(lambda: application.said(f"no bridge '{BRIDGE}'") > 0)
            yield host, application, proxy


def test_the_worst_order_of_all(services: tuple[SiteHost, Service, Service]) -> None:
    host, application, proxy = services
    assert "is missing, Open vSwitch has none" in host.site("up").stderr
    host.start_switch()
    host.make_bridge()
    host.up()
    wait_until(lambda: len(own(host)) > 50)
    wait_until(lambda: ":1080" in host.inside("ss -ltn"))
    assert application.said(MISSING) == proxy.said(MISSING) == 1
    assert application.said("stopping on") == proxy.said("stopping") == 0
    assert host.differences() == []


@pytest.mark.parametrize("site", ["a", "b"])
def test_a_second_application_is_refused(
    services: tuple[SiteHost, Service, Service], site: str
) -> None:
    host, application, _ = services
    wanted = federation()
    other = replace(wanted.sites[1].provider_network, bridge="br-other")
    sites = (wanted.sites[0], replace(wanted.sites[1], provider_network=other))
    host.write(replace(wanted, sites=sites))
    channel = (host.run_directory / "fedsdn/channel.sock").stat().st_ino
    done = host.run(f"osken-manager --config-file=/run/fedsdn.conf --fedsdn-site={site} fedsdn.app")
    assert done.returncode == FINAL_STATUS
    (line,) = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert "another application runs on this host (process " in line
    assert ", site a)" in line
    assert (host.run_directory / "fedsdn/channel.sock").stat().st_ino == channel
    assert application.program.poll() is None


def test_a_second_proxy_is_refused(services: tuple[SiteHost, Service, Service]) -> None:
    host, _, proxy = services
    done = host.run(" ".join(PROXY))
    assert done.returncode == 1
    assert "another proxy runs here" in done.stderr.splitlines()[-1]
    assert proxy.program.poll() is None


def test_a_bad_file_ends_a_service_for_good(services: tuple[SiteHost, Service, Service]) -> None:
    host, *_ = services
    for command in (APPLICATION, ("fedsdn", "site", "up", "--config-file=/run/fedsdn.conf"), PROXY):
        option = " --fedsdn-federation=" if command is APPLICATION else " --federation="
        done = host.run(f"{' '.join(command)}{option}/run/nowhere.yaml")
        assert done.returncode == FINAL_STATUS
        (line,) = [line for line in done.stderr.splitlines() if " INFO " not in line]
        assert "/run/nowhere.yaml" in line
