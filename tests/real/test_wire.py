"""Open vSwitch tells of the flows that are written as bytes exactly as they were written."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import pytest

from fedsdn.openflow import flow_monitor
from fedsdn.openflow.mirror import TABLES, Mirror
from fedsdn.openflow.wire import FlowWriter
from tests.real.site_host import BRIDGE, LIMIT_S, SiteHost
from tests.unit.test_wire import FLOWS, PORTS

pytestmark = pytest.mark.real

HEADER = struct.Struct("!BBHI")
HELLO, MULTIPART, MULTIPART_REPLY = 0, 18, 19
REQUEST = struct.pack("!HH4xII", 0xFFFF, 0, flow_monitor.ONF, flow_monitor.FLOW_MONITOR)
ANSWER_BYTES = 16
MORE = 1


def tell(bridge: socket.socket, kind: int, body: bytes = b"") -> None:
    bridge.sendall(HEADER.pack(4, kind, HEADER.size + len(body), 1) + body)


def hear(bridge: socket.socket) -> tuple[int, bytes]:
    """Return type and body of the next message."""
    head = bridge.recv(HEADER.size, socket.MSG_WAITALL)
    _, kind, length, _ = HEADER.unpack(head)
    return kind, bridge.recv(length - HEADER.size, socket.MSG_WAITALL)


def watch(bridge: socket.socket, mirror: Mirror) -> None:
    """Ask for news of flows, and take those that are there."""
    tell(bridge, MULTIPART, REQUEST + flow_monitor.request(TABLES))
    more = MORE
    while more:
        more = follow(bridge, mirror)


def follow(bridge: socket.socket, mirror: Mirror) -> int:
    """Take one message of news."""
    kind, body = hear(bridge)
    assert kind == MULTIPART_REPLY, body
    mirror.read(body[ANSWER_BYTES:])
    more: int = struct.unpack_from("!H", body, 2)[0]
    return more


def test_open_vswitch_tells_of_what_was_written_and_deletes_it() -> None:
    written = {flow.key: flow for flow in map(FlowWriter(PORTS).write, FLOWS)}
    with SiteHost() as host, socket.socket(socket.AF_UNIX) as bridge:
        path: Path = host.run_directory / f"openvswitch/{BRIDGE}.mgmt"
        bridge.settimeout(LIMIT_S)
        bridge.connect(str(path))
        tell(bridge, HELLO)
        assert hear(bridge)[0] == HELLO
        half = len(written) // 2
        for flow in list(written.values())[:half]:
            bridge.sendall(flow.add(2))
        mirror = Mirror()
        watch(bridge, mirror)
        for flow in list(written.values())[half:]:
            bridge.sendall(flow.add(2))
            follow(bridge, mirror)
        assert mirror.flows == written
        for flow in written.values():
            bridge.sendall(flow.delete(3))
            follow(bridge, mirror)
        assert mirror.flows == {}
