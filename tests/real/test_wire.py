"""Open vSwitch lists the flows that are written as bytes exactly as they were written."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import pytest

from fedsdn.openflow.wire import FlowWriter, Key, WireFlow, read_stats
from tests.real.site_host import BRIDGE, SiteHost
from tests.unit.test_wire import FLOWS, PORTS

pytestmark = pytest.mark.real

HEADER = struct.Struct("!BBHI")
HELLO, ERROR, FEATURES, MULTIPART, MULTIPART_REPLY = 0, 1, 5, 18, 19
ALL_FLOWS = struct.pack("!HH4xB3xII4xQQHH4x", 1, 0, 0xFF, *[0xFFFFFFFF] * 2, 0, 0, 1, 4)


def tell(bridge: socket.socket, kind: int, body: bytes = b"") -> None:
    bridge.sendall(HEADER.pack(4, kind, HEADER.size + len(body), 1) + body)


def hear(bridge: socket.socket) -> tuple[int, bytes]:
    """Return type and body of the next message."""
    head = bridge.recv(HEADER.size, socket.MSG_WAITALL)
    _, kind, length, _ = HEADER.unpack(head)
    return kind, bridge.recv(length - HEADER.size, socket.MSG_WAITALL)


def listed(bridge: socket.socket) -> dict[Key, WireFlow]:
    """Return all flows of the bridge."""
    found: dict[Key, WireFlow] = {}
    tell(bridge, MULTIPART, ALL_FLOWS)
    more = 1
    while more:
        kind, body = hear(bridge)
        assert kind == MULTIPART_REPLY, body
        more = struct.unpack_from("!H", body, 2)[0]
        at = 8
        while at < len(body):
            flow, length = read_stats(body, at)
            found[flow.key] = flow
            at += length
    return found


def test_open_vswitch_lists_what_was_written_and_deletes_it() -> None:
    written = {flow.key: flow for flow in map(FlowWriter(PORTS).write, FLOWS)}
    with SiteHost() as host, socket.socket(socket.AF_UNIX) as bridge:
        path: Path = host.run_directory / f"openvswitch/{BRIDGE}.mgmt"
        bridge.connect(str(path))
        tell(bridge, HELLO)
        assert hear(bridge)[0] == HELLO
        for flow in written.values():
            bridge.sendall(flow.add(2))
        assert listed(bridge) == written
        for flow in written.values():
            bridge.sendall(flow.delete(3))
        assert listed(bridge) == {}
