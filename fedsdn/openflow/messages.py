"""Matches and actions of the pipeline as OpenFlow 1.3 and os-ken have them.

Conntrack, resubmit and TCP flags are Nicira extensions (ovs-actions(7), ovs-fields(7)).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from os_ken.ofproto import ofproto_v1_3 as ofproto
from os_ken.ofproto import ofproto_v1_3_parser as parser

from fedsdn.config.model import Address
from fedsdn.pipeline.declarations import CT_ZONE, HANDED_BACK_REGISTER, LOCAL_PORT, CtMark
from fedsdn.pipeline.flows import (
    Action,
    AddressToSender,
    Commit,
    ConnState,
    HandBack,
    Match,
    Normal,
    Output,
    PopVlan,
    Protocol,
    RestoreSource,
    Resubmit,
    SetDestinationMac,
    SetVlan,
    Tag,
    Track,
)
from fedsdn.socket_address import SocketAddress

Ports = Mapping[str, int]
"""OpenFlow port numbers of a bridge by port name."""

_PROTOCOL_FIELDS: dict[Protocol, dict[str, int]] = {
    Protocol.ARP: {"eth_type": 0x0806},
    Protocol.IPV4: {"eth_type": 0x0800},
    Protocol.IPV6: {"eth_type": 0x86DD},
    Protocol.ICMP: {"eth_type": 0x0800, "ip_proto": 1},
    Protocol.ICMP6: {"eth_type": 0x86DD, "ip_proto": 58},
    Protocol.TCP: {"eth_type": 0x0800, "ip_proto": 6},
    Protocol.TCP6: {"eth_type": 0x86DD, "ip_proto": 6},
    Protocol.UDP: {"eth_type": 0x0800, "ip_proto": 17},
    Protocol.UDP6: {"eth_type": 0x86DD, "ip_proto": 17},
}
_VLAN_ID = 0x0FFF
_TAG_FIELDS: dict[Tag, Any] = {
    Tag.ABSENT: ofproto.OFPVID_NONE,
    Tag.PRESENT: (ofproto.OFPVID_PRESENT, ofproto.OFPVID_PRESENT),
    Tag.NO_VLAN: (0, _VLAN_ID),
}
_CT_NEW, _CT_RELATED, _CT_TRACKED = 0x01, 0x04, 0x20
_STATE_FIELDS: dict[ConnState, tuple[int, int]] = {
    ConnState.NEW: (_CT_NEW | _CT_TRACKED, _CT_NEW | _CT_TRACKED),
    ConnState.RELATED: (_CT_RELATED | _CT_TRACKED, _CT_RELATED | _CT_TRACKED),
}
_TCP_SYN, _TCP_RST, _TCP_ACK = 0x02, 0x04, 0x10
_CT_COMMIT = 0x1
_NO_RECIRCULATION = 0xFF
_NAT_SOURCE = 0x1
_NICIRA = 0x2320
_NXT_CT_FLUSH = 32
_CT_ORIGINAL, _CT_ZONE_ID = 0, 2
_TCP = 6
_PROPERTY = struct.Struct("!HH")
_PROPERTY_16 = struct.Struct("!HHH2x")
_NX_HEADER_BYTES = 10
_SAME_IN_PORT = 0xFFF8
_MAC_BITS = 48


def forget(datapath: Any, source: SocketAddress, destination: SocketAddress) -> Any:
    """Message that has conntrack forget a TCP connection of ours (``NXT_CT_FLUSH``, OVS 3.1).

    The entry of an ended connection would block a new one between the same sockets: the userspace
    datapath then finds no room for the translation.
    """
    addresses = b"".join(
        _PROPERTY.pack(kind, _PROPERTY.size + len(_mapped(of))) + _mapped(of) + bytes(4)
        for kind, of in enumerate((source.address, destination.address))
    )
    ports = b"".join(
        _PROPERTY_16.pack(kind, _PROPERTY_16.size, of.port)
        for kind, of in enumerate((source, destination), start=2)
    )
    original = _PROPERTY.pack(_CT_ORIGINAL, 8 + len(addresses + ports)) + bytes(4)
    zone = _PROPERTY_16.pack(_CT_ZONE_ID, _PROPERTY_16.size, CT_ZONE)
    body = bytes([_TCP]).ljust(8, b"\0") + original + addresses + ports + zone
    return parser.OFPExperimenter(datapath, _NICIRA, _NXT_CT_FLUSH, body)


def _mapped(address: Address) -> bytes:
    prefix = b"\xff\xff" if address.version == 4 else b""
    return (prefix + address.packed).rjust(16, b"\0")


def match_fields(match: Match, ports: Ports) -> Iterator[tuple[str, Any]]:
    """Yield the fields of a match under os-ken's names, addresses and networks as such.

    Raises:
        KeyError: ``ports`` lacks the match's port.

    """
    family = "ipv4"
    if match.protocol is not None:
        fields = _PROTOCOL_FIELDS[match.protocol]
        yield from fields.items()
        family = "ipv6" if fields["eth_type"] == 0x86DD else "ipv4"
    if match.in_port is not None:
        yield "in_port", _number(match.in_port, ports)
    if match.tag is not None:
        yield "vlan_vid", _TAG_FIELDS[match.tag]
    if match.vlan is not None:
        yield "vlan_vid", ofproto.OFPVID_PRESENT | match.vlan
    if match.conn_state is not None:
        yield "ct_state", _STATE_FIELDS[match.conn_state]
    if match.opening:
        yield "tcp_flags", (_TCP_SYN, _TCP_SYN | _TCP_ACK)
    if match.syn:
        yield "tcp_flags", (_TCP_SYN, _TCP_SYN)
    if match.reset:
        yield "tcp_flags", (_TCP_RST, _TCP_RST)
    for name, value in (
        (f"{family}_src", match.source),
        (f"{family}_dst", match.destination),
        ("tcp_src", match.source_port),
        ("tcp_dst", match.destination_port),
        ("arp_spa", match.arp_source),
        ("arp_sha", match.arp_source_mac),
        ("arp_tpa", match.arp_target),
        (f"icmp{family[2:]}_type", match.icmp_type),
        ("ipv6_nd_target", match.nd_target),
        ("ct_mark", match.ct_mark),
        (HANDED_BACK_REGISTER, match.handed_back),
    ):
        if value is not None:
            yield name, int(value) if isinstance(value, int) else value


def _number(port: str | int, ports: Ports) -> int:
    if isinstance(port, int):
        return port
    number: int = ofproto.OFPP_LOCAL if port == LOCAL_PORT else ports[port]
    return number


def action_message(action: Action, ports: Ports) -> Any:
    """Return os-ken's object of an action.

    Raises:
        KeyError: ``ports`` lacks the action's port.

    """
    make: Callable[..., Any] = _ACTIONS[type(action)]
    return make(action, ports)


def _commit(action: Commit, _ports: Ports) -> Any:
    mark = action.mark
    return parser.NXActionCT(
        flags=_CT_COMMIT,
        zone_src="",
        zone_ofs_nbits=CT_ZONE,
        recirc_table=_NO_RECIRCULATION,
        alg=0,
        actions=[] if mark is None else [parser.OFPActionSetField(ct_mark=int(mark))],
    )


def _track(action: Track, _ports: Ports) -> Any:
    return parser.NXActionCT(
        flags=0,
        zone_src="",
        zone_ofs_nbits=CT_ZONE,
        recirc_table=action.table,
        alg=0,
        actions=[parser.NXActionNAT(flags=0)] if action.nat else [],
    )


def _restore(action: RestoreSource, _ports: Ports) -> Any:
    mark = parser.OFPActionSetField(ct_mark=int(CtMark.INBOUND))
    return parser.NXActionCT(
        flags=_CT_COMMIT,
        zone_src="",
        zone_ofs_nbits=CT_ZONE,
        recirc_table=action.table,
        alg=0,
        actions=[_SourceNat(action.client), mark],
    )


class _SourceNat(parser.NXActionNAT):  # type: ignore[misc]
    """Translation of the source to one address and port; os-ken forgets to pad it to 8 bytes."""

    def __init__(self, source: SocketAddress) -> None:
        family = f"range_ipv{source.address.version}_min"
        super().__init__(
            flags=_NAT_SOURCE, **{family: str(source.address)}, range_proto_min=source.port
        )

    def serialize_body(self) -> bytearray:
        body: bytearray = super().serialize_body()
        return body + bytes(-(_NX_HEADER_BYTES + len(body)) % 8)


_ACTIONS: dict[type[Any], Callable[..., Any]] = {
    Output: lambda action, ports: parser.OFPActionOutput(_number(action.port, ports), 0),
    Normal: lambda _action, _ports: parser.OFPActionOutput(ofproto.OFPP_NORMAL, 0),
    Resubmit: lambda action, _ports: parser.NXActionResubmitTable(_SAME_IN_PORT, action.table),
    SetDestinationMac: lambda action, _ports: parser.OFPActionSetField(eth_dst=action.mac),
    AddressToSender: lambda _action, _ports: parser.NXActionRegMove(
        src_field="eth_src_nxm", dst_field="eth_dst_nxm", n_bits=_MAC_BITS
    ),
    PopVlan: lambda _action, _ports: parser.OFPActionPopVlan(),
    SetVlan: lambda action, _ports: parser.OFPActionSetField(
        vlan_vid=ofproto.OFPVID_PRESENT | action.vlan
    ),
    HandBack: lambda _action, _ports: parser.OFPActionSetField(**{HANDED_BACK_REGISTER: 1}),
    Commit: _commit,
    Track: _track,
    RestoreSource: _restore,
}
