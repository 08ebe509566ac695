"""A running site whose file, bridge or namespace changes under it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_interface

import pytest

from fedsdn.config.model import Federation, Uplink
from tests.real.site_host import BRIDGE, LIMIT_S, SiteHost, federation, wait_until
from tests.real.test_site_bridge import application, dump, has_miss, own

pytestmark = pytest.mark.real


@pytest.fixture
def host() -> Iterator[SiteHost]:
    with SiteHost() as host:
        host.up()
        yield host


def with_bridge(name: str) -> Federation:
    wanted = federation()
    site, peer = wanted.sites
    provider = replace(site.provider_network, bridge=name)
    return replace(wanted, sites=(replace(site, provider_network=provider), peer))


def with_third_uplink() -> Federation:
    wanted = federation()
    site, peer = wanted.sites
    third = Uplink("up3", "far1", ip_interface("192.0.2.101/24"))
    return replace(wanted, sites=(replace(site, uplinks=(*site.uplinks, third)), peer))


@pytest.mark.parametrize(
    ("wanted", "trouble", "said"),
    [
        (federation(table_miss="none"), "true", f"bridge {BRIDGE} has no table-miss flow"),
        (with_third_uplink(), "true", "port far1 of uplink up3 is on no bridge"),
        (with_bridge("br-x"), "true", "bridge br-x of site a is missing"),
        (with_bridge("br-x"), "ovs-vsctl add-br br-x", "port up1 of uplink up1 is on bridge br-p"),
        (
            with_third_uplink(),
            f"ip link add wan-up3 type veth peer name other3 && ovs-vsctl add-port {BRIDGE} far1",
            "interface wan-up3 is already there and was not made by 'fedsdn site up'",
        ),
    ],
)
def test_the_application_refuses_what_site_up_refuses(
    host: SiteHost, wanted: Federation, trouble: str, said: str
) -> None:
    with application(host) as program:
        host.output(trouble)
        wait_until(lambda: len(own(host)) == len(host.wanted_flows(federation())))
        before = dump(host)
        host.write(wanted)
        refused = host.site("up")
        assert refused.returncode == 1
        assert said in refused.stderr
        assert program.stdout is not None
        complaint = next(line for line in program.stdout if "keeping the federation" in line)
        assert refused.stderr.strip().removeprefix("fedsdn: ") in complaint
        assert dump(host) == before


def test_what_was_refused_is_taken_up_once_the_host_is_ready(host: SiteHost) -> None:
    with application(host) as program:
        wait_until(lambda: len(own(host)) > 50)
        host.write(with_third_uplink())
        assert program.stdout is not None
        assert next(line for line in program.stdout if "keeping the federation" in line)
        host.output(f"ovs-vsctl add-port {BRIDGE} far1 tag=4003")
        host.up()
        wait_until(lambda: len(own(host)) == len(host.wanted_flows(with_third_uplink())))


def test_the_application_goes_over_to_another_bridge_after_site_up(host: SiteHost) -> None:
    """It goes on with the old one until then, and needs no restart."""
    with application(host) as program:
        wait_until(lambda: len(own(host)) > 50)
        wanted = len(own(host))
        ports = " ".join(f"-- add-port br-x {port}" for port in ("up1", "up2"))
        leave = " ".join(f"-- del-port {BRIDGE} {port}" for port in ("up1", "up2"))
        host.output(
            "ovs-vsctl add-br br-x -- set-fail-mode br-x secure "
            f"-- set Bridge br-x datapath_type=netdev {leave} {ports}"
        )
        host.write(with_bridge("br-x"))
        assert program.stdout is not None
        complaint = next(line for line in program.stdout if "keeping the federation" in line)
        assert "run 'fedsdn site up'" in complaint
        host.up()
        wait_until(lambda: len(own(host, "br-x")) == wanted)
        assert own(host) == []
        assert program.poll() is None


def test_our_table_miss_flow_stays_until_another_owner_has_his(host: SiteHost) -> None:
    """An application that starts with a file of table_miss none cuts nobody off, either."""
    with application(host):
        wait_until(lambda: has_miss(own(host)))
    host.write(federation(table_miss="none"))
    with application(host):
        host.output(f"ovs-ofctl del-flows {BRIDGE} table=110")
        wait_until(lambda: any("table=110" in flow for flow in own(host)))
        assert has_miss(own(host))


def test_the_proxy_refuses_what_site_up_refuses(host: SiteHost) -> None:
    command = ["fedsdn", "proxy", "run", "--config-file=/run/fedsdn.conf", "--workers=1"]
    with host.program(*command, stderr=subprocess.STDOUT) as proxy:
        wait_until(lambda: host.run("fedsdn proxy stats").returncode == 0)
        host.write(with_third_uplink())
        proxy.send_signal(signal.SIGHUP)
        assert proxy.stdout is not None
        complaint = next(line for line in proxy.stdout if "not reloaded" in line)
        assert "port far1 of uplink up3 is on no bridge" in complaint


def test_a_proxy_whose_namespace_is_gone_says_so_and_ends(host: SiteHost) -> None:
    command = ["fedsdn", "proxy", "run", "--config-file=/run/fedsdn.conf", "--workers=1"]
    with host.program(*command, stderr=subprocess.STDOUT) as proxy:
        wait_until(lambda: host.run("fedsdn proxy stats").returncode == 0)
        assert host.site("show").returncode == 0
        proxy.send_signal(signal.SIGSTOP)  # it does not notice for as long as we look
        host.output("ip netns delete fedsdn")
        host.up()
        for look in ("status", "site show", "proxy stats"):
            option = "" if look == "proxy stats" else " --config-file=/run/fedsdn.conf"
            done = host.run(f"fedsdn {look}{option}")
            assert "is not in network namespace fedsdn" in done.stdout + done.stderr, look
            assert "systemctl restart fedsdn-proxy" in done.stdout + done.stderr, look
            assert done.returncode == 1, look
        proxy.send_signal(signal.SIGCONT)
        assert proxy.wait(LIMIT_S) == 1
        assert proxy.stdout is not None
        assert "network namespace fedsdn is another one" in proxy.stdout.read().splitlines()[-1]
    with host.program(*command, stderr=subprocess.STDOUT) as proxy:
        wait_until(lambda: host.run("fedsdn proxy stats").returncode == 0)
        assert host.site("show").returncode == 0


def test_a_proxy_whose_namespace_has_lost_its_name_goes_on(host: SiteHost) -> None:
    """Its ports still lead to it, so connections go on; the site is not as planned."""
    command = ["fedsdn", "proxy", "run", "--config-file=/run/fedsdn.conf", "--workers=1"]
    with host.program(*command, stderr=subprocess.STDOUT) as proxy:
        wait_until(lambda: host.run("fedsdn proxy stats").returncode == 0)
        host.output("ip netns delete fedsdn")
        assert host.site("show").returncode == 1
        with pytest.raises(subprocess.TimeoutExpired):
            proxy.wait(3)
