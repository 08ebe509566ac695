"""Flows as the bytes that OpenFlow 1.3 has for them: written, read and compared as such.

A bridge with 1,000 peers has tens of thousands of flows, and os-ken makes objects of all parts of
each. What is written here Open vSwitch lists again byte for byte, but for the order of a match's
fields, so they are sorted here. That also puts what a field asks for (``eth_type`` for an address)
before it (OpenFlow 1.3.5, section 7.2.3.8).
"""

from __future__ import annotations

import struct
from collections.abc import Hashable, Sequence
from functools import cache, lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, NamedTuple

from os_ken.ofproto import ofproto_common
from os_ken.ofproto import ofproto_v1_3 as ofproto
from os_ken.ofproto import ofproto_v1_3_parser as parser

from fedsdn.config.model import Address, Network
from fedsdn.openflow.messages import Ports, action_message, match_fields
from fedsdn.pipeline.flows import Action, Flow, Match

Key = tuple[int, int, bytes]
"""Table, priority and match: what makes a flow one flow (OpenFlow 1.3.5, section 6.4)."""

_FLOW_MOD = struct.Struct("!BBHIQQBBHHHIIIHxx")
"""``ofp_flow_mod`` with its header; the match follows."""
_MATCH = struct.Struct("!HH")
_FIELD_HEADER_BYTES, _FIELD_LENGTH = 4, 3
"""Of a match's field (OXM TLV): the bytes before its value, and which of them is its length."""
_BUNDLE_ADD = struct.Struct("!BBHIIII2xH")
"""``onf_bundle_add_msg`` with its header (ONF extension 230); the message follows."""

_ALL_BUT_ONE_BIT = 0xFFFF_FFFF_FFFF_FFFE
"""Mask of the cookie in deletions: what somebody has put in the place of our flow meanwhile stays.

With the full mask Open vSwitch looks the cookie up, and walks all flows that have it, for each
single deletion; with any other mask it finds the one flow that the match names (ofproto.c,
``collect_rules_strict``).
"""
_FEW = 4096
"""So many values of the fields that repeat are kept written."""


class WireFlow(NamedTuple):
    """A flow of one bridge, whose ports have numbers.

    ``match`` has the fields in the order of their bytes, without the match's header and padding.
    ``hard_timeout`` is in seconds, 0 for none.
    """

    table: int
    priority: int
    match: bytes
    cookie: int
    instructions: bytes
    hard_timeout: int = 0

    @property
    def key(self) -> Key:
        """Which flow it is; two with the same key take each other's place."""
        return self.table, self.priority, self.match

    def add(self, xid: int) -> bytes:
        """Write the message that adds it, or puts it in place of the one with its key."""
        return self._mod(xid, ofproto.OFPFC_ADD, 0, self.instructions)

    def delete(self, xid: int) -> bytes:
        """Write the message that deletes it, if nobody has put another in its place."""
        return self._mod(xid, ofproto.OFPFC_DELETE_STRICT, _ALL_BUT_ONE_BIT, b"")

    def _mod(self, xid: int, command: int, cookie_mask: int, instructions: bytes) -> bytes:
        match = written_match(self.match)
        return (
            _FLOW_MOD.pack(
                ofproto.OFP_VERSION,
                ofproto.OFPT_FLOW_MOD,
                _FLOW_MOD.size + len(match) + len(instructions),
                xid,
                self.cookie,
                cookie_mask,
                self.table,
                command,
                0,
                self.hard_timeout,
                self.priority,
                ofproto.OFP_NO_BUFFER,
                ofproto.OFPP_ANY,
                ofproto.OFPG_ANY,
                0,
            )
            + match
            + instructions
        )


def written_match(fields: bytes) -> bytes:
    """Write a match with its header and padding."""
    length = _MATCH.size + len(fields)
    return _MATCH.pack(ofproto.OFPMT_OXM, length) + fields + bytes(-length % 8)


def read_match(wire: bytes, offset: int) -> tuple[bytes, int]:
    """Read a match that begins at ``offset``: its fields, sorted, and where what follows begins."""
    _, length = _MATCH.unpack_from(wire, offset)
    end = offset + length
    return sorted_fields(wire[offset + _MATCH.size : end]), end + -length % 8


def sorted_fields(fields: bytes) -> bytes:
    """Put the fields of a match in the order of their bytes."""
    found, at = [], 0
    while at < len(fields):
        end = at + _FIELD_HEADER_BYTES + fields[at + _FIELD_LENGTH]
        found.append(fields[at:end])
        at = end
    return b"".join(sorted(found))


class FlowWriter:
    """Writes flows for a bridge whose ports have these numbers."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._instructions: dict[tuple[Action, ...], bytes] = {}

    def write(self, flow: Flow) -> WireFlow:
        """Write a flow.

        Raises:
            KeyError: the bridge lacks a port that the flow names.

        """
        instructions = self._instructions.get(flow.actions)
        if instructions is None:
            instructions = _instructions(flow.actions, self._ports)
            self._instructions[flow.actions] = instructions
        match = _match(flow.match, self._ports)
        return WireFlow(
            int(flow.table), flow.priority, match, flow.cookie, instructions, flow.hard_timeout
        )


def _instructions(actions: tuple[Action, ...], ports: Ports) -> bytes:
    if not actions:
        return b""
    made = [action_message(action, ports) for action in actions]
    wire = bytearray()
    parser.OFPInstructionActions(ofproto.OFPIT_APPLY_ACTIONS, made).serialize(wire, 0)
    return bytes(wire)


def _match(match: Match, ports: Ports) -> bytes:
    return b"".join(
        sorted(
            _address(name, value)
            if isinstance(value, IPv4Address | IPv6Address | IPv4Network | IPv6Network)
            else _field(name, value)
            for name, value in match_fields(match, ports)
        )
    )


@lru_cache(maxsize=_FEW)
def _field(name: str, value: Hashable) -> bytes:
    wire = bytearray()
    parser.OFPMatch(**{name: value}).serialize(wire, 0)
    _, length = _MATCH.unpack_from(wire)
    return bytes(wire[_MATCH.size : length])


def _address(name: str, value: Address | Network) -> bytes:
    if isinstance(value, IPv4Address | IPv6Address):
        return _header(name, value.version, masked=False) + value.packed
    if not value.prefixlen:
        return b""  # it matches everything
    network = value.network_address
    if value.prefixlen == value.max_prefixlen:
        return _header(name, value.version, masked=False) + network.packed
    return _header(name, value.version, masked=True) + network.packed + value.netmask.packed


@cache
def _header(name: str, version: int, *, masked: bool) -> bytes:
    """Return what is before an address: class, field, whether there is a mask, and length."""
    address = {4: "192.0.2.0", 6: "2001:db8::"}[version]
    return _field(name, (address, address) if masked else address)[:_FIELD_HEADER_BYTES]


class FlowMod(parser.MsgBase):  # type: ignore[misc]
    """A message that adds a flow."""

    cls_msg_type = ofproto.OFPT_FLOW_MOD

    def __init__(self, datapath: Any, flow: WireFlow) -> None:
        """Prepare the message."""
        super().__init__(datapath)
        self.flow = flow

    def serialize(self) -> None:
        """Write it into ``buf``."""
        self.buf = self.flow.add(self.xid)


class BundleAdds(parser.MsgBase):  # type: ignore[misc]
    """Messages that put flow mods into a bundle: as many as one write to the bridge may hold.

    All have one transaction number: whatever is refused, the bundle is discarded.
    """

    cls_msg_type = ofproto.OFPT_EXPERIMENTER

    def __init__(
        self,
        datapath: Any,
        bundle_id: int,
        flags: int,
        deletions: Sequence[WireFlow],
        additions: Sequence[WireFlow],
    ) -> None:
        """Prepare the messages."""
        super().__init__(datapath)
        self.bundle_id, self.flags = bundle_id, flags
        self.deletions, self.additions = deletions, additions

    def serialize(self) -> None:
        """Write all of them into ``buf``."""
        mods = [
            *(flow.delete(self.xid) for flow in self.deletions),
            *(flow.add(self.xid) for flow in self.additions),
        ]
        self.buf = b"".join(part for mod in mods for part in (self._head(len(mod)), mod))

    def _head(self, mod_bytes: int) -> bytes:
        return _BUNDLE_ADD.pack(
            ofproto.OFP_VERSION,
            ofproto.OFPT_EXPERIMENTER,
            _BUNDLE_ADD.size + mod_bytes,
            self.xid,
            ofproto_common.ONF_EXPERIMENTER_ID,
            ofproto.ONF_ET_BUNDLE_ADD_MESSAGE,
            self.bundle_id,
            self.flags,
        )
