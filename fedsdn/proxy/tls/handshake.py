"""The handshakes of TLS on connections between sites."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import socket
import ssl
import struct
import termios
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from fedsdn.proxy.ended.record import Reason, Who
from fedsdn.proxy.sockets.exchange import readable, writable
from fedsdn.proxy.tls.secured import Secured, TlsError, translated

HANDSHAKE_SECONDS = 35.0
"""How long the other side may take: as long as for an answer to a request. A server that has no
room for more connections leaves them in the kernel. How long callers may take, ``admission`` says.
"""

MOST_BYTES = 8192
"""So many octets of a handshake are taken; a peer's has 3,000 at most, with a request behind it.
What comes while a step reads is not counted: there ``chain_limit`` holds."""

_UNREAD = struct.Struct("i")

Turn = Callable[[], AbstractAsyncContextManager[object]]
"""Waits until a handshake may take its next step, which is half a millisecond of calculation."""


async def shake_hands(sock: Secured, turn: Turn) -> bytes:
    """Make the handshake of a connected socket; return the other side's certificate (DER).

    Raises:
        TlsError: the other side does not prove what it should; or a caller does not in time.
        OSError: the connection broke, or the server does not answer in time.

    """
    limit = asyncio.timeout(HANDSHAKE_SECONDS)
    try:
        async with limit:
            taken = 0
            while True:
                async with turn():
                    taken += _unread(sock)
                    wait = _step(sock, taken)
                if wait is None:
                    break
                await wait(sock)
    except TimeoutError:
        if not limit.expired():
            raise  # the kernel's: the path is lost
        late = f"no handshake within {HANDSHAKE_SECONDS:g} s"
        if not sock.server_side:
            raise OSError(errno.ETIMEDOUT, late) from None
        raise TlsError(Reason.PROTOCOL, Who.PEER, late) from None
    certificate = sock.getpeercert(binary_form=True)
    if certificate is None:
        raise TlsError(Reason.CERTIFICATE, Who.HERE, "it shows no certificate")
    return certificate


def _step(sock: Secured, taken: int) -> Callable[[Secured], Awaitable[None]] | None:
    """Go on as far as possible; return what to wait for, None at the end."""
    if taken > MOST_BYTES:
        raise TlsError(Reason.PROTOCOL, Who.PEER, f"a handshake of more than {MOST_BYTES} octets")
    try:
        sock.do_handshake()
    except ssl.SSLWantReadError:
        return readable
    except ssl.SSLWantWriteError:
        return writable
    except OSError as error:
        raise translated(error) from error
    return None


def _unread(sock: socket.socket) -> int:
    """Return how many octets have come; a step takes all of them that are of the handshake."""
    (count,) = _UNREAD.unpack(fcntl.ioctl(sock, termios.FIONREAD, bytes(_UNREAD.size)))
    return int(count)
