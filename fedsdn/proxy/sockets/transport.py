"""Makes the connections between sites, and is the only module that does.

They are Multipath TCP (RFC 8684) on dual-stack sockets, because a socket of one family cannot
have subflows of the other.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Sequence
from contextlib import suppress

from fedsdn.config.model import Uplink
from fedsdn.proxy.sockets import tcp

HEAD_START_SECONDS = 0.25
"""Delay before the next path is tried as well (RFC 8305, section 5)."""

CHECK_SECONDS = 60
"""Idle time before the peer is probed (TCP keepalive)."""

_UNANSWERED_CHECKS = 120
"""Unanswered probes before the connection is dropped: two hours, as in tcp(7). An uplink may be
away."""

FIRST_SEGMENT_BYTES = 1100
"""Payload of one segment at the minimum MTU of IPv6 (RFC 8200, section 5), with all options. A
connection falls back to TCP if a later segment overtakes the first, which carries the keys (RFC
8684, section 3.1): so no more may be sent before the peer's answer."""

ATTEMPT_SECONDS = 15.0
"""Time-out for a peer's answer, on all paths together."""


def listen(port: int) -> socket.socket:
    """Listen for peers on every address of the namespace.

    Raises:
        OSError: the port is taken, or the kernel has no MPTCP.

    """
    listener = _socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("::", port))
        listener.listen(tcp.BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def prepare(sock: socket.socket) -> None:
    """Set the options of every connection between sites.

    A peer's reset is sent once, and may be lost: the resets of many connections may overflow a
    queue on the way. Without keepalive an idle connection would outlive its peer for hours.

    Raises:
        OSError: the connection is gone.

    """
    tcp.prepare(sock)
    with suppress(OSError):  # before Linux 6.9
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, CHECK_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, CHECK_SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _UNANSWERED_CHECKS)


def _socket(protocol: int = socket.IPPROTO_MPTCP) -> socket.socket:
    sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        prepare(sock)
    except OSError:
        sock.close()
        raise
    return sock


async def connect(
    paths: Sequence[tuple[Uplink, Uplink]],
    port: int,
    protocol: int = socket.IPPROTO_MPTCP,
    at_once: int = 1,
) -> socket.socket:
    """Connect to a peer over the first of ``paths`` that answers.

    A path that stays silent delays the next by ``HEAD_START_SECONDS``, one that fails by nothing;
    the first ``at_once`` do not wait for each other. ``protocol`` is that of the socket.

    Raises:
        OSError: none answers; ``ENETUNREACH`` when there is none, ``ETIMEDOUT`` when all are
            silent.

    """
    attempts: set[asyncio.Task[socket.socket]] = set()
    waiting = list(reversed(paths))
    failure = OSError(errno.ENETUNREACH, "no path to the peer")
    try:
        async with asyncio.timeout(ATTEMPT_SECONDS):
            while waiting or attempts:
                for path in reversed(waiting[-at_once:]):
                    attempts.add(asyncio.create_task(_connect_over(path, port, protocol)))
                del waiting[-at_once:]
                at_once = 1
                done, _ = await asyncio.wait(
                    attempts,
                    timeout=HEAD_START_SECONDS if waiting else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for attempt in done:
                    attempts.discard(attempt)
                    error = attempt.exception()
                    if error is None:
                        return attempt.result()
                    if not isinstance(error, OSError):
                        raise error
                    failure = error
    except TimeoutError:
        failure = OSError(errno.ETIMEDOUT, "no path to the peer answers")
    finally:
        # Nothing is awaited here: a cancellation could come between, and lose the connection.
        for attempt in attempts:
            attempt.cancel()
            attempt.add_done_callback(_close_connected)
    raise failure


def _close_connected(attempt: asyncio.Task[socket.socket]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


async def _connect_over(path: tuple[Uplink, Uplink], port: int, protocol: int) -> socket.socket:
    own, other = path
    sock = _socket(protocol)
    try:
        # The port is chosen when the peer is known: it may be in use towards another one.
        with suppress(OSError):  # before Linux 6.9
            sock.setsockopt(socket.SOL_IP, tcp.IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((tcp.mapped(own.address.ip), 0))
        await tcp.connect(sock, (tcp.mapped(other.peer_address), port))
    except BaseException:
        sock.close()
        raise
    return sock


def fallen_back() -> OSError:
    """Make the error for a connection that is refused because it has fallen back to TCP."""
    return OSError(errno.EPROTONOSUPPORT, "Multipath TCP has fallen back to TCP")
