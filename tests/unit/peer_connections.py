"""Connections to a peer's proxy, as the proxy has them, over loopback."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar

from fedsdn.proxy.sockets import tcp
from fedsdn.proxy.sockets.path_manager import Managed
from fedsdn.proxy.socks.connection import Connection
from tests.unit.federations import two_sites
from tests.unit.loopback import tcp_pair

PEER = two_sites().site("b")

Made = TypeVar("Made", bound=Connection)


def connected(kind: type[Made], ended: Callable[..., Any]) -> tuple[Made, socket.socket]:
    """Return a connection to ``PEER``, and the peer's end of it."""
    far, end = tcp_pair()
    tcp.prepare(far)
    opened = ExitStack()
    opened.enter_context(far)
    managed = Managed(far, 0, PEER.name, lambda *_: None)
    return kind(far, PEER, managed, opened, ended), end
