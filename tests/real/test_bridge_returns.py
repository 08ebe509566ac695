"""Whatever becomes of the bridge, of Open vSwitch or of the bridge's settings: our flows are back.

How soon is measured by ``fedsdn bench repair``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from fedsdn.inspect.flows.pipeline_document import own_flows
from tests.real.site_host import BRIDGE, SiteHost, federation, wait_until
from tests.real.test_others_flows import DUMP, own, start_application

pytestmark = pytest.mark.real

DATABASE = (
    "ovsdb-server /run/db/conf.db --remote=punix:/run/openvswitch/db.sock --pidfile --detach "
    "--no-chdir --log-file=/run/db/ovsdb-server.log"
)
GONE = "start Open vSwitch, or add"
SWITCH = "ovs-vswitchd --pidfile --detach --no-chdir --log-file=/run/db/vswitchd.log"


@pytest.fixture(scope="module")
def host() -> Iterator[SiteHost]:
    """A site whose application runs."""
    with SiteHost() as one:
        one.up()
        start_application(one, federation())
        yield one


def present(host: SiteHost) -> int:
    """Count our flows; none while there is no bridge."""
    return len(own_flows(host.run(DUMP).stdout.splitlines()))


def vsctl(host: SiteHost, command: str) -> None:
    host.output(f"ovs-vsctl {command.replace('BRIDGE', BRIDGE)}")


def restart_switch(host: SiteHost) -> None:
    host.end("ovs-vswitchd")
    host.start_switch()


def restart_both(host: SiteHost) -> None:
    """The database goes first and comes last: ovs-vswitchd waits for it."""
    host.end("ovsdb-server")
    host.end("ovs-vswitchd")
    host.output(f"{SWITCH} >/dev/null 2>&1 &")
    host.output(DATABASE)


def make_again(host: SiteHost) -> None:
    vsctl(host, "del-br BRIDGE")
    wait_until(lambda: not (host.run_directory / f"openvswitch/{BRIDGE}.mgmt").exists())
    vsctl(
        host,
        "add-br BRIDGE -- set-fail-mode BRIDGE secure -- set Bridge BRIDGE datapath_type=netdev "
        "-- add-port BRIDGE up1 -- add-port BRIDGE up2",
    )
    host.up()


def take_protocol_away(host: SiteHost) -> None:
    vsctl(host, "set Bridge BRIDGE protocols=OpenFlow10")
    host.output(f"ovs-ofctl -O OpenFlow10 del-flows {BRIDGE}")
    vsctl(host, "set Bridge BRIDGE protocols=OpenFlow10,OpenFlow13")


def overwrite_controllers(host: SiteHost) -> None:
    """The first one has Open vSwitch delete all flows, and so has the loss of the last."""
    vsctl(host, "set-controller BRIDGE tcp:127.0.0.1:6633 -- set-fail-mode BRIDGE secure")


def take_controllers_away(host: SiteHost) -> None:
    vsctl(host, "del-controller BRIDGE")


def change_fail_mode(host: SiteHost) -> None:
    vsctl(host, "set-fail-mode BRIDGE standalone")
    vsctl(host, "set-fail-mode BRIDGE secure")


@pytest.mark.parametrize(
    "happens",
    [
        overwrite_controllers,
        take_controllers_away,
        change_fail_mode,
        take_protocol_away,
        restart_switch,
        restart_both,
        make_again,
    ],
)
def test_our_flows_are_back(host: SiteHost, happens: Callable[[SiteHost], None]) -> None:
    count = len(own(host))
    assert count == len(host.wanted_flows(federation()))
    happens(host)
    wait_until(lambda: present(host) == count)


def test_ports_follow_the_database_after_its_restart(host: SiteHost) -> None:
    host.end("ovsdb-server")
    host.output(DATABASE)
    count = len(own(host))
    host.output(f"ovs-vsctl add-port {BRIDGE} vm7 -- set Interface vm7 type=internal")
    wait_until(lambda: len(own(host)) == count + 1)


def test_a_bridge_that_is_gone_is_named(host: SiteHost) -> None:
    """By the log and by status; the uplinks' ports are unknown then."""
    before = host.output("cat /run/app.log").count(GONE)
    host.end("ovs-vswitchd")
    wait_until(lambda: host.output("cat /run/app.log").count(GONE) > before)
    wait_until(lambda: '"up"' not in ports(host))
    said = host.run("fedsdn status --config-file /run/fedsdn.conf")
    assert said.returncode == 1
    assert "✗ bridge" in said.stdout
    host.start_switch()
    wait_until(lambda: ports(host).count('"up"') == 2)


def ports(host: SiteHost) -> str:
    """Return what the application reports."""
    return host.output("cat /run/fedsdn/uplinks.json")
