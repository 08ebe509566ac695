"""An OpenFlow client that sees a bridge's flows change, and changes them, as somebody else may.

It is no part of the application, and uses its parser of news alone: what it sees and when is what
Open vSwitch tells any client.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

from fedsdn.errors import FedsdnError
from fedsdn.openflow import flow_monitor
from fedsdn.openflow.mirror import TABLES, Mirror

_VERSION = 4  # OpenFlow 1.3
_HELLO, _ECHO, _ECHO_REPLY, _EXPERIMENTER, _FLOW_MOD, _REQUEST, _REPLY = 0, 2, 3, 4, 14, 18, 19
_EXPERIMENTER_MULTIPART = 0xFFFF
_HEADER = struct.Struct("!BBHI")
_MULTIPART = struct.Struct("!HH4xII")
_NOTICE = struct.Struct("!II")
_MORE = 1
_DELETE_ALL = struct.Struct("!QQBBHHHIIIHxxHH4x").pack(
    *(0, 0, 0xFF, 3, 0, 0, 0), *(0xFFFFFFFF,) * 3, 0, 1, 4
)
"""OFPFC_DELETE of all flows of all tables: what ``ovs-ofctl del-flows`` sends."""
_CHUNK = 1 << 18

Condition = Callable[[Mirror], bool]


class BridgeGoneError(FedsdnError):
    """A bridge has closed the connection."""


class BridgeQuietError(FedsdnError):
    """What was waited for has not happened."""


class BridgeWatch:
    """A connection to a bridge's management socket, told of all flows in the tables of ours."""

    def __init__(self, path: Path) -> None:
        """Connect.

        Raises:
            OSError: there is no bridge behind this path.

        """
        self.mirror = Mirror()
        self._received = bytearray()
        self._stream = socket.socket(socket.AF_UNIX)
        try:
            self._stream.connect(str(path))
        except OSError:
            self._stream.close()
            raise
        self._send(_HELLO)
        about = _MULTIPART.pack(
            _EXPERIMENTER_MULTIPART, 0, flow_monitor.ONF, flow_monitor.FLOW_MONITOR
        )
        self._send(_REQUEST, about + flow_monitor.request(TABLES))

    def __enter__(self) -> BridgeWatch:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def send(self, message: bytes) -> None:
        """Send a whole message, as ``WireFlow.add`` writes one."""
        self._stream.sendall(message)

    def delete_all(self) -> None:
        """Delete all flows of the bridge, whosesoever."""
        self._send(_FLOW_MOD, _DELETE_ALL)

    def until(self, condition: Condition, seconds: float) -> float:
        """Follow the bridge until ``condition`` holds; return when (``time.monotonic``).

        Raises:
            BridgeGoneError: the bridge has closed the connection.
            BridgeQuietError: it does not hold after so many seconds.

        """
        deadline = time.monotonic() + seconds
        while not (self.mirror.current and condition(self.mirror)):
            left = deadline - time.monotonic()
            if left <= 0:
                raise BridgeQuietError(f"flows are not as they should be after {seconds:g} s")
            self._read(left)
        return time.monotonic()

    def _send(self, kind: int, body: bytes = b"") -> None:
        self.send(_HEADER.pack(_VERSION, kind, _HEADER.size + len(body), 0) + body)

    def _read(self, seconds: float) -> None:
        self._stream.settimeout(seconds)
        try:
            chunk = self._stream.recv(_CHUNK)
        except TimeoutError:
            return
        except ConnectionError:
            chunk = b""
        if not chunk:
            raise BridgeGoneError("the bridge has closed the connection")
        self._received += chunk
        while len(self._received) >= _HEADER.size:
            _, kind, length, _ = _HEADER.unpack_from(self._received)
            if len(self._received) < length:
                return
            self._take(kind, bytes(self._received[_HEADER.size : length]))
            del self._received[:length]

    def _take(self, kind: int, body: bytes) -> None:
        if kind == _ECHO:
            self._send(_ECHO_REPLY, body)
        elif kind == _EXPERIMENTER:
            notice = flow_monitor.notice(*_NOTICE.unpack_from(body))
            if notice is not None:
                self.mirror.notice(notice)
        elif kind == _REPLY:
            _, flags, *_ = _MULTIPART.unpack_from(body)
            self.mirror.read(body[_MULTIPART.size :])
            if not flags & _MORE:
                self.mirror.complete = True
