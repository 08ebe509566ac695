"""A bridge's end of an OpenFlow connection: it keeps flows, and answers as Open vSwitch does.

It stands in for os-ken's Datapath, and takes messages as they would go over the wire, so that what
cannot be written or read again is found here. Answers come in a later turn of the loop.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from os_ken.ofproto import ofproto_common
from os_ken.ofproto import ofproto_v1_3 as ofproto
from os_ken.ofproto import ofproto_v1_3_parser as parser
from os_ken.ofproto.ofproto_protocol import ProtocolDesc

from fedsdn.openflow.wire import BundleAdds, FlowMod, FlowStats

UP, DOWN = 0, ofproto.OFPPS_LINK_DOWN

Key = tuple[int, int, str]

_HEADER = struct.Struct("!BBHI")
_EXPERIMENTER_ERROR = struct.Struct("!HHI")
_BUNDLE_ADD_BYTES = 24
_STATS = struct.Struct("!HBx8xHHHH4xQ16x")
"""``ofp_flow_stats`` without times and counters."""
_BUNDLE_FAILED = 2311
"""ONF extension 230, ``ONFBEC_MSG_FAILED``."""


@dataclass
class FakeBridge(ProtocolDesc):  # type: ignore[misc]
    """A bridge with a connection; ``tell`` is given what it says, like os-ken's events."""

    tell: Callable[[Any], None] = lambda _message: None
    bridge: str = "br-provider"
    ports: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Number and state by name."""
    flows: dict[Key, Any] = field(default_factory=dict)
    refuses: Callable[[Any], bool] = lambda _flow: False
    """Says of which flow mods the bridge is to refuse."""
    refuses_commit: Callable[[Any], bool] = lambda _flow: False
    """Says of which flow mods it is to refuse when their bundle is committed."""
    config_flags: int = ofproto.OFPC_FRAG_NORMAL
    hangs: bool = False
    received: list[Any] = field(default_factory=list)
    closed: bool = False

    def __post_init__(self) -> None:
        ProtocolDesc.__init__(self, version=ofproto.OFP_VERSION)
        self._xid = 0
        self._miss_bytes = 0
        self._bundle: list[tuple[int, Any]] = []

    def set_xid(self, message: Any) -> int:
        """As os-ken's."""
        self._xid += 1
        message.set_xid(self._xid)
        return self._xid

    def send_msg(self, message: Any) -> bool:
        """Take a message; False if the connection has ended."""
        if self.closed:
            return False
        if message.xid is None:
            self.set_xid(message)
        message.serialize()
        self.received.append(message)
        if not self.hangs:
            handle = _HANDLERS[type(message)]
            for answer in handle(self, message) or ():
                answer.set_xid(message.xid)
                self._say(answer)
        return True

    def close(self) -> None:
        """As os-ken's."""
        self.closed = True

    def _say(self, message: Any) -> None:
        message.msg_type = message.cls_msg_type
        asyncio.get_running_loop().call_soon(self.tell, message)

    def set_port(self, name: str, number: int, state: int) -> None:
        """Add or change a port, and tell of it as soon as somebody wants to hear of ports."""
        reason = ofproto.OFPPR_MODIFY if name in self.ports else ofproto.OFPPR_ADD
        self.ports[name] = number, state
        if self._miss_bytes:
            self._say(parser.OFPPortStatus(self, reason, _description(name, number, state)))

    # Messages

    def _describe_ports(self, _request: Any) -> list[Any]:
        ports = [_description(name, *port) for name, port in self.ports.items()]
        return [parser.OFPPortDescStatsReply(self, flags=0, body=ports)]

    def _get_config(self, _request: Any) -> list[Any]:
        return [
            parser.OFPGetConfigReply(self, flags=self.config_flags, miss_send_len=self._miss_bytes)
        ]

    def _set_config(self, message: Any) -> None:
        self._miss_bytes = message.miss_send_len

    def _dump(self, request: Any) -> list[Any]:
        """Answer in two parts."""
        flows = [
            flow
            for flow in self.flows.values()
            if request.table_id in (flow.table_id, ofproto.OFPTT_ALL)
            and not (flow.cookie ^ request.cookie) & request.cookie_mask
        ]
        more, half = ofproto.OFPMPF_REPLY_MORE, len(flows) // 2
        return [
            parser.OFPFlowStatsReply(self, flags=more, body=[*map(listed, flows[:half])]),
            parser.OFPFlowStatsReply(self, flags=0, body=[*map(listed, flows[half:])]),
        ]

    def _barrier(self, _request: Any) -> list[Any]:
        return [parser.OFPBarrierReply(self)]

    def _flow_mod(self, message: Any) -> list[Any]:
        mod = read_flow_mod(self, message.buf)
        return [_refusal(self)] if self.refuses(mod) else self._apply(mod)

    def _apply(self, mod: Any) -> list[Any]:
        key = mod.table_id, mod.priority, repr(sorted(mod.match.items()))
        if mod.command == ofproto.OFPFC_ADD:
            self.flows[key] = parser.OFPFlowStats(
                table_id=mod.table_id,
                priority=mod.priority,
                hard_timeout=mod.hard_timeout,
                cookie=mod.cookie,
                match=mod.match,
                instructions=mod.instructions,
            )
        else:
            assert mod.command == ofproto.OFPFC_DELETE_STRICT
            self.flows.pop(key, None)
        return []

    def _control(self, message: Any) -> list[Any]:
        if message.type == ofproto.ONF_BCT_COMMIT_REQUEST:
            refused = [xid for xid, mod in self._bundle if self.refuses_commit(mod)]
            if refused:
                self._bundle = []
                return self._refuse_commit(refused[0])
            for _, mod in self._bundle:
                self._apply(mod)
        self._bundle = []
        # A reply's type is the request's plus one (ONF extension 230).
        return [parser.ONFBundleCtrlMsg(self, message.bundle_id, message.type + 1, 0, [])]

    def _fill(self, message: Any) -> list[Any]:
        """Take the messages that put flow mods into the bundle, and refuse the bad ones."""
        refusals, wire = [], message.buf
        while wire:
            length = _HEADER.unpack_from(wire)[2]
            mod = read_flow_mod(self, wire[_BUNDLE_ADD_BYTES:length])
            if self.refuses(mod):
                refusals.append(_refusal(self))
            else:
                self._bundle.append((message.xid, mod))
            wire = wire[length:]
        return refusals

    def _refuse_commit(self, xid: int) -> list[Any]:
        """Say why, as an answer to what added the flow mod, and that the bundle failed.

        For the latter OpenFlow 1.3 has no error of its own; Open vSwitch takes ONF's.
        """
        why = _refusal(self)
        why.set_xid(xid)
        self._say(why)
        body = _EXPERIMENTER_ERROR.pack(
            ofproto.OFPET_EXPERIMENTER, _BUNDLE_FAILED, ofproto_common.ONF_EXPERIMENTER_ID
        )
        header = _HEADER.pack(ofproto.OFP_VERSION, ofproto.OFPT_ERROR, _HEADER.size + len(body), 0)
        wire = bytearray(header + body)
        return [
            parser.OFPErrorMsg.parser(
                self, ofproto.OFP_VERSION, ofproto.OFPT_ERROR, len(wire), None, wire
            )
        ]

    def _forget(self, _message: Any) -> None:
        """Conntrack is not part of this."""


_HANDLERS: dict[type, Callable[[FakeBridge, Any], list[Any] | None]] = {
    parser.OFPPortDescStatsRequest: FakeBridge._describe_ports,
    parser.OFPGetConfigRequest: FakeBridge._get_config,
    parser.OFPSetConfig: FakeBridge._set_config,
    parser.OFPFlowStatsRequest: FakeBridge._dump,
    parser.OFPBarrierRequest: FakeBridge._barrier,
    FlowMod: FakeBridge._flow_mod,
    parser.ONFBundleCtrlMsg: FakeBridge._control,
    BundleAdds: FakeBridge._fill,
    parser.OFPExperimenter: FakeBridge._forget,
}


def _description(name: str, number: int, state: int) -> Any:
    return parser.OFPPort(number, "", name.encode(), 0, state, *[0] * 6)


def read_flow_mod(bridge: FakeBridge, wire: bytes) -> Any:
    """Read a flow mod from the bytes that it is sent as."""
    version, kind, length, xid = _HEADER.unpack_from(wire)
    assert (version, kind, length) == (ofproto.OFP_VERSION, ofproto.OFPT_FLOW_MOD, len(wire))
    return parser.OFPFlowMod.parser(bridge, version, kind, length, xid, bytearray(wire))


def listed(flow: Any) -> FlowStats:
    """Write a flow's statistics, and read them as the application does."""
    body = bytearray()
    flow.match.serialize(body, 0)
    for instruction in flow.instructions:
        instruction.serialize(body, len(body))
    times = 0, flow.hard_timeout, 0
    wire = bytearray(
        _STATS.pack(_STATS.size + len(body), flow.table_id, flow.priority, *times, flow.cookie)
    )
    return FlowStats.parser(bytes(wire + body), 0)


def _refusal(bridge: FakeBridge) -> Any:
    return parser.OFPErrorMsg(
        bridge, ofproto.OFPET_FLOW_MOD_FAILED, ofproto.OFPFMFC_TABLE_FULL, data=b""
    )
