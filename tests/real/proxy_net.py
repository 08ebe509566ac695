"""Two sites' proxies and VMs, joined by plain wires: everything of a site but the bridge.

Each site is a host of its own (network, mounts, processes) with two namespaces in it: ``fedsdn``,
set up by the site's own plan without tunnels, and ``vm``. Without a bridge the VM has one wire to
each of the proxy's ports, and answers on the one that it was asked on. Tests hold the VMs' sockets
themselves.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from fedsdn import namespace
from fedsdn.config.loader import dump_federation, load_federation
from fedsdn.config.model import Federation, Site
from fedsdn.lab.namespaces import Namespace
from fedsdn.mptcp.endpoints import Endpoints
from fedsdn.pipeline.declarations import (
    PROXY_NAMESPACE,
    ROUTER_PORT,
    SERVER_PORT,
    SOCKSIFIER_PORT,
    port_mac,
    wan_port,
)
from fedsdn.proxy.ended.record import Ended
from fedsdn.proxy.process.stats_socket import read_ended, read_statistics
from fedsdn.site import firewall
from fedsdn.site.network import Network
from fedsdn.site.plan import site_plan
from fedsdn.site.sysctls import Sysctl
from tests.real.sandbox import in_sandbox
from tests.real.site_host import wait_until
from tests.unit.federations import write_identity

ROOT = Path(__file__).parents[2]
COMMANDS = Path(sys.executable).parent
LIMIT_S = 60.0
_NSENTER = shutil.which("nsenter") or "nsenter"

_START = """
set -e
mount -t tmpfs none /run
mkdir -p /run/netns /run/fedsdn
ip netns add vm
echo ready
sleep infinity &
wait  # and reap, as the first process of its PID namespace
"""

_VM = """
set -e
ip link set lo up
sysctl -qw net.ipv4.tcp_fwmark_accept=1 net.ipv4.fwmark_reflect=1 net.ipv6.fwmark_reflect=1
sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
nft 'table inet steer {{ chain arriving {{ type filter hook prerouting priority mangle; }}; }};
  add rule inet steer arriving iifname "server" meta mark set 1'
for port in socksifier server; do
  ip link set $port up
  ip address add 10.{own}.0.11/32 dev $port
  ip address add fd00:{own}::11/128 dev $port nodad
done
ip route add 10.{own}.0.2 dev socksifier
ip route add 10.{other}.0.0/24 via 10.{own}.0.2
ip route add fd00:{own}::2 dev socksifier
ip route add fd00:{other}::/64 via fd00:{own}::2
ip neighbor add 10.{own}.0.254 lladdr {server_mac} dev server
ip neighbor add fe80::1 lladdr {server_mac} dev server
ip route add 10.{other}.0.0/24 via 10.{own}.0.254 dev server onlink table 100
ip route add 10.{own}.0.2 via 10.{own}.0.254 dev server onlink table 100
ip route add fd00:{other}::/64 via fe80::1 dev server table 100
ip route add fd00:{own}::2 via fe80::1 dev server table 100
ip rule add fwmark 1 lookup 100
ip -6 rule add fwmark 1 lookup 100
"""


class _Listener(socket.socket):
    """Whatever is accepted does not wait for ever: nothing comes on what the proxy forgot."""

    def accept(self) -> tuple[socket.socket, Any]:
        accepted, name = super().accept()
        accepted.settimeout(LIMIT_S)
        return accepted, name


class Vm(Namespace):
    """The namespace of a VM."""

    def listen(self, address: str, port: int = 0) -> socket.socket:
        plain = super().listen(address, port)
        limit = plain.gettimeout()
        listener = _Listener(plain.family, plain.type, plain.proto, plain.detach())
        listener.settimeout(limit)
        return listener


class SiteOfNet:
    """One site: its host, its namespaces, its proxy."""

    def __init__(self, federation: Federation, site: Site, number: int) -> None:
        self.federation = federation
        self.site = site
        self.addresses = {4: f"10.{number}.0.11", 6: f"fd00:{number}::11"}
        spaces = ("--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")
        self._host = subprocess.Popen(
            ["unshare", *spaces, "sh", "-c", _START], stdout=subprocess.PIPE, text=True
        )
        assert self._host.stdout is not None
        assert self._host.stdout.readline() == "ready\n"
        children = Path(f"/proc/{self._host.pid}/task/{self._host.pid}/children")
        self.pid = int(children.read_text().split()[0])
        self.run_directory = Path(f"/proc/{self.pid}/root/run")
        self.vm = Vm(self.run_directory / "netns/vm")
        self.proxy = Namespace(self.run_directory / "netns" / PROXY_NAMESPACE)
        self.process: subprocess.Popen[bytes] | None = None
        self.write(federation)

    def close(self) -> None:
        """End the host, and so everything on it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self._host.kill()
        self._host.communicate()

    def write(self, federation: Federation) -> bool:
        """Write the federation file and the host's settings; return whether the file changed."""
        file = self.run_directory / "fedsdn/federation.yaml"
        before = file.read_text() if file.exists() else None
        file.write_text(dump_federation(federation))
        write_identity(file.parent, self.site.name)
        (self.run_directory / "fedsdn/fedsdn.conf").write_text(
            f"[fedsdn]\nsite = {self.site.name}\nfederation = /run/fedsdn/federation.yaml\n"
        )
        return file.read_text() != before

    # Commands on the host

    def command(self, *words: str) -> list[str]:
        return [_NSENTER, f"--target={self.pid}", "--net", "--mount", "--pid", "--", *words]

    @staticmethod
    def environment() -> dict[str, str]:
        return {
            "PATH": f"{COMMANDS}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "FEDSDN_CONFIG_FILE": "/run/fedsdn/fedsdn.conf",
            "LANG": "C.UTF-8",
        }

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command("sh", "-c", command),
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def output(self, command: str) -> str:
        done = self.run(command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def inside(self, command: str) -> str:
        """Run a command in the proxy's namespace."""
        return self.output(f"ip netns exec {PROXY_NAMESPACE} {command}")

    # The proxy

    @property
    def log(self) -> str:
        return (self.run_directory / "fedsdn/proxy.log").read_text()

    def start_proxy(self, *options: str, descriptors: int | None = None) -> None:
        """Run the operator's command; wait until its workers listen.

        ``descriptors`` is how many each of its processes may have.
        """
        limit = [] if descriptors is None else ["prlimit", f"--nofile={descriptors}:{descriptors}"]
        with (self.run_directory / "fedsdn/proxy.log").open("wb") as log:
            self.process = subprocess.Popen(
                self.command(
                    *limit, *in_sandbox("fedsdn-proxy", "fedsdn", "proxy", "run", *options)
                ),
                env=self.environment(),
                stdout=log,
                stderr=log,
            )
        workers = int(options[options.index("--workers") + 1]) if "--workers" in options else 0
        least = 2 * (workers or len(os.sched_getaffinity(0)))
        wait_until(lambda: self._listening(least))

    def _listening(self, least: int) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log
        return len(self.inside("ss -Hltn").splitlines()) >= least

    def stop_proxy(self) -> int:
        """Stop it as an operator does, and return its exit status."""
        assert self.process is not None
        self.signal_proxy(signal.SIGTERM)
        return self.process.wait(LIMIT_S)

    def cpu_ticks(self) -> int:
        """Processor time that the workers have used, in clock ticks (proc(5))."""
        _parent, *workers = self.proxy_pids()
        fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2] for pid in workers]
        return sum(int(ticks) for line in fields for ticks in line.split()[11:13])

    def signal_proxy(self, number: signal.Signals) -> None:
        """Send a signal to the proxy's parent process, and not to nsenter."""
        os.kill(self.proxy_pids()[0], number)

    def proxy_pids(self) -> list[int]:
        """The parent's process identifier, then those of its workers."""
        assert self.process is not None

        def children(pid: int) -> list[int]:
            return [
                int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            ]

        # nsenter forks, to be in the new PID namespace itself
        (parent,) = children(self.process.pid)
        return [parent, *children(parent)]

    def statistics(self) -> dict[str, Any]:
        return read_statistics(self.run_directory / "fedsdn/proxy.sock")

    def ended(self) -> list[Ended]:
        """The connections that failed or were ended, the last ones first."""
        return read_ended(self.run_directory / "fedsdn/proxy.sock")

    @contextmanager
    def counts(self, **expected: int) -> Iterator[None]:
        """Wait, after the block, until the counters have grown by what is expected."""
        before = self.statistics()
        yield
        wait_until(
            lambda: {name: self.statistics()[name] - before[name] for name in expected} == expected
        )


@contextmanager
def proxy_net(federation: Federation) -> Iterator[tuple[SiteOfNet, SiteOfNet]]:
    """Two sites, set up and joined; no proxy runs yet."""
    with ExitStack() as stack:
        sites = []
        for number, site in enumerate(federation.sites, 1):
            host = SiteOfNet(federation, site, number)
            stack.callback(host.close)
            host.output("python -m tests.real.proxy_net prepare")
            sites.append(host)
        near, far = sites
        for mine, theirs in zip(near.site.uplinks, far.site.uplinks, strict=True):
            _wire((near, wan_port(mine)), (far, wan_port(theirs)))
        for number, host in enumerate(sites, 1):
            for port in (SOCKSIFIER_PORT, SERVER_PORT, ROUTER_PORT):
                _tenant_wire(host, port)
            mac = port_mac(host.site, SERVER_PORT)
            script = _VM.format(own=number, other=3 - number, server_mac=mac)
            (host.run_directory / "vm.sh").write_text(script)
            host.output("ip netns exec vm sh /run/vm.sh")
            host.output("python -m tests.real.proxy_net finish")
        yield near, far


def _wire(near: tuple[SiteOfNet, str], far: tuple[SiteOfNet, str]) -> None:
    ends = []
    for host, port in (near, far):
        ends.append(["name", port, "address", port_mac(host.site, port)])
        ends[-1] += ["netns", str(host.proxy.path)]
    subprocess.run(["ip", "link", "add", *ends[0], "type", "veth", "peer", *ends[1]], check=True)
    for host, port in (near, far):
        host.inside(f"ip link set {port} up")


def _tenant_wire(host: SiteOfNet, port: str) -> None:
    host.output(
        f"ip link add {port} address {port_mac(host.site, port)} netns {PROXY_NAMESPACE} "
        f"type veth peer {port} netns vm"
    )
    host.inside(f"ip link set {port} up")


# What runs on the hosts


def _prepare(federation: Federation, site: Site) -> None:
    plan = site_plan(federation, site)
    namespace.create(plan.namespace)
    _write(plan.sysctls)
    firewall.apply(plan.namespace, plan.ruleset)


def _filter(federation: Federation, site: Site) -> None:
    plan = site_plan(federation, site)
    print("loaded" if firewall.apply(plan.namespace, plan.ruleset) else "already loaded")


def _finish(federation: Federation, site: Site) -> None:
    plan = site_plan(federation, site)
    tunnels = {tunnel.name for tunnel in plan.tunnels}
    _write(tuple(one for one in plan.port_sysctls if not tunnels & set(one.name.split("."))))
    with Network(plan.namespace) as network:
        network.make_tun(plan.held)
        subprocess.run(["ip", "-n", plan.namespace, "link", "set", "lo", "up"], check=True)
        network.apply_addresses(plan.addresses)
        network.apply_routes(plan.routes)
        network.apply_rules(plan.rules)
        network.apply_neighbours(
            tuple(one for one in plan.neighbours if one.interface not in tunnels)
        )
    with Endpoints(plan.namespace) as endpoints:
        endpoints.apply(plan.endpoints)


def _write(settings: tuple[Sysctl, ...]) -> None:
    def write() -> None:
        for setting in settings:
            if setting.read() is not None or not setting.optional:
                setting.path.write_text(setting.value)

    namespace.inside(PROXY_NAMESPACE, write)


def main() -> None:
    federation = load_federation(Path("/run/fedsdn/federation.yaml"))
    conf = Path(os.environ["FEDSDN_CONFIG_FILE"]).read_text().splitlines()
    (name,) = [line.partition(" = ")[2] for line in conf if line.startswith("site = ")]
    step = {"prepare": _prepare, "filter": _filter, "finish": _finish}[sys.argv[1]]
    step(federation, federation.site(name))


if __name__ == "__main__":
    main()
