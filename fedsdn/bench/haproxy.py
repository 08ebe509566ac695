"""HAProxy in a lab in fedsdn's place: between the same VMs, over the same bridges and wires.

Its connections between the sites are Multipath TCP by ``mptcpize``. The near one takes VMs' SYNs by
TPROXY, and tells the far one by a PROXY header (version 2) who asks for whom; that one connects
from the client's own address. It sets no marks, so its sockets towards VMs are bound to interfaces.
IPv4 only. The kernel opens subflows, at fedsdn's endpoints.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import IPv4Address
from pathlib import Path

from fedsdn.bench.rig import Rig
from fedsdn.config.model import Address, Encryption, Prefix, Site
from fedsdn.errors import FedsdnError
from fedsdn.identity.new import NewIdentity, make
from fedsdn.lab.host import Daemon, Host
from fedsdn.lab.wait import wait_until
from fedsdn.pipeline.declarations import PROXY_NAMESPACE, SERVER_PORT, SOCKSIFIER_PORT, SocketMark
from fedsdn.site.nft import MEASURED, TABLE

NAME = "haproxy"
_VMS_PORT, _PEERS_PORT = 15200, 15201
_DIRECTORY = "haproxy"
_TABLE = "inet haproxy"
_READY_SECONDS = 15.0

_COMMON = """global
  maxconn 4000
  tune.bufsize 65536
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
"""
_TLS = " ssl verify required ca-file {peer} crt {own} ssl-min-ver TLSv1.3"

_FILTER = """chain arriving {{
  type filter hook prerouting priority mangle + 5;
  iifname "{port}" ip daddr {far} tcp flags & (syn | ack) == syn \
tproxy ip to {own}:{listens} meta mark set {mark:#x} accept
}}"""
"""Behind fedsdn's chain, which would have the SYN held. The listener has an address of its own:
fedsdn's filter takes nothing for others from VMs."""


class HAProxy:
    """HAProxy at both sites of a rig, which run one after another with TLS and without."""

    def __init__(self, rig: Rig) -> None:
        """Start nothing yet.

        Raises:
            FedsdnError: the sites have no IPv4, or cannot run it.

        """
        self._near, self._far = [*rig.lab.hosts][:2]
        self._sites = [view.site for view in rig.sites]
        self._wire = [_ipv4_uplink(site) for site in self._sites]
        for command in (NAME, "mptcpize"):
            rig.sites[0].shell.output("sh", "-c", f"command -v {command}")
        self._identities = [make(site.name) for site in self._sites]

    @contextmanager
    def running(self, way: Encryption) -> Iterator[list[tuple[Host, Daemon]]]:
        """Have HAProxy carry what the near site's VMs open while the block runs; give it.

        Raises:
            FedsdnError: it does not start.

        """
        hosts = (self._near, self._far)
        with ExitStack() as stack:
            daemons = []
            for host, lines in zip(
                hosts, (self._near_lines(way), self._far_lines(way)), strict=True
            ):
                daemon = self._start(host, lines)
                stack.callback(_end, daemon)
                daemons.append((host, daemon))
            stack.enter_context(_filtering(self._near, self._filter()))
            stack.enter_context(_admitted(self._far))
            yield daemons

    def _near_lines(self, way: Encryption) -> str:
        own, far = self._wire
        tls = self._tls(self._near, 0) if way == "tls" else ""
        return (
            f"listen vms\n  bind {_ipv4(self._sites[0]).proxy_address}:{_VMS_PORT} transparent "
            f"interface {SOCKSIFIER_PORT}\n"
            f"  server peer {far}:{_PEERS_PORT} source {own} send-proxy-v2{tls}\n"
        )

    def _far_lines(self, way: Encryption) -> str:
        tls = self._tls(self._far, 1) if way == "tls" else ""
        return (
            f"listen peers\n  bind {self._wire[1]}:{_PEERS_PORT} accept-proxy{tls}\n"
            f"  source 0.0.0.0 usesrc client interface {SERVER_PORT}\n  server vm 0.0.0.0\n"
        )

    def _tls(self, host: Host, number: int) -> str:
        own, peer = self._identities[number], self._identities[1 - number]
        return _TLS.format(
            own=_write(host, "own.pem", _certificate(own) + own.tls_key),
            peer=_write(host, "peer.pem", _certificate(peer)),
        )

    def _start(self, host: Host, lines: str) -> Daemon:
        file = _write(host, "haproxy.cfg", (_COMMON + lines).encode())
        inside = ("ip", "netns", "exec", PROXY_NAMESPACE)
        daemon = host.start(NAME, *inside, "mptcpize", "run", NAME, "-db", "-f", str(file))
        port = _VMS_PORT if host is self._near else _PEERS_PORT

        def listens() -> bool:
            if not daemon.alive():
                raise FedsdnError(f"{host.name}: HAProxy ended: {daemon.last_line()}")
            return bool(host.run("ss", "-Hltn", f"sport = :{port}", vm=PROXY_NAMESPACE).strip())

        wait_until(listens, _READY_SECONDS, lambda: f"{host.name}: HAProxy does not listen")
        return daemon

    def _filter(self) -> str:
        own, far = (_ipv4(site) for site in self._sites)
        return _FILTER.format(
            port=SOCKSIFIER_PORT,
            far=far.network,
            own=own.proxy_address,
            listens=_VMS_PORT,
            mark=SocketMark.LOCAL,
        )


def _ipv4(site: Site) -> Prefix:
    for prefix in site.prefixes:
        if prefix.family == 4:
            return prefix
    raise FedsdnError(f"site {site.name}: no IPv4 prefix for HAProxy's part of the benchmark")


def _ipv4_uplink(site: Site) -> Address:
    for uplink in site.uplinks:
        if isinstance(uplink.address.ip, IPv4Address):
            return uplink.address.ip
    raise FedsdnError(f"site {site.name}: no IPv4 uplink for HAProxy's part of the benchmark")


def _certificate(identity: NewIdentity) -> bytes:
    return identity.public.partition(b"-----BEGIN PUBLIC KEY")[0]


def _write(host: Host, name: str, content: bytes) -> Path:
    """Write a file of HAProxy's; return its path on the host."""
    directory = host.run_directory / _DIRECTORY
    directory.mkdir(mode=0o700, exist_ok=True)
    (directory / name).write_bytes(content)
    return Path("/run") / _DIRECTORY / name


@contextmanager
def _filtering(host: Host, chain: str) -> Iterator[None]:
    host.run("nft", "-f", "-", stdin=f"table {_TABLE} {{\n{chain}\n}}\n", vm=PROXY_NAMESPACE)
    try:
        yield
    finally:
        host.run("nft", "delete", "table", *_TABLE.split(), vm=PROXY_NAMESPACE)


@contextmanager
def _admitted(host: Host) -> Iterator[None]:
    """Have the far site's filter take HAProxy's connections from the peer."""
    element = (*TABLE.split(), MEASURED, f"{{ {_PEERS_PORT} timeout 1h }}")
    host.run("nft", "add", "element", *element, vm=PROXY_NAMESPACE)
    try:
        yield
    finally:
        delete = (*TABLE.split(), MEASURED, f"{{ {_PEERS_PORT} }}")
        host.run("nft", "delete", "element", *delete, vm=PROXY_NAMESPACE)


def _end(daemon: Daemon) -> None:
    daemon.signal("KILL")
    wait_until(lambda: not daemon.alive(), _READY_SECONDS, lambda: f"{daemon.name} does not end")
