"""What keeps the proxy from starting: one line that says why, and nothing left behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fedsdn.errors import FINAL_STATUS
from tests.real.proxy_net import SiteOfNet, proxy_net
from tests.unit.federations import two_sites

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def site() -> Iterator[SiteOfNet]:
    with proxy_net(two_sites()) as (near, _):
        yield near


@pytest.fixture
def stopped(site: SiteOfNet) -> Iterator[SiteOfNet]:
    """Return a site whose proxy does not run."""
    yield site
    site.write(two_sites())


def refused_start(site: SiteOfNet, *options: str, before: str = "", status: int = 1) -> str:
    """Start the proxy, which is to fail; return the one line that says why."""
    done = site.run(f"{before} fedsdn proxy run {' '.join(options)}")
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("fedsdn: ")
    assert not (site.run_directory / "fedsdn/proxy.sock").exists()
    assert "fedsdn proxy run" not in site.output("ps -eo args")
    return line


def test_a_bad_federation_file_keeps_it_from_starting(stopped: SiteOfNet) -> None:
    (stopped.run_directory / "fedsdn/federation.yaml").write_text("sites: 7\n")
    assert "federation.yaml:1: " in refused_start(stopped, status=FINAL_STATUS)


def test_an_unknown_site_keeps_it_from_starting(stopped: SiteOfNet) -> None:
    assert "unknown site 'x'" in refused_start(stopped, "--site", "x", status=FINAL_STATUS)


@pytest.mark.parametrize("port", [1080, 1081])
def test_a_port_that_is_taken_keeps_it_from_starting(stopped: SiteOfNet, port: int) -> None:
    taker = stopped.proxy.open("::1")
    with taker:
        taker.bind(("::1", port))
        taker.listen()
        line = refused_start(stopped)
    assert f"cannot listen on TCP port {port} (Address already in use)" in line


def test_mptcp_switched_off_keeps_it_from_starting(stopped: SiteOfNet) -> None:
    stopped.inside("sysctl -qw net.mptcp.enabled=0")
    try:
        line = refused_start(stopped)
    finally:
        stopped.inside("sysctl -qw net.mptcp.enabled=1")
    assert "MPTCP is off in namespace fedsdn; run 'fedsdn site up'" in line


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("setpriv --reuid=65534 --clear-groups", "network namespace fedsdn cannot be entered"),
        ("setpriv --bounding-set=-net_admin,-net_raw", "port 1081 (Operation not permitted)"),
    ],
)
def test_missing_rights_keep_it_from_starting(stopped: SiteOfNet, before: str, said: str) -> None:
    line = refused_start(stopped, before=before)
    assert said in line
    assert "root" in line
