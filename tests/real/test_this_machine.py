"""A real machine as a lab's host: here a throw-away one, with a stand-in for what it lacks.

This kernel has no netem: ``tc`` is a script that writes down what it was told. What netem does is
seen by ``make vagrant-test``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedsdn.config.loader import load_federation
from fedsdn.lab.topology import load_topology
from tests.real.conftest import TWO_SITE
from tests.real.site_host import BRIDGE, COMMANDS, SiteHost

pytestmark = pytest.mark.real

LAB = Path(__file__).parents[2] / "vagrant"
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
        "links": [
            (one["ifname"], one["address"], one["mtu"], "UP" in one["flags"])
            for one in host.json("ip -json link")
        ],
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


_STUBS = {
    "vagrant": "#!/bin/sh\n",
    "sudo": '#!/bin/sh\nexec "$@"\n',
    "systemctl": '#!/bin/sh\necho "$@" >>/run/systemctl\n',
    # ssh -F CONFIG SITE COMMAND...: into the host of the site, through a shell.
    "ssh": '#!/bin/sh\npid=$(cat "$HOSTS/$3")\nshift 3\n'
    'exec nsenter -t "$pid" -n -m -p sh -c "$*"\n',
}


@contextmanager
def machines(directory: Path) -> Iterator[dict[str, SiteHost]]:
    """Two machines for vagrant/federate, and the programs by which it reaches them."""
    for name, text in _STUBS.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)
    with SiteHost(bare=True) as a, SiteHost(bare=True) as b:
        for name, host in (("a", a), ("b", b)):
            (directory / "hosts").mkdir(exist_ok=True)
            (directory / "hosts" / name).write_text(str(host.pid))
            host.output(
                "mkdir -p /run/etc /run/bin && cp -a /etc/. /run/etc && "
                "mount --bind /run/etc /etc && "
                "mount --bind /run/bin /usr/local/bin && mount -t tmpfs none /srv && "
                f"mkdir -p /srv/fedsdn /etc/fedsdn && ln -s {LAB} /srv/fedsdn/vagrant && "
                f"printf '[fedsdn]\\nsite = {name}\\n' >/etc/fedsdn/fedsdn.conf"
            )
        yield {"a": a, "b": b}


def provision(host: SiteHost) -> None:
    """Do the end of what vagrant/provision does."""
    host.output(f"fedsdn identity init && ln -s {COMMANDS}/fedsdn /usr/local/bin/")


def federate(directory: Path) -> subprocess.CompletedProcess[str]:
    work = directory / "lab"
    if not work.exists():
        work.mkdir()
        for name in ("federate", "two-site.yaml"):
            shutil.copy(LAB / name, work)
    return subprocess.run(
        [work / "federate"],
        env={"PATH": f"{directory}:{os.environ['PATH']}", "HOSTS": str(directory / "hosts")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_two_machines_get_the_file_with_the_keys_of_both(tmp_path: Path) -> None:
    with machines(tmp_path) as hosts:
        provision(hosts["a"])
        alone = federate(tmp_path)
        assert (alone.returncode, alone.stderr) == (75, ""), alone
        assert "site b is not there yet" in alone.stdout

        provision(hosts["b"])
        for _ in range(2):
            done = federate(tmp_path)
            assert (done.returncode, done.stderr) == (0, ""), done
        texts = {host.output("cat /etc/fedsdn/federation.yaml") for host in hosts.values()}
        assert len(texts) == 1
        for host in hosts.values():
            checked = json.loads(host.output("fedsdn identity check --json"))
            assert [part["fix"] for part in checked["parts"]] == ["", "", ""]
            assert host.output("cat /run/systemctl").split("\n")[:3] == [
                "reload-or-restart fedsdn-site.service",
                "start fedsdn-app.service",
                "start fedsdn-proxy.service",
            ]
        # 'fedsdn verify --machines' takes the topology with the keys.
        with_keys = load_topology(tmp_path / "lab/.vagrant/two-site.yaml").federation
        file = tmp_path / "federation.yaml"
        file.write_text(texts.pop())
        assert load_federation(file) == with_keys
        assert all(site.identities for site in with_keys.sites)
