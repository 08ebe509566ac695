"""VMs that a measurement adds to a lab, with sockets of this process and programs in them."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface
from pathlib import Path

from fedsdn.config.model import Address, Family, Interface, Site
from fedsdn.errors import FedsdnError
from fedsdn.lab import queues
from fedsdn.lab.host import Host
from fedsdn.lab.lab import Lab
from fedsdn.lab.namespaces import Namespace
from fedsdn.lab.switch import kernel_datapath, make_bridge
from fedsdn.lab.topology import LabSite, Vm
from fedsdn.lab.vms import make_vms
from fedsdn.lab.wait import wait_until
from fedsdn.shell import Shell

DEVICE = "eth0"
"""A VM's only interface."""
FIRST_HOST = 100
"""Added VMs have the host numbers from here on in their prefixes; those of the topology fewer."""
_SEEN_SECONDS = 20.0
_TABLE = "measured"
"""The nftables tables that we make in VMs."""

_BROADCAST = b"\xff" * 6
_GRATUITOUS = bytes.fromhex("0806 0001 0800 06 04 0001")
"""EtherType of ARP, and the header of a request (RFC 826)."""
_UNASKED = bytes.fromhex("88 00 0000 20000000")
"""Header of a neighbour advertisement that overrides what is known (RFC 4861, section 4.4)."""
_TARGET_MAC = bytes.fromhex("02 01")


@dataclass(frozen=True, slots=True)
class Guest:
    """A VM of the lab at ``host``."""

    vm: Vm
    host: Host
    shell: Shell
    namespace: Namespace

    def address(self, family: Family) -> str:
        """Return its address of a family.

        Raises:
            FedsdnError: it has none.

        """
        for one in self.vm.addresses:
            if one.version == family:
                return str(one.ip)
        raise FedsdnError(f"{self.shell.name} has no IPv{family} address")

    def run(self, *command: str) -> str:
        """Run a command in it, and return its standard output; raises FedsdnError if it fails."""
        return self.shell.output(*command)

    def listen(self, family: Family, port: int = 0) -> socket.socket:
        """Return a socket that listens on the VM's address; port 0: any that is free."""
        return self.namespace.listen(self.address(family), port)

    def open(self, family: Family) -> socket.socket:
        """Return a TCP socket."""
        return self.namespace.open(self.address(family))

    def raw(self, family: Family, protocol: int) -> socket.socket:
        """Return a raw socket (raw(7))."""
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        return self.namespace.call(lambda: socket.socket(kind, socket.SOCK_RAW, protocol))

    @contextmanager
    def having(self, address: str) -> Iterator[None]:
        """Have one more address of its network while the block runs."""
        family = ip_address(address).version
        length = next(one for one in self.vm.addresses if one.version == family).network.prefixlen
        command = ("ip", "address", "replace", f"{address}/{length}", "dev", DEVICE)
        self.run(*command, *(("nodad",) if family == 6 else ()))
        try:
            yield
        finally:
            self.run("ip", "address", "del", *command[3:])

    @property
    def mac(self) -> str:
        """Its interface's MAC address."""
        with self._frames() as sock:
            return bytes(sock.getsockname()[4]).hex(":")

    def announce(self, address: str) -> None:
        """Tell everybody on the network that it has the address (RFC 5227, RFC 4861)."""
        one, mac = ip_address(address), bytes.fromhex(self.mac.replace(":", ""))
        if one.version == 4:
            with self._frames() as sock:
                sock.send(_BROADCAST + mac + _GRATUITOUS + (mac + one.packed) * 2)
            return
        with self.raw(6, socket.IPPROTO_ICMPV6) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, DEVICE.encode())
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
            sock.sendto(_UNASKED + one.packed + _TARGET_MAC + mac, ("ff02::1", 0))

    def _frames(self) -> socket.socket:
        sock = self.namespace.call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
        sock.bind((DEVICE, 0))
        return sock

    def filtering(self, *rules: str, hook: str = "input") -> AbstractContextManager[None]:
        """Have rules in the VM's own packet filter while the block runs (nft(8))."""
        return filtering(self.shell, *rules, hook=hook)

    def frozen(self) -> AbstractContextManager[None]:
        """Have it neither hear nor say anything while the block runs, as a VM that stands still."""
        table = f"netdev {_TABLE}"
        chains = (
            f"chain {hook} {{ type filter hook {hook} device {DEVICE} priority 0; policy drop; }};"
            for hook in ("ingress", "egress")
        )
        return _ruled(self.shell, table, *chains)

    def counting(
        self, match: str, hook: str = "prerouting", verdict: str = "accept"
    ) -> AbstractContextManager[Counted]:
        """Count packets while the block runs."""
        return counting(self.shell, match, hook, verdict)

    @contextmanager
    def sysctls(self, **values: int) -> Iterator[None]:
        """Have settings of ``net.ipv4`` while the block runs (Linux ip-sysctl)."""
        names = [f"net.ipv4.{name}" for name in values]
        before = self.run("sysctl", "-n", *names).split()
        self._set(names, map(str, values.values()))
        try:
            yield
        finally:
            self._set(names, before)

    def _set(self, names: Sequence[str], values: Iterator[str] | Sequence[str]) -> None:
        pairs = [f"{name}={value}" for name, value in zip(names, values, strict=True)]
        self.run("sysctl", "-qw", *pairs)


@dataclass(frozen=True, slots=True)
class Counted:
    """A counter in a packet filter."""

    shell: Shell
    table: str

    @property
    def packets(self) -> int:
        """How many packets were counted so far."""
        words = self.shell.output("nft", "list", "table", *self.table.split()).split()
        return int(words[words.index("packets") + 1])


@contextmanager
def counting(
    place: Shell, match: str, hook: str = "prerouting", verdict: str = "accept"
) -> Iterator[Counted]:
    """Count packets in a network namespace while the block runs."""
    with filtering(place, f"{match} counter {verdict}", hook=hook):
        yield Counted(place, f"inet {_TABLE}_{hook}")


@contextmanager
def filtering(place: Shell, *rules: str, hook: str) -> Iterator[None]:
    """Have rules in a network namespace's packet filter while the block runs (nft(8))."""
    chain = f"chain seen {{ type filter hook {hook} priority 0; {'; '.join(rules)}; }};"
    with _ruled(place, f"inet {_TABLE}_{hook}", chain):
        yield


@contextmanager
def _ruled(place: Shell, table: str, *chains: str) -> Iterator[None]:
    place.output("nft", f"table {table} {{ {' '.join(chains)} }}")
    try:
        yield
    finally:
        place.output("nft", f"delete table {table}")


@contextmanager
def guests(lab: Lab, wanted: dict[str, int]) -> Iterator[dict[str, list[Guest]]]:
    """Add so many VMs to each site while the block runs.

    Raises:
        FedsdnError: one cannot be made.

    """
    sites = {site.name: site for site in lab.topology.sites}
    added = {
        name: [
            Vm(f"guest{number}", _addresses(lab.topology.federation.site(name), number))
            for number in range(count)
        ]
        for name, count in wanted.items()
    }
    try:
        for name, vms in added.items():
            _plug_in(lab, sites[name], vms)
        for name in added:
            _wait_for_flows(lab, name)
        made = {name: [guest_of(lab, name, vm) for vm in vms] for name, vms in added.items()}
        for guest in (one for several in made.values() for one in several):
            for address in guest.vm.addresses:  # neighbours may remember who had it before
                guest.announce(str(address.ip))
        yield made
    finally:
        for name, vms in added.items():
            _unplug(lab.host(name), vms)
    for name in added:
        _wait_for_flows(lab, name)


def _addresses(site: Site, number: int) -> tuple[Interface, ...]:
    first = {prefix.network.version: prefix.network for prefix in reversed(site.prefixes)}
    return tuple(
        ip_interface(f"{network[FIRST_HOST + number]}/{network.prefixlen}")
        for _, network in sorted(first.items())
    )


def unused(site: Site, family: Family, number: int) -> Address:
    """Return an address of the site's prefix that no VM has, counted from the end."""
    network = next(p.network for p in site.prefixes if p.network.version == family)
    return network[min(network.num_addresses, 256) - 2 - number]


def _plug_in(lab: Lab, site: LabSite, vms: Sequence[Vm]) -> None:
    host = lab.host(site.name)
    whole = LabSite(site.name, site.gateways, (*site.vms, *vms))
    make_vms(host, whole)
    make_bridge(host, lab.topology.federation.site(site.name), whole, system=kernel_datapath())
    queues.widen(host)


def _wait_for_flows(lab: Lab, site: str) -> None:
    """Wait until the application has seen which ports there are now."""
    host = Shell(site, lab.prefix(site))
    wait_until(
        lambda: not host.run("fedsdn", "flows", "diff").returncode,
        _SEEN_SECONDS,
        lambda: f"site {site}: the flows are not those of the ports: run 'fedsdn flows diff'",
    )


def _unplug(host: Host, vms: Sequence[Vm]) -> None:
    """Remove what there is of the VMs: with their cables, which sockets would keep a little."""
    names = [vm.name for vm in vms]
    host.run(
        "ovs-vsctl", *(word for vm in vms for word in ("--", "--if-exists", "del-port", vm.name))
    )
    for command in ("ip link del", "ip netns del"):
        host.run("sh", "-c", f"for vm in {' '.join(names)}; do {command} $vm; done; true")


def guest_of(lab: Lab, site: str, vm: Vm) -> Guest:
    """Return a VM that a site has."""
    host = lab.host(site)
    path = Path(f"/proc/{host.process.pid}/root/run/netns/{vm.name}")
    return Guest(vm, host, Shell(f"{site}/{vm.name}", host.vm_prefix(vm.name)), Namespace(path))
