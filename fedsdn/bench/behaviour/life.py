"""What becomes of a connection when a VM stands still, goes away or moves."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack

from fedsdn.bench.behaviour.case import (
    Case,
    Difference,
    Ends,
    accepted,
    both,
    error_word,
    port_of,
    read_exactly,
)
from fedsdn.bench.guests import Guest

_LIMIT_SECONDS = 90.0
_USER_TIMEOUT_MS = 5000
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 2), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 3))
_KEPT_SECONDS = 12.0
_TCP_REPAIR = 19
"""Linux ``linux/tcp.h``: a socket that is closed in repair leaves without a word."""
_GONE_SECONDS = 20.0
"""A VM that is gone is found out in a quarter of that, on a machine with nothing else to do."""
_NOTICED_SECONDS = 21.0
"""So much later, if it is at another site."""
_GONE = ("Connection timed out", "No route to host")
"""What a kernel says of who does not answer: the second if its ARP is not answered either."""


def _server_paused(ends: Ends) -> str:
    with ends.connected() as (client, server):
        return _paused(ends.server, server, client, ends.lengths.paused)


def _client_paused(ends: Ends) -> str:
    with ends.connected() as (client, server):
        return _paused(ends.client, client, server, ends.lengths.paused)


def _paused(vm: Guest, sock: socket.socket, other: socket.socket, seconds: float) -> str:
    """Have a VM stand still for long, with data on the way to it, as in a live migration.

    ``sock`` is its end of the connection.
    """
    other.sendall(b"before")
    read_exactly(sock, 6)
    with vm.frozen():
        other.sendall(b"meanwhile")
        other.settimeout(seconds)
        if (seen := _ending(other)) != "nothing":
            return f"{seen} meanwhile"
    sock.sendall(b"after")
    other.settimeout(_LIMIT_SECONDS)
    try:
        return "goes on" if read_exactly(other, 5) == b"after" else "ended"
    except OSError as error:
        return error_word(error)


def _keepalive(ends: Ends) -> str:
    """Have the server gone, and the client idle, with keep-alive."""
    with ends.connected() as (client, _):
        _keep_alive(client)
        with ends.server.frozen():
            began = time.monotonic()
            client.settimeout(_LIMIT_SECONDS)
            return gone_word(_ending(client), time.monotonic() - began)


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
            began = time.monotonic()
            return gone_word(_ending_of_writer(client), time.monotonic() - began)


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
    while seen == "nothing" and time.monotonic() < deadline:
        try:
            sock.sendall(b"anybody?")
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


def gone_word(seen: str, seconds: float) -> str:
    """Say how a connection to a VM that is gone ended, and how soon after that."""
    if seen not in _GONE:
        return seen
    for bound in (_GONE_SECONDS, _GONE_SECONDS + _NOTICED_SECONDS):
        if seconds <= bound:
            return f"timed out within {bound:g} s"
    return "timed out later"


def _keep_alive(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


_TIMED_OUT = gone_word(_GONE[0], 0)
_NOTICED_LATER = Difference(
    gone_word(_GONE[0], _GONE_SECONDS + _NOTICED_SECONDS),
    "a site probes its VM after ten idle seconds, and believes two probes",
)

CASES = (
    Case("server paused", "stands still for long, with data on the way to it", _server_paused,
         both("goes on"), seconds=125),
    Case("client paused", "stands still for long, with data on the way to it", _client_paused,
         both("goes on"), seconds=125),
    Case("VM killed, idle", "the client's keep-alive finds out", _keepalive, both(_TIMED_OUT),
         _NOTICED_LATER, seconds=40),
    Case("VM killed, busy", "the client's user time-out finds out", _user_timeout,
         both(_TIMED_OUT), _NOTICED_LATER, seconds=40),
    Case("VM rebooted", "the server knows nothing of the connection", _rebooted, both("reset")),
    Case("keep-alive", "of an idle connection to a VM that lives", _keepalive_answered,
         both("after"), seconds=13),
    Case("address moves", "another VM takes the server's address over", _moved,
         both("old: reset, new: there"), seconds=8),
)  # fmt: skip
