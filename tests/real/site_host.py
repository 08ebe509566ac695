"""A throw-away host: its own network, mounts, processes and Open vSwitch, at the usual paths."""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

from fedsdn.config.loader import dump_federation
from fedsdn.config.model import Federation, Prefix, ProviderNetwork, Site, Uplink
from fedsdn.ovs.wanted import wanted_flows
from fedsdn.pipeline.flows import Flow
from fedsdn.shell import Shell
from tests.unit.federations import own_identity, write_identity

ROOT = Path(__file__).parents[2]
COMMANDS = Path(sys.executable).parent
BRIDGE = "br-provider"
LIMIT_S = 60.0
_NSENTER = shutil.which("nsenter") or "nsenter"

Done = subprocess.CompletedProcess[str]

_PONG = re.compile(r"^\[([\d.]+)\] \d+ bytes from .* icmp_seq=(\d+) .* time=([\d.]+) ms$", re.M)
"""A line of ping's about an answer: when it came, to which number, after how long."""

_SETTLING = {"LOWER_UP", "NO-CARRIER"}
"""Flags that the kernel changes behind the others, up to a second later (net/core/link_watch.c)."""

_START = """
set -e
mount -t tmpfs none /run
mkdir -p /run/netns /run/openvswitch /run/db /run/wireguard
ip link set lo up
ovsdb-tool create /run/db/conf.db /usr/share/openvswitch/vswitch.ovsschema
ovsdb-server /run/db/conf.db --remote=punix:/run/openvswitch/db.sock --pidfile --detach \
  --no-chdir --log-file=/run/db/ovsdb-server.log
ovs-vsctl --no-wait init
echo ready
sleep infinity &
wait  # and reap, as the first process of its PID namespace
"""


def federation(name: str = "a", peer: str = "b", **provider: Any) -> Federation:  # noqa: ANN401
    """Two sites of two uplinks, one per family, the second uplink of each through a gateway."""
    provider = {"table_miss": "normal"} | provider
    return Federation(
        sites=(_site(name, 1, provider), _site(peer, 2, provider)),
        proxy_port=1080,
    )


def _site(name: str, number: int, provider: Mapping[str, Any]) -> Site:
    return Site(
        name=name,
        provider_network=ProviderNetwork(BRIDGE, **provider),
        prefixes=(
            Prefix(ip_network(f"10.{number}.0.0/24"), ip_address(f"10.{number}.0.2")),
            Prefix(ip_network(f"fd00:{number}::/64"), ip_address(f"fd00:{number}::2")),
        ),
        uplinks=(
            Uplink("up1", "up1", ip_interface(f"192.0.2.{number}/24")),
            Uplink(
                "up2",
                "up2",
                ip_interface(f"2001:db8:{number}::1/64"),
                gateway=ip_address(f"2001:db8:{number}::ff"),
            ),
        ),
        identities=(own_identity(name).identity,),
    )


class Program(subprocess.Popen[str]):
    """A program on a host: signals are for it, not for nsenter, which waits for it."""

    def send_signal(self, sig: int) -> None:
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        wait_until(lambda: self.poll() is not None or children.read_text() != "")
        if self.poll() is not None:
            return
        os.kill(int(children.read_text().split()[0]), sig)
        if sig == signal.SIGCONT:  # nsenter stops with its child
            os.kill(self.pid, sig)


class SiteHost:
    """A host with a bridge of two uplink ports, whose other ends are far1 and far2.

    A ``bare`` one has Open vSwitch, and nothing else yet.
    """

    def __init__(self, *, tso: bool = False, bare: bool = False) -> None:
        spaces = ("--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")
        self._process = subprocess.Popen(
            ["unshare", *spaces, "sh", "-c", _START],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n", self._process.communicate()
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        self.pid = int(children.read_text().split()[0])
        self.run_directory = Path(f"/proc/{self.pid}/root/run")
        self._runners: dict[str, subprocess.Popen[str]] = {}
        self.limit = 120.0
        """Seconds that a command may take."""
        if tso:
            self.output("ovs-vsctl --no-wait set o . other_config:userspace-tso-enable=true")
        self.start_switch()
        if not bare:
            self.make_bridge()

    def make_bridge(self) -> None:
        self.output(
            f"ovs-vsctl add-br {BRIDGE} -- set-fail-mode {BRIDGE} secure "
            f"-- set Bridge {BRIDGE} datapath_type=netdev"
        )
        for number in (1, 2):
            self.output(
                f"ip link add up{number} type veth peer name far{number} && "
                f"ip link set up{number} addrgenmode none && "
                f"ip link set far{number} addrgenmode none && "
                f"ip link set up{number} up && ip link set far{number} up && "
                f"ovs-vsctl add-port {BRIDGE} up{number}"
            )
        self.write(federation())

    def __enter__(self) -> SiteHost:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        for runner in self._runners.values():
            runner.communicate()  # it has ended with the host

    def start_switch(self) -> None:
        self.output("ovs-vswitchd --pidfile --detach --no-chdir --log-file=/run/db/vswitchd.log")

    def end(self, daemon: str) -> None:
        """End ovs-vswitchd or ovsdb-server."""
        pid_file = self.run_directory / "openvswitch" / f"{daemon}.pid"
        pid = pid_file.read_text().strip()
        self.output(f"kill -9 {pid}")
        wait_until(lambda: self.run(f"kill -0 {pid}").returncode != 0)
        pid_file.unlink()

    def run(self, command: str, *, stdin: str = "", **environment: str) -> Done:
        """Run a shell command on the host; the commands of this package are on its PATH."""
        path = f"{COMMANDS}:{os.environ['PATH']}"
        return subprocess.run(
            [_NSENTER, "-t", str(self.pid), "-n", "-m", "-p", "sh", "-c", command],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=self.limit,
            env={"PATH": path, "LANG": "C.UTF-8"} | environment,
        )

    def output(self, command: str, *, stdin: str = "") -> str:
        done = self.run(command, stdin=stdin)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    @contextmanager
    def program(self, *command: str, **options: Any) -> Iterator[Program]:  # noqa: ANN401 -- Popen's
        """Run a program on the host for as long as this lasts, and read what it prints."""
        program = Program(
            [_NSENTER, "-t", str(self.pid), "-n", "-m", "-p", *command],
            env={"PATH": f"{COMMANDS}:{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            text=True,
            **options,
        )
        try:
            yield program
        finally:
            program.terminate()
            try:
                with suppress(ValueError):  # what it printed was read to its end
                    program.communicate(timeout=LIMIT_S)
            except subprocess.TimeoutExpired:
                try:
                    there = self.output("ps -eLo pid,ppid,tid,stat,wchan:24,comm,args")
                finally:
                    program.kill()
                    with suppress(subprocess.TimeoutExpired):
                        program.wait(timeout=LIMIT_S)
                raise AssertionError(f"{command} does not end; what runs is\n{there}") from None

    def inside(self, command: str) -> str:
        """Run a command in the proxy's namespace."""
        return self.output(f"ip netns exec fedsdn {command}")

    def has_programs(self) -> bool:
        """Whether the tunnels are programs': an interface of WireGuard's kind is the kernel's."""
        return self.inside("ip link show type wireguard") == ""

    def json(self, command: str) -> Any:  # noqa: ANN401  (as the command prints it)
        text = self.output(command)
        return json.loads(text) if text.strip() else []

    @property
    def shell(self) -> Shell:
        """Where the host's commands run."""
        return Shell("a", (_NSENTER, "-t", str(self.pid), "-n", "-m", "-p"))

    def wanted_flows(self, wanted: Federation, site: str = "a") -> tuple[Flow, ...]:
        """Return the flows that the application gives the bridge, with the ports it has now."""
        return wanted_flows(self.shell, wanted, site)

    def give_flows(self, wanted: Federation, site: str = "a") -> None:
        """Give the bridge the application's flows, once."""
        flows = "\n".join(map(str, self.wanted_flows(wanted, site)))
        self.output(f"ovs-ofctl -O OpenFlow13 --names add-flows {BRIDGE} -", stdin=flows)

    # What an operator does

    def write(self, wanted: Federation, site: str = "a") -> None:
        """Write the federation file and the host's settings."""
        (self.run_directory / "federation.yaml").write_text(dump_federation(wanted))
        write_identity(self.run_directory, site)
        self.write_settings(site)

    def write_settings(self, site: str) -> None:
        (self.run_directory / "fedsdn.conf").write_text(
            f"[fedsdn]\nsite = {site}\nfederation = /run/federation.yaml\n"
        )

    def site(self, command: str, *, first: str = "", **environment: str) -> Done:
        """Run ``fedsdn site COMMAND``; ``first`` is a program that it runs before."""
        environment = {"FEDSDN_CONFIG_FILE": "/run/fedsdn.conf"} | environment
        [done] = self.fedsdn([f"site {command}"], first=first, environment=environment)
        return done

    def fedsdn(
        self,
        commands: Sequence[str],
        *,
        first: str = "",
        environment: Mapping[str, str] | None = None,
        user: str = "",
    ) -> list[Done]:
        """Run commands of ``fedsdn``, a few at once, in children of one process for each user.

        ``user`` is a command that changes to another user.
        """
        if user not in self._runners:
            self._runners[user] = self._start_runner(user)
        runner = self._runners[user]
        assert runner.stdin is not None
        assert runner.stdout is not None
        words = [shlex.split(command) for command in commands]
        request = {"commands": words, "environment": environment or {}, "first": first}
        runner.stdin.write(f"{json.dumps(request)}\n")
        runner.stdin.flush()
        assert select.select([runner.stdout], [], [], self.limit)[0], f"{commands} do not end"
        ended = json.loads(runner.stdout.readline())
        return [Done(command, *one) for command, one in zip(commands, ended, strict=True)]

    def _start_runner(self, user: str) -> subprocess.Popen[str]:
        program = (*shlex.split(user), sys.executable, "-m", "tests.real.many_commands")
        return subprocess.Popen(
            [_NSENTER, "-t", str(self.pid), "-n", "-m", "-p", *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                "PATH": f"{COMMANDS}:{os.environ['PATH']}",
                "LANG": "C.UTF-8",
                "PYTHONPATH": str(ROOT),
            },
        )

    def up(self) -> str:
        done = self.site("up")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def down(self) -> str:
        done = self.site("down")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def differences(self) -> list[str]:
        """What ``fedsdn site show`` finds different from the plan."""
        answer = json.loads(self.site("show --json").stdout)
        return [f"{item['part']}: {item['text']}" for item in answer["items"] if not item["ok"]]

    # What is there, by other means than the code under test

    def traces(self) -> dict[str, Any]:
        """What ``up`` could leave on the host, as iproute2, nft and Open vSwitch see it."""
        run = self.output(
            "find /run -path /run/db -prune -o -path /run/openvswitch -prune -o -print"
        )
        return {
            "links": sorted(
                (link["ifname"], link["mtu"], sorted(set(link["flags"]) - _SETTLING))
                for link in self.json("ip -json link")
            ),
            "addresses": sorted(
                (link["ifname"], address["local"])
                for link in self.json("ip -json address")
                for address in link["addr_info"]
            ),
            "rules": self.json("ip -json rule") + self.json("ip -json -6 rule"),
            "routes": self.json("ip -json route show table all"),
            "namespaces": [one["name"] for one in self.json("ip -json netns")],
            "nft": self.output("nft list ruleset"),
            "files": sorted(run.splitlines()),
            "ports": self.vsctl("name,tag,trunks,vlan_mode,external_ids", "Port"),
            "interfaces": self.vsctl("name,type,external_ids", "Interface"),
            "controllers": self.vsctl("target,external_ids", "Controller"),
            "bridges": self.vsctl("name,fail_mode,protocols,external_ids", "Bridge"),
            "flows": self.output(f"ovs-ofctl dump-flows --no-stats {BRIDGE}"),
        }

    def inner(self) -> dict[str, Any]:
        """What is in the namespace, with the identifiers that show whether it was made anew."""
        return {
            "addresses": self.output("ip -n fedsdn address"),
            "rules": self.output("ip -n fedsdn rule; ip -n fedsdn -6 rule"),
            "routes": self.output("ip -n fedsdn route show table all"),
            "routes6": self.output("ip -n fedsdn -6 route show table all"),
            "endpoints": self.output("ip -n fedsdn mptcp endpoint"),
            "nft": self.inside("nft --handle --stateless list ruleset"),
            "ports": self.vsctl("_uuid,name,tag,trunks,vlan_mode,external_ids", "Port"),
            "controllers": self.vsctl("_uuid,target,external_ids", "Controller"),
        }

    def vsctl(self, columns: str, table: str) -> list[Any]:
        flows = self.json(f"ovs-vsctl --format=json --columns={columns} list {table}")
        return sorted(flows["data"], key=str)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@contextmanager
def pinging(host: SiteHost, gateway: str, *, every: float, least: int) -> Iterator[None]:
    """See that the host's VM reaches its gateway all the time, with more than ``least`` pings."""
    log = host.run_directory / "db/pings"  # where no test looks for what is left
    command = f"exec ip netns exec vm ping -D -n -i{every} {gateway} >/run/db/pings"

    def answered() -> dict[int, float]:
        """When those were sent that have been answered, by their numbers."""
        found = _PONG.findall(log.read_text())
        return {int(number): float(at) - float(took) / 1000 for at, number, took in found}

    with host.program("sh", "-c", command):
        yield
        # Nobody knows how many are under way: one that is sent later comes behind them.
        ended = time.time()
        wait_until(lambda: max(answered().values(), default=0.0) > ended)
        numbers = answered().keys()
    assert len(numbers) > least
    lost = set(range(1, max(numbers))) - numbers
    assert not lost, f"{len(lost)} of {max(numbers)}: {sorted(lost)[:10]}"
