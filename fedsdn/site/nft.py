"""The packet filter of the proxy's namespace, as text for ``nft -f -``.

Towards the tenants it hands to the proxy what belongs to one of its transparent sockets. The
bridge may send a packet to both tenant-side ports: the copy at the port that is not the socket's is
dropped. A SYN, too, belongs to the socket that lives, which answers it (RFC 5961, section 4); if
there is none, it is held: routed into a TUN device, from which the workers read it. When its
destination has answered, its worker sends it once more, to itself: with a mark that leads to the
loopback interface and, here, to that worker's listener. A reset without a socket takes the same
way: the VM may have given a held SYN up. One VM may send so many of both in a second: the queue of
the device is for all VMs. Other TCP that belongs to no socket is reset: a VM whose
connection was reset while segments were lost on the way to it asks once more (RFC 5961, section
3.2), and would hang without an answer. But what the bridge's conntrack does not know either, which
comes to a group address, is not answered: the destination may not exist. Towards the uplinks it
takes connections from peers only; the bridge has the same rule. ICMP errors count if they are about
TCP: the kernel then wants a sequence number that is under way. About probes and echoes it would
believe anybody, cut what all connections to that peer send, and fail the probes' sockets. What goes
to peers gets the traffic class that its mark says.

What is no TCP is routed, by rules of its own (``nft_datagrams``).
"""

from __future__ import annotations

from collections.abc import Iterator

from fedsdn.config.model import Federation, Site
from fedsdn.pipeline.declarations import (
    FIRST_HANDED_IN_MARK,
    GROUP_BIT,
    HANDED_IN_MASK,
    HELD_DEVICE,
    MOST_SENDERS,
    MOST_SYNS_AT_ONCE,
    MOST_SYNS_PER_SECOND,
    SENDERS_SECONDS,
    SERVER_PORT,
    SOCKSIFIER_LISTEN_PORTS,
    SOCKSIFIER_PORT,
    TRAFFIC_CLASSES,
    SocketMark,
    codepoint,
    handed_in_mark,
    traffic_class_mark,
    wan_port,
)
from fedsdn.site import nft_tunnels
from fedsdn.site.nft_datagrams import from_routed, routed_chains, routed_sets, to_proxy
from fedsdn.site.nft_questions import ARP_TABLE, arp_table, questions, reachable, sets
from fedsdn.site.nft_text import chain, drop, dynamic_set, listed, of
from fedsdn.tunnels.plan import Tunnel, tunnels

TABLE = "inet fedsdn"
"""Family and name of the table."""

TABLES = (TABLE, ARP_TABLE)
"""Those that are ours."""

MEASURED = "measured"
"""Set of further TCP ports that peers may come to, each for ``MEASURED_SECONDS``: ``fedsdn verify``
adds what it measures with. The rest of the table is put back as soon as somebody changes it."""

MEASURED_SECONDS = 120

_FAMILIES = ((4, "ip"), (6, "ip6"))
_PORTS = "listen_ports"
_SENDERS = "senders"
_UNKNOWN = f"ether daddr & {GROUP_BIT} == {GROUP_BIT}"
_OPENING = "tcp flags & (syn | ack) == syn"
_TCP = 6
_UNREACHABLE = (
    ("icmp type destination-unreachable", "@th,136,8"),
    ("icmpv6 type { destination-unreachable, packet-too-big }", "@th,112,8"),
)
"""ICMP errors that the kernel acts upon, and where they have the protocol of what they are about:
in the IP header behind the eight octets of their own (RFC 792; RFC 4443, section 3)."""
_TO_SOCKET = f"meta mark set {SocketMark.LOCAL:#x} accept"


def ruleset(federation: Federation, site: Site) -> str:
    """Ruleset of the site's namespace, without what would remove an older one."""
    found = tunnels(federation, site)
    chains = (
        chain("prerouting", _prerouting(found)),
        chain(SOCKSIFIER_PORT, _from_socksifier()),
        chain("hold", _hold(federation, site)),
        chain("handed_in", _handed_in(site)),
        chain(SERVER_PORT, _from_server()),
        *routed_chains(federation, site, found),
        chain("forward", _forward()),
        chain("input", _input(site)),
        chain("from_tenants", _from_tenants()),
        chain("from_uplinks", _from_uplinks(federation, site)),
        chain("from_peer", _from_peer(federation, found)),
        chain("to_peers", _to_peers()),
    )
    return (
        f"table {TABLE} {{\n{_listen_ports()}{_senders()}{sets()}{routed_sets()}{_measured()}"
        + "\n".join(chains)
        + "}\n"
        + arp_table(federation, site)
    )


def _listen_ports() -> str:
    """Make the map of marks of held SYNs to the ports of the workers that hand them in."""
    ports = (
        f"{handed_in_mark(worker):#x} : {port}"
        for worker, port in enumerate(SOCKSIFIER_LISTEN_PORTS)
    )
    elements = ", ".join(ports)
    return (
        f"\tmap {_PORTS} {{\n\t\ttype mark : inet_service\n\t\telements = {{ {elements} }}\n\t}}\n"
    )


def _senders() -> str:
    """Make the sets of VMs whose rate is limited; packets add to them."""
    return "".join(
        dynamic_set(f"{_SENDERS}_{word}", family, MOST_SENDERS, SENDERS_SECONDS)
        for family, word in _FAMILIES
    )


def _measured() -> str:
    return (
        f"\tset {MEASURED} {{\n\t\ttype inet_service\n\t\tflags timeout\n"
        f"\t\ttimeout {MEASURED_SECONDS}s\n\t}}\n"
    )


def _prerouting(found: tuple[Tunnel, ...]) -> Iterator[str]:
    yield "type filter hook prerouting priority mangle; policy accept;"
    yield f"meta l4proto tcp {_UNKNOWN} meta pkttype set host"
    yield f'iifname "{SOCKSIFIER_PORT}" jump {SOCKSIFIER_PORT}'
    yield f'iifname "{SERVER_PORT}" jump {SERVER_PORT}'
    handed_in = f"meta mark & {HANDED_IN_MASK:#x} == {FIRST_HANDED_IN_MARK:#x}"
    yield f'iifname "lo" {handed_in} jump handed_in'
    yield from from_routed(found)


def _from_socksifier() -> Iterator[str]:
    yield f"{_living(SocketMark.SERVER)} " + drop("the server's")
    yield f"{_living(SocketMark.SOCKSIFIER)} {_TO_SOCKET}"
    yield f"meta l4proto tcp {_OPENING} jump hold"
    yield f"meta l4proto tcp {_OPENING} " + drop("not from a VM to a peer's prefix")
    yield "meta l4proto tcp tcp flags & rst == rst jump hold"
    yield f"socket transparent 1 {_TO_SOCKET}"
    yield f"meta l4proto tcp {_TO_SOCKET}"


def _from_server() -> Iterator[str]:
    yield f"meta l4proto tcp {_OPENING} {_living(SocketMark.SERVER)} {_TO_SOCKET}"
    yield f"meta l4proto tcp {_OPENING} " + drop("VMs open no connections here")
    yield f"{_living(SocketMark.SOCKSIFIER)} " + drop("the socksifier's")
    yield f"socket transparent 1 {_TO_SOCKET}"
    yield f"meta l4proto tcp {_TO_SOCKET}"


def _living(mark: SocketMark) -> str:
    """Condition that a packet has a socket of the port with ``mark``, and no listener's.

    A socket in TIME_WAIT or SYN_RECV has no mark to compare, and does not match.
    """
    return f"socket transparent 1 socket mark {mark:#x} socket wildcard 0"


def _hold(federation: Federation, site: Site) -> Iterator[str]:
    own = [prefix.network for prefix in site.prefixes]
    remote = [prefix.network for peer in federation.peers(site.name) for prefix in peer.prefixes]
    for family, word in _FAMILIES:
        sources, destinations = of(family, own), of(family, remote)
        if sources and destinations:
            yield (
                f"{word} saddr {listed(sources)} update @{_SENDERS}_{word} "
                f"{{ {word} saddr limit rate over {MOST_SYNS_PER_SECOND}/second "
                f"burst {MOST_SYNS_AT_ONCE} packets }} " + drop("more than one VM may open")
            )
            yield (
                f"{word} saddr {listed(sources)} {word} daddr {listed(destinations)} "
                f"meta mark set {SocketMark.HELD:#x} accept"
            )


def _handed_in(site: Site) -> Iterator[str]:
    for family, word in _FAMILIES:
        if any(prefix.family == family for prefix in site.prefixes):
            yield (
                f"meta l4proto tcp tproxy {word} to :meta mark map @{_PORTS} "
                f"meta mark set {SocketMark.LOCAL:#x} accept"
            )
    yield drop("its worker does not listen")


def _forward() -> Iterator[str]:
    yield "type filter hook forward priority filter; policy drop;"
    yield f'meta mark {SocketMark.HELD:#x} oifname "{HELD_DEVICE}" accept'
    yield "jump route"
    yield drop("neither from a VM to a tunnel nor back")


def _input(site: Site) -> Iterator[str]:
    uplinks = ", ".join(f'"{wan_port(uplink)}"' for uplink in site.uplinks)
    yield "type filter hook input priority filter; policy drop;"
    yield 'iifname "lo" accept'
    yield f'iifname {{ "{SOCKSIFIER_PORT}", "{SERVER_PORT}" }} jump from_tenants'
    if uplinks:
        yield f"iifname {{ {uplinks} }} jump from_uplinks"
    yield from to_proxy()
    yield drop("unknown interface")


def _from_tenants() -> Iterator[str]:
    # The kernel answers with a packet's mark (fwmark_reflect): out of the port that it came by.
    for port, mark in (
        (SOCKSIFIER_PORT, SocketMark.SOCKSIFIER),
        (SERVER_PORT, SocketMark.SERVER),
    ):
        yield f'iifname "{port}" meta mark set {mark:#x}'
    yield f"meta l4proto tcp {_UNKNOWN} socket wildcard 1 " + drop(
        "of no connection, to a listener"
    )
    yield "socket wildcard 1 " + _reset("a listener, not a connection")
    yield "socket transparent 1 accept"
    yield f"meta l4proto tcp {_UNKNOWN} " + drop("of no connection")
    yield "meta l4proto tcp " + _reset("no socket")
    yield "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept"
    yield drop("nothing of the proxy's")


def _from_uplinks(federation: Federation, site: Site) -> Iterator[str]:
    for error, protocol in _UNREACHABLE:
        yield f"{error} {protocol} != {_TCP} " + drop("an error about what proves nothing")
    yield "icmp type { echo-reply, destination-unreachable, time-exceeded } accept"
    yield (
        "icmpv6 type { echo-reply, destination-unreachable, packet-too-big, time-exceeded, "
        "nd-neighbor-advert } accept"
    )
    yield from questions(federation, site)
    peers = list(reachable(federation, site))
    for family, word in _FAMILIES:
        if addresses := of(family, peers):
            yield f"{word} saddr {listed(addresses)} meta l4proto {{ tcp, udp }} jump from_peer"
    yield drop("not from a peer")


def _from_peer(federation: Federation, found: tuple[Tunnel, ...]) -> Iterator[str]:
    yield f"tcp dport {federation.proxy_port} accept"
    yield f"tcp dport @{MEASURED} accept"
    yield f"udp dport {federation.proxy_port} accept"
    yield from nft_tunnels.arriving(found)
    yield "meta l4proto udp " + drop("no probe, and of no tunnel")
    # The kernel of an accepting peer tries one subflow of its own, to the port that a connection
    # came from. An answer ends that at once; silence would keep a subflow's place taken.
    yield f"{_OPENING} " + _reset("a peer's subflow of its own")
    yield "accept"


def _to_peers() -> Iterator[str]:
    yield "type filter hook postrouting priority mangle; policy accept;"
    yield f"meta mark < {traffic_class_mark(TRAFFIC_CLASSES[0]):#x} accept"
    for traffic_class in TRAFFIC_CLASSES:
        for _, word in _FAMILIES:
            yield (
                f"meta mark {traffic_class_mark(traffic_class):#x} "
                f"{word} dscp set {codepoint(traffic_class)}"
            )


def _reset(comment: str) -> str:
    return f'counter reject with tcp reset comment "{comment}"'
