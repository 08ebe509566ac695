"""The handshakes of TLS on connections between sites."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from fedsdn.proxy.ended.record import Reason, Who
from fedsdn.proxy.sockets.exchange import readable, writable
from fedsdn.proxy.tls.secured import Secured, TlsError, translated

HANDSHAKE_SECONDS = 10.0
"""How long the other side may take to end a handshake."""

Turn = Callable[[], AbstractAsyncContextManager[object]]
"""Waits until a handshake may take its next step, which is half a millisecond of calculation."""


async def shake_hands(sock: Secured, turn: Turn) -> bytes:
    """Make the handshake of a connected socket; return the other side's certificate (DER).

    Raises:
        TlsError: the other side does not prove what it should, or does not in time.
        OSError: the connection broke.

    """
    try:
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            while (wait := await _step(sock, turn)) is not None:
                await wait(sock)
    except TimeoutError:
        late = f"no handshake within {HANDSHAKE_SECONDS:g} s"
        raise TlsError(Reason.PROTOCOL, Who.PEER, late) from None
    certificate = sock.getpeercert(binary_form=True)
    if certificate is None:
        raise TlsError(Reason.CERTIFICATE, Who.HERE, "it shows no certificate")
    return certificate


async def _step(sock: Secured, turn: Turn) -> Callable[[Secured], Awaitable[None]] | None:
    """Go on as far as possible; return what to wait for, None at the end."""
    async with turn():
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            return readable
        except ssl.SSLWantWriteError:
            return writable
        except OSError as error:
            raise translated(error) from error
        return None
