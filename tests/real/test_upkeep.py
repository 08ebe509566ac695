"""The application puts back what others change in the proxy's namespace, and says so."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.real.sandbox import in_sandbox
from tests.real.site_host import Program, SiteHost, wait_until
from tests.real.test_site_bridge import own

pytestmark = pytest.mark.real

LOG = "app.log"
INSIDE = "ip netns exec fedsdn"
DAMAGES = {
    "what tells of itself": (
        "ip -n fedsdn route flush table 201",
        "ip -n fedsdn rule flush; ip -n fedsdn -6 rule flush; ip -n fedsdn -6 rule del pref 0",
        "ip -n fedsdn address add 198.51.100.1/24 dev wan-up1",
        "ip -n fedsdn route add default via 192.0.2.9 dev wan-up1 onlink",
        f"{INSIDE} nft delete table inet fedsdn",
        "ip -n fedsdn mptcp endpoint add 198.51.100.1 subflow",
    ),
    "settings": (
        f"{INSIDE} sysctl -q net.ipv4.tcp_mtu_probing=0",
        f"{INSIDE} sysctl -q net.ipv4.conf.all.rp_filter=1",
        f"{INSIDE} sysctl -q net.ipv4.conf.server.arp_ignore=0",
        f"{INSIDE} sysctl -q net.ipv6.conf.wan-up2.disable_ipv6=1",
        f"{INSIDE} nft insert rule inet fedsdn input accept",
    ),
    "interfaces": (
        "ip -n fedsdn link set wan-up1 down",
        "ip -n fedsdn link set server mtu 1400",
        f"{INSIDE} ethtool --offload socksifier tx on",
        "ip -n fedsdn link delete held",
    ),
    "wires": (
        "ip -n fedsdn link delete wan-up2",
        "ip link set server down",
        "ip link set wan-up1 mtu 1600",
        "ip -n fedsdn link add other type veth peer name another",
    ),
    "addresses": (
        "ip -n fedsdn address flush dev wan-up1",
        "ip -n fedsdn -6 address flush dev socksifier scope global",
        "ip -n fedsdn mptcp endpoint flush",
    ),
    "a neighbour that is gone": ("ip -n fedsdn neigh del 192.0.2.2 dev wan-up1",),
    "neighbours": (
        "ip -n fedsdn neigh replace 192.0.2.2 lladdr 02:00:00:00:00:66 dev wan-up1",
        "ip -n fedsdn neigh add 192.0.2.9 lladdr 02:00:00:00:00:66 dev wan-up1",
    ),
}
PARTS = {
    *("routes", "rules", "packet filter", "addresses", "interfaces", "sysctls", "ports"),
    *("interfaces' sysctls", "MPTCP endpoints", "neighbours"),
}


@pytest.fixture(scope="module")
def host() -> Iterator[SiteHost]:
    with SiteHost() as host:
        host.up()
        yield host


@pytest.fixture(scope="module")
def application(host: SiteHost) -> Iterator[Program]:
    with (
        (host.run_directory / LOG).open("w") as log,
        host.program(
            *in_sandbox(
                "fedsdn-app", "osken-manager", "--config-file=/run/fedsdn.conf", "fedsdn.app"
            ),
            stderr=log,
        ) as program,
    ):
        wait_until(lambda: len(own(host)) > 50)
        yield program


def said(host: SiteHost) -> list[str]:
    return (host.run_directory / LOG).read_text().splitlines()


@pytest.mark.usefixtures("application")
@pytest.mark.parametrize("kind", DAMAGES)
def test_what_somebody_changes_is_put_back(host: SiteHost, kind: str) -> None:
    host.output("; ".join(DAMAGES[kind]))
    wait_until(lambda: host.differences() == [])
    assert host.up() == "site a: nothing to do\n"


def test_each_part_is_said_in_a_line(host: SiteHost, application: Program) -> None:
    for part in PARTS:
        text = f"put back {part} of network namespace fedsdn: changed by somebody else"
        wait_until(lambda text=text: any(text in line for line in said(host)))  # type: ignore[misc]
    put_back = [line for line in said(host) if "put back" in line]
    assert len(put_back) <= 2 * len(PARTS)  # damped: one, and one more a minute
    assert application.poll() is None


@pytest.mark.usefixtures("application")
def test_tables_of_others_stay_until_site_up(host: SiteHost) -> None:
    host.inside("nft add table ip somebody")
    host.inside("nft flush table inet fedsdn")
    wait_until(lambda: "socket transparent" in host.inside("nft list ruleset"))
    assert "table ip somebody" in host.inside("nft list ruleset")
    host.up()
    assert "table ip somebody" not in host.inside("nft list ruleset")


def test_an_operator_is_not_disturbed(host: SiteHost, application: Program) -> None:
    """Somebody changes something all the time: commands end, and the application does not."""
    loop = (
        f"while :; do ip -n fedsdn rule flush; {INSIDE} nft flush ruleset; sleep 0.05; "
        "ip -n fedsdn link delete held; ip -n fedsdn link set server down; sleep 0.05; done"
    )
    with host.program("sh", "-c", loop, stderr=subprocess.DEVNULL):
        for _ in range(3):
            done = host.site("up")
            assert done.returncode == 0 or "cannot be set up" in done.stderr.splitlines()[-1]
    host.up()
    assert application.poll() is None
    host.down()
    assert host.json("ip -json netns") == []
    assert host.site("down").stdout == "nothing to do\n"
    host.up()
    wait_until(lambda: host.differences() == [])
    host.output("ip -n fedsdn rule flush")
    wait_until(lambda: host.differences() == [])


_PUT_BACK = """
from pathlib import Path
from fedsdn.config.loader import load_federation
from fedsdn.site import record, setup
from fedsdn.site.plan import site_plan
federation = load_federation(Path("/run/federation.yaml"))
facts, _ = record.applied() or (None, "")
print(setup.put_back(site_plan(federation, federation.site("a"), facts), frozenset(setup.Part)))
"""


def test_nothing_is_put_back_by_another_plan(host: SiteHost) -> None:
    """The file has changed, and nobody has run ``site up`` yet."""
    (host.run_directory / "put_back.py").write_text(_PUT_BACK)
    host.up()
    assert host.output("python3 /run/put_back.py") == "()\n"
    file = host.run_directory / "federation.yaml"
    before = file.read_text()
    file.write_text(before.replace("10.2.0.0/24", "10.9.0.0/24").replace("10.2.0.2", "10.9.0.2"))
    done = host.run("python3 /run/put_back.py")
    file.write_text(before)
    assert "set up by another federation file" in done.stderr.splitlines()[-1]
    assert host.differences() == []
    host.down()
    assert host.output("python3 /run/put_back.py") == "None\n"
