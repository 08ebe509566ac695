"""A real machine as a lab's host: here a throw-away one, with a stand-in for what it lacks.

This kernel has no netem: ``tc`` is a script that writes down what it was told. What netem does is
seen by ``make vagrant-test``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.conftest import TWO_SITE
from tests.real.site_host import BRIDGE, SiteHost

pytestmark = pytest.mark.real

_TC = '#!/bin/sh\necho "$@" >>/run/tc\n'


@pytest.fixture
def host() -> Iterator[SiteHost]:
    with SiteHost() as host:
        host.output("mkdir /run/bin && cat >/run/bin/tc && chmod +x /run/bin/tc", stdin=_TC)
        yield host


def become(host: SiteHost, topology: Path = TWO_SITE) -> str:
    """Make the host the lab's site a, and return what it said against that."""
    program = (
        "from pathlib import Path; import sys\n"
        "from fedsdn.errors import FedsdnError\n"
        "from fedsdn.lab.this_machine import become_host\n"
        "try: become_host(Path(sys.argv[1]), 'a', Path('/run/settings'))\n"
        "except FedsdnError as error: print(error)"
    )
    return host.output(f"PATH=/run/bin:$PATH; python -c \"{program}\" '{topology}'")


def state(host: SiteHost) -> dict[str, object]:
    return {
        "ports": host.vsctl("_uuid,name,tag", "Port"),
        "links": host.output("ip -br link"),
        "vm1": host.output("ip -n vm1 address; ip -n vm1 route; ip -n vm1 -6 route"),
        "gateways": host.output(f"ip -br address show {BRIDGE}"),
        "settings": host.output("cat /run/settings/fedsdn.conf"),
    }


def test_a_machine_becomes_a_host_and_a_second_time_changes_nothing(host: SiteHost) -> None:
    assert become(host) == ""
    before = state(host)
    assert set(host.output(f"ovs-vsctl list-ports {BRIDGE}").split()) >= {"up1", "up2", "vm1"}
    vm = {
        address["local"]
        for link in host.json("ip -json -n vm1 address show eth0")
        for address in link["addr_info"]
    }
    assert vm >= {"10.1.0.11", "fd00:1::11"}
    assert "10.1.0.1/24" in str(before["gateways"])
    told = (host.run_directory / "tc").read_text().splitlines()
    netem = "root netem limit 785 delay 15ms loss 0% rate 100mbit"
    assert told == [f"qdisc replace dev {port} {netem}" for port in ("up1", "up2")]

    assert host.output("ls /run/settings").split() == ["fedsdn.conf"]
    shown = host.output("fedsdn identity init --config-file /run/settings/fedsdn.conf")
    assert shown.startswith("    identity:\n")

    assert become(host) == ""
    assert state(host) == before


def test_a_real_sites_settings_are_left_alone(host: SiteHost) -> None:
    host.output("mkdir /run/settings && echo '[fedsdn]' >/run/settings/fedsdn.conf")
    said = become(host)
    assert said.startswith("/run/settings/fedsdn.conf is somebody's")
    assert len(said.splitlines()) == 1
    assert host.output("cat /run/settings/*") == "[fedsdn]\n"
    assert host.output("ip netns list") == ""


def test_a_missing_interface_is_named(host: SiteHost, tmp_path: Path) -> None:
    topology = tmp_path / "topology.yaml"
    topology.write_text(TWO_SITE.read_text().replace("port: up2", "port: eth9"))
    said = become(host, topology)
    assert said.startswith("site a: found no interface eth9 for uplink up2")
    assert len(said.splitlines()) == 1
