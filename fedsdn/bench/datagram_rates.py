"""How much the paths carry of what is not TCP, beside one plain WireGuard tunnel over one of them.

The plain tunnel joins the sites' hosts by addresses of their own in an uplink's network, and so
crosses the same bridges and wires. Both are measured on wires so slow that the processor is not
what limits them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address

from fedsdn.bench.cases import Kind
from fedsdn.bench.rig import Rig
from fedsdn.errors import FedsdnError
from fedsdn.shell import Shell
from fedsdn.verify.view import SiteView

WIRE_MBIT = 20.0
FLOWS = 16
_OFFERED = 1.3
"""Times what the wires carry: flows are spread by chance, and each wire is to be full."""

_BYTES = 1200
"""Of data in a datagram."""

_DEVICE, _PORT, _IPERF_PORT = "plain0", "51999", "20999"
_PLAIN = ("10.99.0.1", "10.99.0.2")
_HOSTS_FROM = 100
"""The hosts' addresses in the uplink's network are those of the proxies, and so many more."""
_SPARE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Carried:
    """What came in Mbit/s of data, over one or both wires."""

    what: str
    wires: int
    flows: int
    mbit: float


def measure(rig: Rig, seconds: float) -> Iterator[Carried]:
    """Measure the plain tunnel, one path and both.

    Raises:
        FedsdnError: a program is missing, or the lab does not obey.

    """
    path = rig.path(4)
    near, far = path.near_vm.shell, path.far_vm.shell
    with _slow(rig):
        with _plain_tunnel(rig) as (here, there):
            found = _rate(here, there, _PLAIN[1], 1, seconds)
            yield Carried("plain WireGuard", 1, FLOWS, found)
        rig.lose(Kind.WIRE, 1, "upload")
        try:
            found = _rate(near, far, str(path.destination), 1, seconds)
            yield Carried("fedsdn", 1, FLOWS, found)
        finally:
            rig.restore(Kind.WIRE, 1, "upload")
        rig.wait_steady()
        yield Carried("fedsdn", 2, FLOWS, _rate(near, far, str(path.destination), 2, seconds))


@contextmanager
def _slow(rig: Rig) -> Iterator[None]:
    try:
        for wire in rig.wires:
            rig.lab.change_wire(wire.name, rate_mbit=WIRE_MBIT)
        yield
    finally:
        for wire in rig.wires:
            rig.lab.change_wire(wire.name, rate_mbit=wire.quality.rate_mbit)


def _rate(near: Shell, far: Shell, address: str, wires: int, seconds: float) -> float:
    """Return what comes of more than the wires carry, in Mbit/s of data.

    Raises:
        FedsdnError: iperf3 is missing, or nothing comes.

    """
    each = _OFFERED * wires * WIRE_MBIT / FLOWS
    server = ("iperf3", "--server", "--one-off", "--bind", address, "--port", _IPERF_PORT, "--json")
    client = (
        *("iperf3", "--client", address, "--port", _IPERF_PORT, "--udp"),
        *("--bitrate", f"{each}M", "--parallel", str(FLOWS), "--length", str(_BYTES)),
        *("--time", f"{seconds:g}", "--json"),
    )
    with far.started(*server) as running:
        near.output(*client, timeout=seconds + _SPARE_SECONDS)
        text = running.finish()
    try:
        came: float = json.loads(text)["end"]["sum_received"]["bits_per_second"]
    except (ValueError, KeyError) as error:
        raise FedsdnError(f"iperf3 at {address} counted nothing: {text[:200]!r}") from error
    return came / 1e6


@contextmanager
def _plain_tunnel(rig: Rig) -> Iterator[tuple[Shell, Shell]]:
    """Have a tunnel between the hosts over the first wire while the block runs.

    Raises:
        FedsdnError: WireGuard is missing.

    """
    ends = rig.sites
    hosts = [_host_address(rig, view) for view in ends]
    keys = [view.shell.output("wg", "genkey").strip() for view in ends]
    publics = [
        _checked(view.shell, "wg", "pubkey", text=key) for view, key in zip(ends, keys, strict=True)
    ]
    with ExitStack() as stack:
        for number, view in enumerate(ends):
            _make_end(view, hosts[number], keys[number], stack)
            other = 1 - number
            view.shell.output(
                *("wg", "set", _DEVICE, "peer", publics[other], "allowed-ips", "0.0.0.0/0"),
                *("endpoint", f"{hosts[other]}:{_PORT}"),
            )
            view.shell.output("ip", "address", "add", f"{_PLAIN[number]}/30", "dev", _DEVICE)
        yield ends[0].shell, ends[1].shell


def _host_address(rig: Rig, view: SiteView) -> IPv4Address:
    address = rig.uplink(view, 0).address.ip
    if not isinstance(address, IPv4Address):
        raise FedsdnError(
            f"site {view.name}: the first wire has {address}: give it an IPv4 network"
        )
    return address + _HOSTS_FROM


def _make_end(view: SiteView, host: IPv4Address, key: str, stack: ExitStack) -> None:
    def run(*command: str) -> None:
        view.shell.output(*command)

    length = view.site.uplinks[0].address.network.prefixlen
    run("ip", "address", "add", f"{host}/{length}", "dev", view.bridge)
    stack.callback(run, "ip", "address", "delete", f"{host}/{length}", "dev", view.bridge)
    run("ip", "link", "set", view.bridge, "up")
    if view.shell.run("ip", "link", "add", _DEVICE, "type", "wireguard").returncode:
        run("wireguard-go", _DEVICE)
    stack.callback(run, "ip", "link", "delete", _DEVICE)
    words = ("wg", "set", _DEVICE, "listen-port", _PORT, "private-key", "/dev/stdin")
    _checked(view.shell, *words, text=key)
    run("ip", "link", "set", _DEVICE, "mtu", "1440", "up")


def _checked(shell: Shell, *command: str, text: str) -> str:
    done = shell.run(*command, text=text)
    if done.returncode:
        raise FedsdnError(f"{shell.name}: '{' '.join(command)}': {done.stderr.strip()}")
    return done.stdout.strip()
