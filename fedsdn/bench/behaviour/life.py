"""What becomes of a connection when a VM stands still, goes away or moves."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack

from fedsdn.bench.behaviour.case import (
    Case,
    Ends,
    accepted,
    both,
    error_word,
    port_of,
    read_exactly,
    until,
)

_LIMIT_SECONDS = 90.0
_USER_TIMEOUT_MS = 5000
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 2), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 3))
_KEPT_SECONDS = 12.0
_TCP_REPAIR = 19
"""Linux ``linux/tcp.h``: a socket that is closed in repair leaves without a word."""
_GONE = ("Connection timed out", "No route to host")
"""What a kernel says of who does not answer: the second if its ARP is not answered either."""


def _paused(ends: Ends) -> str:
    """Have a VM stand still for long, with data on the way to it, as in a live migration."""
    with ends.connected() as (client, server):
        client.sendall(b"before")
        read_exactly(server, 6)
        with ends.server.frozen():
            client.sendall(b"meanwhile")
            client.settimeout(ends.lengths.paused)
            if (seen := _ending(client)) != "nothing":
                return f"{seen} meanwhile"
        server.sendall(b"after")
        client.settimeout(_LIMIT_SECONDS)
        try:
            return "goes on" if read_exactly(client, 5) == b"after" else "ended"
        except OSError as error:
            return error_word(error)


def _paused_client(ends: Ends) -> str:
    with ends.connected() as (client, server):
        client.sendall(b"before")
        read_exactly(server, 6)
        with ends.client.frozen():
            server.sendall(b"meanwhile")
            server.settimeout(ends.lengths.paused)
            if (seen := _ending(server)) != "nothing":
                return f"{seen} meanwhile"
        client.sendall(b"after")
        server.settimeout(_LIMIT_SECONDS)
        try:
            return "goes on" if read_exactly(server, 5) == b"after" else "ended"
        except OSError as error:
            return error_word(error)


def _keepalive(ends: Ends) -> str:
    """Have the server gone, and the client idle, with keep-alive."""
    with ends.connected() as (client, _):
        _keep_alive(client)
        with ends.server.frozen():
            client.settimeout(_LIMIT_SECONDS)
            return _gone_word(_ending(client))


def _keepalive_answered(ends: Ends) -> str:
    with ends.connected() as (client, server):
        _keep_alive(client)
        client.settimeout(_KEPT_SECONDS)
        if (seen := _ending(client)) != "nothing":
            return seen
        server.sendall(b"after")
        return read_exactly(client, 5).decode()


def _user_timeout(ends: Ends) -> str:
    """Have the server gone, and the client send (RFC 5482)."""
    with ends.connected() as (client, _):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
        with ends.server.frozen():
            client.settimeout(1.0)
            deadline = time.monotonic() + _LIMIT_SECONDS
            while time.monotonic() < deadline:
                try:
                    client.sendall(b"anybody?")
                except OSError as error:
                    return _gone_word(error_word(error))
                if (seen := _ending(client)) != "nothing":
                    return _gone_word(seen)
    return "nothing"


def _rebooted(ends: Ends) -> str:
    """Have the server forget the connection, and the client write to it."""
    with ends.connected() as (client, server):
        server.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
        server.close()
        client.sendall(b"hello")
        client.settimeout(_LIMIT_SECONDS)
        return _ending(client)


def _moved(ends: Ends) -> str:
    """Have another VM take an address of the server over, as a cluster does."""
    moving = ends.missing[-1]
    with ExitStack() as stack:
        with ends.server.having(moving):
            listener = stack.enter_context(ends.server.namespace.listen(moving))
            port = port_of(listener)
            client = stack.enter_context(ends.client.namespace.connect(moving, port))
            stack.enter_context(accepted(listener))
        stack.enter_context(ends.spare.having(moving))
        ends.spare.announce(moving)
        new_listener = stack.enter_context(ends.spare.namespace.listen(moving, port))
        old = _ending_of_writer(client)
        newer = stack.enter_context(ends.client.namespace.connect(moving, port))
        server = stack.enter_context(accepted(new_listener))
        newer.sendall(b"hello")
        new = read_exactly(server, 5) == b"hello"
    return f"old: {old}, new: {'there' if new else 'elsewhere'}"


def _ending_of_writer(sock: socket.socket) -> str:
    sock.settimeout(1.0)
    deadline = time.monotonic() + _LIMIT_SECONDS
    seen = "nothing"
    while seen == "nothing" and until(deadline) > 0.001:
        try:
            sock.sendall(b"?")
        except OSError as error:
            return error_word(error)
        seen = _ending(sock)
    return seen


def _ending(sock: socket.socket) -> str:
    """Say how a connection ended within the socket's time-out."""
    try:
        return "data" if sock.recv(1) else "end"
    except OSError as error:
        return error_word(error)


def _gone_word(seen: str) -> str:
    return "timed out" if seen in _GONE else seen


def _keep_alive(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


CASES = (
    Case("server paused", "stands still for long, with data on the way to it", _paused,
         both("goes on"), seconds=125),
    Case("client paused", "stands still for long, with data on the way to it", _paused_client,
         both("goes on"), seconds=125),
    Case("VM killed, idle", "the client's keep-alive finds out", _keepalive, both("timed out"),
         seconds=40),
    Case("VM killed, busy", "the client's user time-out finds out", _user_timeout,
         both("timed out"), seconds=40),
    Case("VM rebooted", "the server knows nothing of the connection", _rebooted, both("reset")),
    Case("keep-alive", "of an idle connection to a VM that lives", _keepalive_answered,
         both("after"), seconds=13),
    Case("address moves", "another VM takes the server's address over", _moved,
         both("old: reset, new: there"), seconds=8),
)  # fmt: skip
