"""Kernel settings of the proxy's namespace, each with what it is for.

A new network namespace takes some of these from the host and some from the kernel's defaults
(``net.core.devconf_inherit_init_net``); so whatever matters is written down here. Names and
meanings: ip-sysctl and mptcp-sysctl in the kernel's Documentation/networking.

``tcp_congestion_control`` is not among them: a namespace takes the host's own, and the kernel
refuses one that the host does not have in ``tcp_allowed_congestion_control``. So whoever wants
another on the uplinks sets it for the host, where it is in plain sight.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fedsdn.config.reserved import TUNNEL_PORTS
from fedsdn.errors import FedsdnError
from fedsdn.pipeline.declarations import (
    ERROR_MILLISECONDS,
    ROUTER_PORT,
    SERVER_PORT,
    SOCKSIFIER_LISTEN_PORTS,
    SOCKSIFIER_PORT,
)

BUFFER_BYTES = 64 * 1024 * 1024
"""Largest TCP buffer: twice the bandwidth-delay product of 2 Gbit/s and 80 ms (20 MB), since the
kernel counts its own overhead in the buffer, and once more for the slower of two uplinks."""

FIRST_WINDOW_BYTES = 8 * 1024 * 1024
"""Receive buffer that a connection begins with. While one uplink repeats what it lost (0.3 s at
100 Mbit/s: 4 MB), what the others bring has to wait somewhere, or they stand still too. With the
kernel's 128 KiB about one in 2,000 short connections stood still for good on Linux 6.18: what had
come too early filled the buffer, and there was no room left for what was missing."""


@dataclass(frozen=True, slots=True)
class Sysctl:
    """A kernel setting.

    An ``optional`` one is written only where the kernel knows it, and the one it ``goes_with``.
    """

    name: str
    value: str
    meaning: str
    optional: bool = False
    goes_with: str = ""

    @property
    def path(self) -> Path:
        """File of the setting, under the /proc of whoever is inside the namespace."""
        return _path(self.name)

    def read(self) -> str | None:
        """Return the value in the calling thread's namespace, None if the kernel has no such."""
        if self.goes_with and not _path(self.goes_with).exists():
            return None
        try:
            return " ".join(self.path.read_text().split())
        except FileNotFoundError:
            return None

    def write(self) -> bool:
        """Write the value, in the calling thread's namespace, if it is another; say so.

        Raises:
            LookupError: the setting is of an interface that is not there.
            FedsdnError: the kernel refuses it, or has no such setting.

        """
        there = self.read()
        if there == self.value or (there is None and self.optional):
            return False
        if there is None:
            self._check_interface()
            raise FedsdnError(f"this kernel has no {self.name}: fedsdn needs Linux 6.1 or newer")
        try:
            self.path.write_text(self.value)
        except OSError as error:
            self._check_interface()
            raise FedsdnError(
                f"the kernel refuses {self} (is {there}): {error.strerror}"
            ) from error
        return True

    def _check_interface(self) -> None:
        """Raise LookupError if the setting is of an interface that is not there."""
        interface = self.path.parent
        if interface.parent.name == "conf" and not interface.exists():
            raise LookupError(interface.name)

    def __str__(self) -> str:
        """Text as ``sysctl`` prints it."""
        return f"{self.name} = {self.value}"


def _path(name: str) -> Path:
    return Path("/proc/sys", *(part.replace("/", ".") for part in name.split(".")))


def namespace_sysctls(proxy_port: int, datagrams_port: int) -> tuple[Sysctl, ...]:
    """Make the settings that hold before the namespace's first interface is made.

    The ports are those of the federation: the proxies', and the first of the tunnels'.
    """
    tunnels = range(datagrams_port, datagrams_port + TUNNEL_PORTS)
    listening = {proxy_port, *SOCKSIFIER_LISTEN_PORTS, *tunnels}
    return (*_interfaces(), *_tcp(listening), *_mptcp(), *_routing(), *_errors(), *_fragments())


def _routing() -> Iterator[Sysctl]:
    meaning = "what is not TCP is on a path by its ports, too: two VMs use several"
    for family in ("ipv4", "ipv6"):
        yield Sysctl(f"net.{family}.fib_multipath_hash_policy", "1", meaning)


def _errors() -> Iterator[Sysctl]:
    meaning = "each flow of a VM that cannot go on is told at once, not one a second"
    for name in ("ipv4.icmp_ratelimit", "ipv6.icmp.ratelimit"):
        yield Sysctl(f"net.{name}", str(ERROR_MILLISECONDS), meaning)


def _fragments() -> Iterator[Sysctl]:
    yield Sysctl("net.ipv4.ipfrag_high_thresh", str(_FRAGMENTS_BYTES), _MOST_FRAGMENTS)
    yield Sysctl("net.ipv4.ipfrag_time", str(_FRAGMENTS_SECONDS), _FRAGMENTS_WAIT)


_FRAGMENTS_BYTES, _FRAGMENTS_SECONDS = 16 * 1024 * 1024, 3
_MOST_FRAGMENTS = "one VM's fragments do not so soon leave no room for the others'"
_FRAGMENTS_WAIT = "what misses a fragment gives its room back before it is filled with such"


def port_sysctls(ports: Iterable[str]) -> tuple[Sysctl, ...]:
    """Make the settings of the interfaces of these names, written once the interfaces are there.

    They have them from ``default``, until somebody changes them, or ``all`` of them.
    """
    return tuple(
        _EXCEPTIONS.get(one.name, one)
        for port in ports
        for family, settings in _OF_INTERFACES
        for one in _settings(family, port, settings)
    )


def tracking_sysctls() -> tuple[Sysctl, ...]:
    """Make the settings of conntrack, which is there once the packet filter asks it."""
    return (
        Sysctl("net.netfilter.nf_conntrack_acct", "1", "packets and octets of a flow are counted"),
        Sysctl("net.netfilter.nf_conntrack_timestamp", "1", "a flow's age is known", optional=True),
        *(
            Sysctl(f"net.netfilter.nf_conntrack_{name}", value, meaning, optional=True)
            for name, (value, meaning) in _TRACKING.items()
        ),
    )


_FORGOTTEN = "a flow that is silent gives its place to others, of whatever protocol it is"
_TRACKING = {
    "frag6_high_thresh": (str(_FRAGMENTS_BYTES), _MOST_FRAGMENTS),
    "frag6_timeout": (str(_FRAGMENTS_SECONDS), _FRAGMENTS_WAIT),
    "udp_timeout_stream": ("120", "as long as a firewall has to (RFC 6092, REC-14), no longer"),
    "generic_timeout": ("120", _FORGOTTEN),
    "gre_timeout_stream": ("120", _FORGOTTEN),
    "sctp_timeout_established": ("210", "seven of SCTP's heartbeats (RFC 9260, section 8.3)"),
    "dccp_timeout_open": ("210", _FORGOTTEN),
    "dccp_timeout_partopen": ("210", _FORGOTTEN),
    "dccp_timeout_request": ("60", _FORGOTTEN),
    "dccp_timeout_respond": ("60", _FORGOTTEN),
}
"""Not every kernel tracks every protocol, and those from 6.17 on have no DCCP."""


def tunnel_sysctls(names: Iterable[str]) -> tuple[Sysctl, ...]:
    """Make the settings of the tunnels' interfaces, likewise."""
    return tuple(
        one
        for tunnel in names
        for family, settings in _OF_INTERFACES
        for one in _settings(family, tunnel, settings | _of_tunnels(family))
    )


def _of_tunnels(family: str) -> dict[str, tuple[str, str]]:
    return {name: value for (of, name), value in _OF_TUNNELS.items() if of == family}


def _settings(family: str, scope: str, settings: Mapping[str, tuple[str, str]]) -> Iterator[Sysctl]:
    for name, (value, meaning) in settings.items():
        interface = scope.replace(".", "/")  # as sysctl(8) writes it
        yield Sysctl(f"net.{family}.conf.{interface}.{name}", value, meaning)


_IPV4_INTERFACE = {
    "rp_filter": ("0", "packets come with sources of VMs, for which no route leads back"),
    "src_valid_mark": ("0", "with marks in the check, every VM's source would be a martian"),
    "forwarding": ("0", "routed is between the tunnels and the router's port alone"),
    "arp_ignore": ("1", "answer ARP only for an address of the interface that was asked"),
    "arp_announce": ("2", "ask by ARP from the interface's own address, never a VM's"),
    "proxy_arp": ("0", "never answer ARP for others"),
    "accept_local": ("0", "nobody else may send from the proxy's addresses"),
    "accept_redirects": ("0", "routes come from the federation file alone"),
    "accept_source_route": ("0", "routes come from the federation file alone"),
    "route_localnet": ("0", "127.0.0.0/8 stays inside"),
}
_IPV6_INTERFACE = {
    "disable_ipv6": ("0", "both families are carried"),
    "forwarding": ("0", "routed is between the tunnels and the router's port alone"),
    "accept_ra": ("0", "routes come from the federation file alone"),
    "autoconf": ("0", "addresses come from the federation file alone"),
    "accept_dad": ("0", "addresses work at once; the federation file says whose they are"),
    "dad_transmits": ("0", "addresses work at once; the federation file says whose they are"),
    "router_solicitations": ("0", "no router is looked for"),
    "accept_redirects": ("0", "routes come from the federation file alone"),
    "accept_source_route": ("-1", "routes come from the federation file alone"),
    "use_tempaddr": ("0", "peers and the bridge know one address per uplink"),
    "addr_gen_mode": ("0", "link-local address from the MAC: the bridge lets only that one pass"),
}


_OF_INTERFACES = (("ipv4", _IPV4_INTERFACE), ("ipv6", _IPV6_INTERFACE))
_ROUTED = "what is not TCP is routed to the tunnels and from them, as the packet filter says"
_OF_TUNNELS = {
    ("ipv4", "forwarding"): ("1", _ROUTED),
    ("ipv6", "addr_gen_mode"): ("1", "nobody is asked there, and nobody asks"),
}
_EXCEPTIONS = {
    one.name: one
    for one in (
        Sysctl(
            f"net.ipv4.conf.{SERVER_PORT}.arp_ignore",
            "8",
            f"the proxy's addresses are answered for on one port only, not on {SERVER_PORT} too",
        ),
        Sysctl(
            f"net.ipv4.conf.{ROUTER_PORT}.arp_ignore",
            "8",
            f"the proxy's addresses are answered for on one port only, not on {ROUTER_PORT} too",
        ),
        Sysctl(f"net.ipv4.conf.{ROUTER_PORT}.forwarding", "1", _ROUTED),
        Sysctl(
            f"net.ipv4.conf.{SOCKSIFIER_PORT}.forwarding",
            "1",
            "a VM's SYN is routed to the workers; the packet filter lets nothing else pass",
        ),
    )
}


def _interfaces() -> Iterator[Sysctl]:
    # The kernel asks for it on no single interface; written first, as it changes all of them.
    yield Sysctl(
        "net.ipv6.conf.all.forwarding",
        "1",
        "a VM's SYN is routed to the workers; the packet filter lets nothing else pass",
    )
    for family, settings in _OF_INTERFACES:
        for scope in ("all", "default"):
            for one in _settings(family, scope, settings):
                if one.name not in _NOT_FOR_ALL:
                    yield one
    yield Sysctl("net.ipv6.bindv6only", "0", "one listening socket serves both families")


_NOT_FOR_ALL = ("net.ipv6.conf.all.forwarding", "net.ipv6.conf.all.addr_gen_mode")
"""What is as it has to be for all, and what the kernel ignores there."""


def _tcp_settings(listening: set[int]) -> dict[str, tuple[str, str]]:
    """Return value and meaning of each setting of net.ipv4 that every kernel has."""
    buffer = str(BUFFER_BYTES)
    return {
        "tcp_rmem": (
            f"4096 {FIRST_WINDOW_BYTES} {buffer}",
            "receive window for 2 Gbit/s at 80 ms; from the start it holds what comes too early",
        ),
        "tcp_wmem": (f"4096 16384 {buffer}", "unacknowledged data for 2 Gbit/s at 80 ms"),
        "tcp_slow_start_after_idle": ("0", "a pooled connection keeps its window while it waits"),
        "tcp_no_metrics_save": ("1", "one lossy minute must not slow the connections after it"),
        "tcp_mtu_probing": ("1", "get through an uplink that swallows large packets silently"),
        "tcp_mtu_probe_floor": (
            "1024",
            "full wires also look as if they swallowed large packets: not down to 48 bytes then",
        ),
        "fwmark_reflect": ("1", "an answer without a socket leaves by the port that was asked"),
        "tcp_ecn": ("1", "VMs that know ECN are asked for it, as other VMs ask them; peers, too"),
        "tcp_tw_reuse": ("1", "a VM may use the same port again for the next connection"),
        "tcp_max_syn_backlog": ("4096", "a burst of new connections waits instead of getting lost"),
        "ip_local_port_range": ("1024 65535", "source ports of connections to a peer"),
        "ip_local_reserved_ports": (
            _ranges(listening),
            "never taken as a source port",
        ),
        "tcp_early_demux": (
            "0",
            "a VM's reset in the middle of a handshake is routed to the workers, too",
        ),
        "tcp_syncookies": (
            "1",
            "SYNs in the name of a peer that does not answer fill the queue; others get in still",
        ),
    }


def _tcp(listening: set[int]) -> Iterator[Sysctl]:
    settings = _tcp_settings(listening)
    for name, (value, meaning) in settings.items():
        yield Sysctl(f"net.ipv4.{name}", value, meaning)
    yield Sysctl(
        "net.ipv4.route.min_pmtu",
        "1280",
        "no router's word cuts segments further, as in IPv6; smaller uplinks get fragments",
    )
    rto_max = "net.ipv4.tcp_rto_max_ms"
    yield Sysctl(
        rto_max,
        "1000",
        "what waits for an uplink goes on within a second after it is back",
        optional=True,  # Linux 6.15
    )
    yield Sysctl(
        "net.ipv4.tcp_retries2",
        "80",
        "a second each: a subflow outlives the loss of all uplinks for over a minute",
        optional=True,
        goes_with=rto_max,
    )
    yield Sysctl("net.ipv6.fwmark_reflect", "1", settings["fwmark_reflect"][1])


def _mptcp() -> Iterator[Sysctl]:
    yield Sysctl("net.mptcp.enabled", "1", "connections between sites are Multipath TCP")
    yield Sysctl(
        "net.mptcp.pm_type",
        "1",
        "the proxy is the path manager: it opens subflows from the endpoints",
    )
    yield Sysctl(
        "net.mptcp.close_timeout",
        "60",
        "seconds a connection lives on after its last uplink is gone",
        optional=True,  # Linux 6.7; as long before
    )
    yield Sysctl(
        "net.mptcp.stale_loss_cnt",
        "4",
        "time-outs without an answer after which a subflow's data go to the others",
    )
    yield Sysctl(
        "net.mptcp.blackhole_timeout",
        "0",
        "peers speak MPTCP: no falling back to TCP after lost SYNs",
        optional=True,  # Linux 6.12
    )
    yield Sysctl(
        "net.mptcp.syn_retrans_before_tcp_fallback",
        "128",
        "peers speak MPTCP: every SYN asks for it",
        optional=True,  # Linux 6.14
    )


def _ranges(ports: set[int]) -> str:
    """Write port numbers as the kernel prints them: neighbours as a range."""
    found: list[list[int]] = []
    for port in sorted(ports):
        if found and found[-1][1] == port - 1:
            found[-1][1] = port
        else:
            found.append([port, port])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in found)
