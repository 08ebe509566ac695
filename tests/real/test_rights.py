"""What fedsdn's processes may do, and who may do what with its files and sockets, on a host."""

from __future__ import annotations

import shlex
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fedsdn import users
from fedsdn.users import PROXY_USER
from tests.real.sandbox import in_sandbox, settings_of
from tests.real.site_host import BRIDGE, Program, SiteHost, federation, wait_until
from tests.real.test_site_bridge import own

pytestmark = pytest.mark.real

NOBODY = "setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all"
WORKERS = 2
PORT = 443
"""Of peers: below 1024, which takes a right of its own."""

CONFIG = "--config-file=/run/fedsdn.conf"


@dataclass(frozen=True, slots=True)
class Running:
    """The programs of a site, each in its unit's sandbox."""

    application: Program
    proxy: Program


@pytest.fixture(scope="module")
def host() -> Iterator[SiteHost]:
    with SiteHost() as host:
        yield host


@pytest.fixture(scope="module")
def running(host: SiteHost) -> Iterator[Running]:
    host.write(replace(federation(), proxy_port=PORT))
    host.up()
    with (
        host.program(*in_sandbox("fedsdn-app", "osken-manager", CONFIG, "fedsdn.app")) as app,
        host.program(
            *in_sandbox("fedsdn-proxy", "fedsdn", "proxy", "run", CONFIG, f"--workers={WORKERS}")
        ) as proxy,
    ):
        wait_until(lambda: own(host) != [] and len(workers(proxy)) == WORKERS)
        wait_until(lambda: host.inside("ss -Hltn").count(f":{PORT} ") == WORKERS)
        wait_until((host.run_directory / "fedsdn/uplinks.json").exists)
        yield Running(app, proxy)


def children(process: int) -> list[int]:
    listed = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(child) for child in listed.split()]


def first_process(program: Program) -> int:
    """The one behind nsenter."""
    (process,) = children(program.pid)
    return process


def workers(proxy: Program) -> list[int]:
    return [child for one in children(proxy.pid) for child in children(one)]


def status(process: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return {name: words.split() for name, _, words in (line.partition(":") for line in lines)}


def bits(numbers: frozenset[users.Capability]) -> str:
    return f"{sum(1 << number for number in numbers):016x}"


def test_workers_are_a_user_of_their_own_with_three_capabilities(running: Running) -> None:
    for process in workers(running.proxy):
        found = status(process)
        assert found["Uid"] == found["Gid"] == [str(PROXY_USER)] * 4
        assert found["Groups"] == []
        assert found["CapEff"] == found["CapPrm"] == [bits(users.WORKER)]
        assert found["CapInh"] == found["CapAmb"] == [bits(frozenset())]
        assert found["NoNewPrivs"] == ["1"]


def test_the_first_process_has_given_up_what_it_entered_the_namespace_with(
    running: Running,
) -> None:
    found = status(first_process(running.proxy))
    for kind in ("CapEff", "CapPrm", "CapBnd"):
        assert found[kind] == [bits(users.FIRST_PROCESS)], kind


@pytest.mark.usefixtures("running")
def test_the_application_probes_from_a_port_below_1024(host: SiteHost) -> None:
    wait_until(lambda: len(host.inside(f"ss -Hlun sport = :{PORT}").splitlines()) == 2)


def test_a_reload_and_new_workers_have_no_more(host: SiteHost, running: Running) -> None:
    before = set(workers(running.proxy))
    assert host.output("fedsdn proxy reload").startswith("reloaded: 2 workers")
    wait_until(lambda: not before & set(workers(running.proxy)))
    for process in workers(running.proxy):
        assert status(process)["CapPrm"] == [bits(users.WORKER)]
    found = status(first_process(running.proxy))
    for kind in ("CapEff", "CapPrm", "CapBnd"):
        assert found[kind] == [bits(users.FIRST_PROCESS)], kind


ROOT, PROXY = 0, PROXY_USER
OWNERS = {
    "fedsdn": (stat.S_IFDIR, 0o711, ROOT, ROOT),
    "fedsdn/application.lock": (stat.S_IFREG, 0o600, ROOT, ROOT),
    "fedsdn/channel.sock": (stat.S_IFSOCK, 0o660, ROOT, PROXY),
    "fedsdn/proxy.lock": (stat.S_IFREG, 0o600, ROOT, ROOT),
    "fedsdn/proxy.sock": (stat.S_IFSOCK, 0o600, ROOT, ROOT),
    "fedsdn/proxy-ended.sock": (stat.S_IFSOCK, 0o600, ROOT, ROOT),
    "fedsdn/site.json": (stat.S_IFREG, 0o600, ROOT, ROOT),
    "fedsdn/uplinks.json": (stat.S_IFREG, 0o600, ROOT, ROOT),
    "identity": (stat.S_IFDIR, 0o755, ROOT, ROOT),
}
"""Type, mode, owner and group of everything that fedsdn makes, beside single identities."""

OF_AN_IDENTITY = {
    ".pem": (stat.S_IFREG, 0o644, ROOT, ROOT),
    "-tls.key": (stat.S_IFREG, 0o600, PROXY, PROXY),
    "-probes.key": (stat.S_IFREG, 0o600, ROOT, ROOT),
    "-tunnels.key": (stat.S_IFREG, 0o600, ROOT, ROOT),
}


def expected(name: str) -> tuple[int, int, int, int]:
    if name.startswith("identity/"):
        (ending,) = (ending for ending in OF_AN_IDENTITY if name.endswith(ending))
        return OF_AN_IDENTITY[ending]
    return OWNERS[name]


def found_at(path: Path) -> tuple[int, int, int, int]:
    found = path.lstat()
    return stat.S_IFMT(found.st_mode), stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid


@pytest.mark.usefixtures("running")
def test_modes_and_owners_of_all_that_fedsdn_makes(host: SiteHost) -> None:
    run = host.run_directory
    tops = [run / "fedsdn", run / "identity"]
    files = [*tops, *(file for top in tops for file in top.rglob("*"))]
    names = {str(file.relative_to(run)) for file in files if file.suffix != ".new"}
    assert OWNERS.keys() <= names
    for name in names:
        assert found_at(run / name) == expected(name), name


def connecting(path: str) -> str:
    return f"python3 -c 'import socket; socket.socket(1).connect(\"{path}\")'"


AS_NOBODY = {
    "the channel": connecting("/run/fedsdn/channel.sock"),
    "the proxy's counters": connecting("/run/fedsdn/proxy.sock"),
    "the bridge, as the application": connecting(f"/run/openvswitch/{BRIDGE}.mgmt"),
    "another bridge in its place": f"mv /run/openvswitch/{BRIDGE}.mgmt /run/openvswitch/other",
    "the lock that flow changes wait for": "flock --exclusive /run/fedsdn true",
    "a private key": "cat /run/identity/*.key",
    "what the uplinks are like": "cat /run/fedsdn/uplinks.json",
}


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("door", AS_NOBODY)
def test_another_user_of_the_host_finds_no_door(host: SiteHost, door: str) -> None:
    refused = host.run(f"{NOBODY} {AS_NOBODY[door]}")
    assert refused.returncode != 0
    assert "ermission denied" in refused.stderr


@pytest.mark.usefixtures("running")
def test_a_support_bundle_is_for_who_made_it(host: SiteHost) -> None:
    bundle = host.run_directory / "bundle.tar.gz"
    bundle.touch(0o644)
    host.output(f"fedsdn support-bundle {CONFIG} /run/bundle.tar.gz")
    assert stat.S_IMODE(bundle.stat().st_mode) == 0o600


def test_a_federation_file_that_workers_cannot_read_is_refused(
    host: SiteHost, running: Running
) -> None:
    file = host.run_directory / "federation.yaml"
    file.chmod(0o600)
    refused = host.run(f"fedsdn proxy run --check {CONFIG}")
    assert refused.returncode == 78
    assert refused.stderr == (
        "fedsdn: /run/federation.yaml: has mode 0600, so that the proxy's workers (user 60911) "
        "cannot read it: run 'chmod 644 /run/federation.yaml', it holds no secret\n"
    )
    file.chmod(0o644)
    assert running.proxy.poll() is None


def test_a_directory_that_workers_cannot_go_through_is_refused(
    host: SiteHost, running: Running
) -> None:
    """As /etc/fedsdn is after 'identity init' of a root whose umask is 077, of a version before."""
    before = host.run_directory / "closed"
    before.mkdir(0o700)
    host.output("cp -a /run/federation.yaml /run/identity /run/closed")
    settings = "[fedsdn]\nsite = a\nfederation = /run/closed/federation.yaml\n"
    (before / "fedsdn.conf").write_text(settings)
    check = "fedsdn proxy run --check --config-file=/run/closed/fedsdn.conf"
    command = shlex.join(in_sandbox("fedsdn-proxy", *check.split()))
    for path in ("federation.yaml", "identity"):
        refused = host.run(command)
        assert refused.returncode == 78
        assert refused.stderr.startswith(f"fedsdn: /run/closed/{path}: the proxy's workers (user ")
        assert f"'namei -l /run/closed/{path}' shows" in refused.stderr
        before.chmod(0o755)
        (before / "identity").chmod(0o700)
    (before / "identity").chmod(0o755)
    assert host.run(command).returncode == 0
    assert running.proxy.poll() is None


def test_the_application_listens_to_nobody_but_the_workers(
    host: SiteHost, running: Running
) -> None:
    process = f"pid={host_pid(running.application)},"
    listening = host.output("ss -Hlxp; ss -Hltp").splitlines()
    (channel,) = [line for line in listening if process in line]
    assert "/run/fedsdn/channel.sock" in channel
    inside = host.inside("ss -Hltp").splitlines()
    assert [line for line in inside if process in line] == []


def host_pid(program: Program) -> int:
    """The program's number on the host."""
    return int(status(first_process(program))["NSpid"][-1])


OWN_MOUNTS = """
mkdir -p /run/db/unit-root
mount -n --rbind / /run/db/unit-root
cd /run/db/unit-root
mount -n --move . /
exec chroot . "$@"
"""
"""Runs a command as systemd 252 does in a unit that has any setting about mounts (its namespace.c,
``setup_namespace``): what the host has mounted is there twice, the one below the other."""


@contextmanager
def mounts_of_its_own(host: SiteHost) -> Iterator[None]:
    """Have the host's mounts be seen in sandboxes that are made from now on, as systemd does."""
    host.output("mount --make-rshared /")
    try:
        yield
    finally:
        host.output("mount --make-rprivate /")


def as_site_unit(
    host: SiteHost, setting: str, *, fails: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run what the site's unit runs: each command has mounts of its own, with a + too."""
    for command in settings_of("fedsdn-site")[setting]:
        words = command.lstrip("+").replace("/opt/fedsdn/bin/", "").split()
        if not command.startswith("+"):
            words = in_sandbox("fedsdn-site", *words)
        words = ["unshare", "--mount", "--propagation=slave", "sh", "-ec", OWN_MOUNTS, "sh", *words]
        done = host.run(shlex.join(words), FEDSDN_CONFIG_FILE="/run/fedsdn.conf")
        if done.returncode:
            break  # as systemd does
    assert bool(done.returncode) is fails, done.stderr
    return done


@pytest.mark.usefixtures("running")
def test_the_site_s_unit_takes_nothing_from_a_proxy_that_runs(host: SiteHost) -> None:
    refused = as_site_unit(host, "ExecStop", fails=True)
    assert refused.stderr == (
        "fedsdn: processes still run in network namespace fedsdn: the proxy; stop the proxy first\n"
    )
    assert host.differences() == []


def test_the_site_s_unit_makes_and_removes_a_site_without_the_host_s_mounts() -> None:
    with SiteHost() as host, mounts_of_its_own(host):
        before = host.traces()
        for setting in ("ExecStartPre", "ExecStart"):
            as_site_unit(host, setting)
        assert host.differences() == []
        assert host.up() == "site a: nothing to do\n"
        assert as_site_unit(host, "ExecReload").stdout == "site a: nothing to do\n"
        as_site_unit(host, "ExecStop")
        left = host.traces()
        assert left | {"flows": before["flows"]} == before


def test_the_site_s_unit_takes_and_removes_a_namespace_that_is_a_mount_itself() -> None:
    """Of a version before, or of ip-netns(8)."""
    with SiteHost() as host, mounts_of_its_own(host):
        host.up()
        host.output("ip netns delete fedsdn && ip netns add fedsdn")
        for setting in ("ExecStartPre", "ExecStart"):
            as_site_unit(host, setting)
        assert host.differences() == []
        as_site_unit(host, "ExecStop")
        assert host.output("ip netns") == ""
        assert not (host.run_directory / "fedsdn.netns").exists()
        assert list((host.run_directory / "netns").iterdir()) == []


def test_a_namespace_is_removed_however_it_is_mounted() -> None:
    with SiteHost() as host:
        host.up()
        host.output("mount --bind /run/fedsdn.netns /run/fedsdn.netns")
        assert host.down() == "site taken down\n"
        assert not (host.run_directory / "fedsdn.netns").exists()
        host.up()
        host.output("ip netns delete fedsdn && ip netns add fedsdn")
        host.up()
        assert host.down() == "site taken down\n"
        assert list((host.run_directory / "netns").iterdir()) == []
