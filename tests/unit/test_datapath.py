"""What os-ken reads of the bridge's messages."""

from __future__ import annotations

import struct
from types import SimpleNamespace

from os_ken.ofproto import ofproto_parser
from os_ken.ofproto import ofproto_v1_3 as ofproto

from fedsdn.openflow import datapath, flow_monitor

NEWS = bytes(range(256)) * 255
"""As long as a message may be; whatever is in it."""


def test_a_long_message_of_news_is_read_once() -> None:
    """os-ken would read it again behind each 16 octets: 20 ms for each of many messages."""
    body = struct.pack("!II", flow_monitor.ONF, flow_monitor.FLOW_MONITOR) + NEWS
    rest = struct.pack("!HH4x", ofproto.OFPMP_EXPERIMENTER, ofproto.OFPMPF_REPLY_MORE) + body
    head = struct.pack("!BBHI", ofproto.OFP_VERSION, ofproto.OFPT_MULTIPART_REPLY, 8 + len(rest), 7)
    bridge = SimpleNamespace()
    number, kind, length, xid = struct.unpack("!BBHI", head)
    message = ofproto_parser.msg(bridge, number, kind, length, xid, bytearray(head + rest))
    assert message.flags == ofproto.OFPMPF_REPLY_MORE
    assert message.body.data == NEWS
    assert message.body.exp_type == flow_monitor.FLOW_MONITOR
    assert datapath._Experimenters.parser(body, 0).length == len(body)
    assert message.body.length == len(body)
