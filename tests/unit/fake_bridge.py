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

from fedsdn.openflow import flow_monitor
from fedsdn.openflow.flow_monitor import Change, Notice
from fedsdn.openflow.wire import (
    BundleAdds,
    FlowMod,
    Key,
    WireFlow,
    read_match,
    written_match,
)

UP, DOWN = 0, ofproto.OFPPS_LINK_DOWN

_HEADER = struct.Struct("!BBHI")
_EXPERIMENTER_ERROR = struct.Struct("!HHI")
_BUNDLE_ADD_BYTES = 24
_FLOW_MOD = struct.Struct("!8xQ8xBBxxHH16x")
"""``ofp_flow_mod``: cookie, table, command, hard time-out, priority."""
_UPDATE = struct.Struct("!HHHHHHHBxQ")
"""``struct nx_flow_update_full`` of Open vSwitch's include/openflow/nicira-ext.h."""
_BUNDLE_FAILED = 2311
"""ONF extension 230, ``ONFBEC_MSG_FAILED``."""


@dataclass
class FakeBridge(ProtocolDesc):  # type: ignore[misc]
    """A bridge with a connection; ``tell`` is given what it says, like os-ken's events."""

    tell: Callable[[Any], None] = lambda _message: None
    bridge: str = "br-provider"
    ports: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Number and state by name."""
    flows: dict[Key, WireFlow] = field(default_factory=dict)
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
        self._bundle: list[tuple[int, bytes]] = []
        self._monitored = False
        self._held_back: list[bytes] | None = None

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

    def _monitor(self, request: Any) -> list[Any]:
        """Tell all flows of the tables that are asked for, in two parts, and all changes later."""
        assert (request.experimenter, request.exp_type) == (flow_monitor.ONF, 1870)
        self._monitored = True
        told = [written_update(Change.ADDED, flow) for flow in self.flows.values()]
        more, half = ofproto.OFPMPF_REPLY_MORE, len(told) // 2
        return [self._news(told[:half], more), self._news(told[half:], 0)]

    def _news(self, told: list[bytes], flags: int = 0) -> Any:
        body = parser.OFPExperimenterMultipart(
            flow_monitor.ONF, flow_monitor.FLOW_MONITOR, b"".join(told)
        )
        return parser.OFPExperimenterStatsReply(self, flags=flags, body=body)

    def _tell(self, change: Change, flow: WireFlow) -> None:
        if not self._monitored:
            return
        told = written_update(change, flow)
        if self._held_back is None or change is Change.DELETED:
            self._say_unasked(self._news([told]))
        else:
            self._held_back.append(told)

    def _say_unasked(self, message: Any) -> None:
        message.set_xid(0)
        self._say(message)

    def pause(self) -> None:
        """Hold additions and changes of flows back, as for somebody who reads too slowly."""
        self._held_back = []
        self._say_unasked(parser.OFPExperimenter(self, flow_monitor.ONF, Notice.PAUSED, b""))

    def resume(self) -> None:
        """Tell what was held back."""
        assert self._held_back is not None
        self._say_unasked(self._news(self._held_back))
        self._held_back = None
        self._say_unasked(parser.OFPExperimenter(self, flow_monitor.ONF, Notice.RESUMED, b""))

    def delete(self, key: Key) -> None:
        """Delete a flow, as somebody else does."""
        self._tell(Change.DELETED, self.flows.pop(key))

    def put(self, flow: WireFlow) -> None:
        """Add a flow or change it, as somebody else does."""
        change = Change.MODIFIED if flow.key in self.flows else Change.ADDED
        self.flows[flow.key] = flow
        self._tell(change, flow)

    def _barrier(self, _request: Any) -> list[Any]:
        return [parser.OFPBarrierReply(self)]

    def _flow_mod(self, message: Any) -> list[Any]:
        if self.refuses(read_flow_mod(self, message.buf)):
            return [_refusal(self)]
        self._apply(message.buf)
        return []

    def _apply(self, wire: bytes) -> None:
        cookie, table, command, hard_timeout, priority = _FLOW_MOD.unpack_from(wire)
        match, at = read_match(wire, _FLOW_MOD.size)
        flow = WireFlow(table, priority, match, cookie, bytes(wire[at:]), hard_timeout)
        if command == ofproto.OFPFC_ADD:
            self.put(flow)
        else:
            assert command == ofproto.OFPFC_DELETE_STRICT
            if flow.key in self.flows:
                self.delete(flow.key)

    def _control(self, message: Any) -> list[Any]:
        if message.type == ofproto.ONF_BCT_COMMIT_REQUEST:
            refused = [
                xid for xid, wire in self._bundle if self.refuses_commit(read_flow_mod(self, wire))
            ]
            if refused:
                self._bundle = []
                return self._refuse_commit(refused[0])
            for _, wire in self._bundle:
                self._apply(wire)
        self._bundle = []
        # A reply's type is the request's plus one (ONF extension 230).
        return [parser.ONFBundleCtrlMsg(self, message.bundle_id, message.type + 1, 0, [])]

    def _fill(self, message: Any) -> list[Any]:
        """Take the messages that put flow mods into the bundle, and refuse the bad ones."""
        refusals, wire = [], message.buf
        while wire:
            length = _HEADER.unpack_from(wire)[2]
            mod = bytes(wire[_BUNDLE_ADD_BYTES:length])
            if self.refuses(read_flow_mod(self, mod)):
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
    parser.OFPExperimenterStatsRequest: FakeBridge._monitor,
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


def written_update(change: Change, flow: WireFlow) -> bytes:
    """Write what a flow monitor tells of a flow."""
    rest = written_match(flow.match) + flow.instructions
    size, fields = _UPDATE.size + len(rest), 4 + len(flow.match)
    head = size, change, 0, flow.priority, 0, flow.hard_timeout, fields, flow.table, flow.cookie
    return _UPDATE.pack(*head) + rest


def _refusal(bridge: FakeBridge) -> Any:
    return parser.OFPErrorMsg(
        bridge, ofproto.OFPET_FLOW_MOD_FAILED, ofproto.OFPFMFC_TABLE_FULL, data=b""
    )
