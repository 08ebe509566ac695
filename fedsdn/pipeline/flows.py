"""OpenFlow flows as values: matches, actions, and their text as ovs-ofctl reads it.

Field and action names are those of ovs-fields(7) and ovs-actions(7). Ports are named:
numbers belong to one run of one bridge, names to the federation file. Only a tenant's port whose
name is no other's alone has its number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import Enum

from fedsdn.config.model import Address, Network
from fedsdn.pipeline.declarations import (
    CT_ZONE,
    HANDED_BACK_REGISTER,
    LOCAL_PORT,
    CtMark,
    Table,
)
from fedsdn.socket_address import SocketAddress

TAGGED = 0x1000
"""Bit of ``vlan_vid`` that says that there is a tag (OpenFlow 1.3.5, ``OFPVID_PRESENT``)."""

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _quoted(port: str | int) -> str:
    """Return a port's name, or number, as ovs-ofctl writes it."""
    if isinstance(port, int):
        return str(port)
    return port if _PLAIN_NAME.fullmatch(port) else f'"{port}"'


class Protocol(Enum):
    """What a frame carries, under the name that ovs-ofctl gives it."""

    ARP = "arp"
    IPV4 = "ip"
    IPV6 = "ipv6"
    ICMP = "icmp"
    ICMP6 = "icmp6"
    TCP = "tcp"
    TCP6 = "tcp6"
    UDP = "udp"
    UDP6 = "udp6"


def tcp(of: Address | Network) -> Protocol:
    """TCP in the family of an address or network."""
    return Protocol.TCP if of.version == 4 else Protocol.TCP6


def udp(of: Address | Network) -> Protocol:
    """UDP in the family of an address or network."""
    return Protocol.UDP if of.version == 4 else Protocol.UDP6


def icmp(of: Address | Network) -> Protocol:
    """ICMP or ICMPv6, by the family of an address or network."""
    return Protocol.ICMP if of.version == 4 else Protocol.ICMP6


def ip(of: Address | Network) -> Protocol:
    """IPv4 or IPv6, by the family of an address or network."""
    return Protocol.IPV4 if of.version == 4 else Protocol.IPV6


class ConnState(Enum):
    """Conditions on ``ct_state`` (ovs-fields(7), Connection Tracking Fields)."""

    NEW = "+new+trk"
    RELATED = "+rel+trk"


class Tag(Enum):
    """Matches on ``vlan_tci`` (ovs-fields(7)), where it does not matter which VLAN it is."""

    ABSENT = "0x0000/0x1fff"
    PRESENT = "0x1000/0x1000"
    NO_VLAN = "0x0000/0x0fff"
    """Untagged, or tagged for a priority's sake alone (IEEE 802.1Q, section 6.9: VID 0)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A flow's match; None is a wildcard.

    ``source`` and ``destination`` are of the IP header, ports of the TCP header. ``opening`` is TCP
    with SYN and without ACK: the first segment of a connection (RFC 9293, section 3.5).
    ``syn`` is TCP with SYN, ``reset`` is TCP with RST. ``vlan`` is that of the (outer) tag.
    ``handed_back`` is what ``HandBack`` makes true of a frame.
    """

    protocol: Protocol | None = None
    in_port: str | int | None = None
    tag: Tag | None = None
    vlan: int | None = None
    source: Address | Network | None = None
    destination: Address | Network | None = None
    source_port: int | None = None
    destination_port: int | None = None
    arp_source: Address | Network | None = None
    arp_source_mac: str | None = None
    arp_target: Address | Network | None = None
    icmp_type: int | None = None
    nd_target: Address | None = None
    opening: bool | None = None
    syn: bool | None = None
    reset: bool | None = None
    conn_state: ConnState | None = None
    ct_mark: CtMark | None = None
    handed_back: bool | None = None

    def __str__(self) -> str:
        """Text as ``ovs-ofctl add-flow`` reads it; empty for a wildcard of everything."""
        return ",".join(self._terms())

    def _terms(self) -> Iterator[str]:
        names = _NAMES_V6 if self.protocol in _V6 else _NAMES
        for field in _MATCH_FIELDS:
            value = getattr(self, field)
            if value is None:
                continue
            if field == "protocol":
                yield value.value
            elif field == "opening":
                yield "tcp_flags=+syn-ack"
            elif field == "syn":
                yield "tcp_flags=+syn"
            elif field == "reset":
                yield "tcp_flags=+rst"
            elif field == "ct_mark":
                yield f"ct_mark={int(value):#x}"
            elif field == "handed_back":
                yield f"{HANDED_BACK_REGISTER}={int(value):#x}"
            elif field == "in_port":
                yield f"in_port={_quoted(value)}"
            else:
                text = value.value if isinstance(value, Enum) else value
                yield f"{names.get(field, field)}={text}"


_MATCH_FIELDS = tuple(field.name for field in fields(Match))
_V6 = frozenset({Protocol.IPV6, Protocol.TCP6, Protocol.UDP6, Protocol.ICMP6})
_NAMES = {
    "source": "nw_src",
    "destination": "nw_dst",
    "source_port": "tp_src",
    "destination_port": "tp_dst",
    "arp_source": "arp_spa",
    "arp_source_mac": "arp_sha",
    "arp_target": "arp_tpa",
    "conn_state": "ct_state",
    "tag": "vlan_tci",
    "vlan": "dl_vlan",
}
_NAMES_V6 = _NAMES | {"source": "ipv6_src", "destination": "ipv6_dst"}


@dataclass(frozen=True, slots=True)
class Output:
    """Send the frame out of a port."""

    port: str

    def __str__(self) -> str:
        return LOCAL_PORT if self.port == LOCAL_PORT else f"output:{_quoted(self.port)}"


@dataclass(frozen=True, slots=True)
class Normal:
    """Forward as an ordinary learning switch does, VLANs included."""

    def __str__(self) -> str:
        return "NORMAL"


@dataclass(frozen=True, slots=True)
class Resubmit:
    """Look the packet up in another table, then go on with the next action."""

    table: Table

    def __str__(self) -> str:
        return f"resubmit(,{self.table.value})"


@dataclass(frozen=True, slots=True)
class SetDestinationMac:
    """Rewrite the frame's destination."""

    mac: str

    def __str__(self) -> str:
        return f"set_field:{self.mac}->eth_dst"


@dataclass(frozen=True, slots=True)
class AddressToSender:
    """Copy the source MAC to the destination MAC."""

    def __str__(self) -> str:
        return "move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]"


@dataclass(frozen=True, slots=True)
class PopVlan:
    """Take the VLAN tag off."""

    def __str__(self) -> str:
        return "pop_vlan"


@dataclass(frozen=True, slots=True)
class SetVlan:
    """Put another VLAN into the frame's tag."""

    vlan: int

    def __str__(self) -> str:
        return f"set_field:{TAGGED | self.vlan}->vlan_vid"


@dataclass(frozen=True, slots=True)
class HandBack:
    """Note that a frame is not ours: no flow of tenants takes it in ``Table.HOOK`` again."""

    def __str__(self) -> str:
        return f"set_field:0x1->{HANDED_BACK_REGISTER}"


@dataclass(frozen=True, slots=True)
class Track:
    """Look the packet up in the federation's conntrack zone, and go on in ``table``.

    With ``nat`` it is translated as its connection was committed.
    """

    table: Table
    nat: bool = False

    def __str__(self) -> str:
        nat = ",nat" if self.nat else ""
        return f"ct(table={self.table.value},zone={CT_ZONE}{nat})"


@dataclass(frozen=True, slots=True)
class Commit:
    """Commit the connection, with its direction as ``mark``.

    Of an existing entry only the mark changes (ovs-actions(7), ``ct``).
    """

    mark: CtMark | None = None

    def __str__(self) -> str:
        mark = "" if self.mark is None else f",exec(set_field:{int(self.mark):#x}->ct_mark)"
        return f"ct(commit,zone={CT_ZONE}{mark})"


@dataclass(frozen=True, slots=True)
class RestoreSource:
    """Commit the connection as inbound, with the client's source address; go on in ``table``."""

    client: SocketAddress
    table: Table

    def __str__(self) -> str:
        mark = f"exec(set_field:{int(CtMark.INBOUND):#x}->ct_mark)"
        return f"ct(commit,table={self.table.value},zone={CT_ZONE},nat(src={self.client}),{mark})"


Action = (
    Output
    | Normal
    | Resubmit
    | SetDestinationMac
    | AddressToSender
    | PopVlan
    | SetVlan
    | HandBack
    | Track
    | Commit
    | RestoreSource
)


@dataclass(frozen=True, slots=True)
class Flow:
    """One flow of a flow table. Without actions, what matches is dropped (and counted).

    With ``hard_timeout`` the bridge removes it after so many seconds. ``why`` says in a few words
    what it is for.
    """

    table: Table
    priority: int
    match: Match
    actions: tuple[Action, ...]
    cookie: int
    why: str
    hard_timeout: int = 0

    @property
    def ports(self) -> frozenset[str]:
        """Names of the ports in its match and actions."""
        named = {action.port for action in self.actions if isinstance(action, Output)}
        named |= {self.match.in_port} if isinstance(self.match.in_port, str) else set()
        return frozenset(named - {LOCAL_PORT})

    def __str__(self) -> str:
        """Text as ``ovs-ofctl add-flow`` reads it, and ``ovs-ofctl dump-flows`` prints it."""
        life = f"hard_timeout={self.hard_timeout}, " if self.hard_timeout else ""
        head = f"cookie={self.cookie:#x}, table={self.table.value}, {life}priority={self.priority}"
        match = str(self.match)
        actions = ",".join(str(action) for action in self.actions) or "drop"
        return f"{head}{',' if match else ''}{match} actions={actions}"
