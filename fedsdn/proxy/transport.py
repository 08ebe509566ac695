"""Connections between sites: the only place where they are made.

They are Multipath TCP (RFC 8684) on dual-stack sockets, because a socket of one family cannot
have subflows of the other.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from ipaddress import ip_address

from fedsdn.config.model import Address, Uplink

IPPROTO_MPTCP = 262
"""include/uapi/linux/in.h; Python has the name from 3.14 on."""

_SOL_MPTCP = 284
_MPTCP_INFO = 1
_INFO_BYTES = 256
_FLAGS_OFFSET = 8
_FLAG_FALLBACK = 0x1
"""``mptcpi_flags`` and ``MPTCP_INFO_FLAG_FALLBACK`` of include/uapi/linux/mptcp.h."""

HEAD_START_SECONDS = 0.25
"""How long a path has for itself before the next one is tried as well (RFC 8305, section 5)."""

ATTEMPT_SECONDS = 15.0
"""How long a peer may take to answer on all paths together."""

BACKLOG = 4096


def listen(port: int) -> socket.socket:
    """Listen for peers on every address of the namespace.

    Raises:
        OSError: the port is taken, or the kernel has no MPTCP.

    """
    listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, IPPROTO_MPTCP)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("::", port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


async def connect(paths: Sequence[tuple[Uplink, Uplink]], port: int) -> socket.socket:
    """Connect to a peer over the first of ``paths`` that answers.

    A path that stays silent delays the next by ``HEAD_START_SECONDS``, one that fails by nothing.

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
                if waiting:
                    attempts.add(asyncio.create_task(_connect_over(waiting.pop(), port)))
                done, attempts = await asyncio.wait(
                    attempts,
                    timeout=HEAD_START_SECONDS if waiting else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for attempt in done:
                    error = attempt.exception()
                    if error is None:
                        attempts |= done - {attempt}
                        return attempt.result()
                    if not isinstance(error, OSError):
                        raise error
                    failure = error
    except TimeoutError:
        failure = OSError(errno.ETIMEDOUT, "no path to the peer answers")
    finally:
        await _abandon(attempts)
    raise failure


async def _abandon(attempts: Iterable[asyncio.Task[socket.socket]]) -> None:
    for attempt in attempts:
        attempt.cancel()
        with suppress(OSError, asyncio.CancelledError):
            (await attempt).close()


async def _connect_over(path: tuple[Uplink, Uplink], port: int) -> socket.socket:
    own, other = path
    sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, IPPROTO_MPTCP)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((mapped(own.address.ip), 0))
        await finish_connect(sock, (mapped(other.peer_address), port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


async def finish_connect(sock: socket.socket, address: tuple[str, int]) -> None:
    """Connect a non-blocking socket.

    asyncio's own ``sock_connect`` refuses MPTCP sockets: it looks their protocol up by number.

    Raises:
        OSError: the connection failed.

    """
    with suppress(BlockingIOError):
        sock.connect(address)
        return
    loop = asyncio.get_running_loop()
    writable: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not writable.done():
            writable.set_result(None)

    loop.add_writer(sock.fileno(), wake)
    try:
        await writable
    finally:
        loop.remove_writer(sock.fileno())
    number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number:
        raise OSError(number, errno.errorcode.get(number, "unknown error"))


def fell_back(sock: socket.socket) -> bool:
    """Whether an established connection is plain TCP, because the peer or the path wanted it."""
    try:
        info = sock.getsockopt(_SOL_MPTCP, _MPTCP_INFO, _INFO_BYTES)
    except OSError:
        return True
    flags = int.from_bytes(info[_FLAGS_OFFSET : _FLAGS_OFFSET + 4], "little")
    return bool(flags & _FLAG_FALLBACK)


def mapped(address: Address) -> str:
    """Address for a dual-stack socket (RFC 4291, section 2.5.5.2)."""
    return f"::ffff:{address}" if address.version == 4 else str(address)


def unmapped(text: str) -> Address:
    """Address that a dual-stack socket reports."""
    address = ip_address(text.partition("%")[0])
    if address.version == 6 and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
