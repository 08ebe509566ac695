"""A connection between sites with TLS 1.3 on it, used as any non-blocking socket is.

It differs from ``ssl.SSLSocket`` in that: what cannot be done now raises ``BlockingIOError``, and a
connection that breaks raises what a socket without TLS would. The end of the connection is an end
of stream, whether TLS has announced it or not: what VMs end, they end by records
(``relay.records``), and without those it is a reset.
"""

from __future__ import annotations

import errno
import socket
import ssl
from hashlib import sha256
from typing import TYPE_CHECKING, cast

from fedsdn.proxy.ended.record import Reason, Who

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_WAITS = (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError)

_OUR_CERTIFICATE = ("CERTIFICATE", "UNKNOWN_CA")
"""Words of the alerts by which the other side refuses a certificate (RFC 8446, section 6.2)."""

_NO_TLS = {
    "WRONG_VERSION_NUMBER": "it speaks something else than TLS",
    "HTTP_REQUEST": "it speaks HTTP",
    "RECORD_LAYER_FAILURE": "it speaks something else than TLS",
}
"""What OpenSSL says of bytes that are no TLS."""

_NONE_SHOWN = "PEER_DID_NOT_RETURN_A_CERTIFICATE"


class TlsError(OSError):
    """The other side is not proven to be the peer, or what it sends is not TLS as it was agreed.

    ``reason`` says what is wrong, ``who`` has found it, and ``detail`` is a few words.
    """

    def __init__(self, reason: Reason, who: Who, detail: str) -> None:
        """Say it."""
        super().__init__(errno.EPROTO, detail)
        self.reason = reason
        self.who = who
        self.detail = detail


class Secured(ssl.SSLSocket):
    """A socket of one of our contexts; the handshake is made by ``handshake``."""

    shown = b""
    """The fingerprint of our certificate."""
    proven = b""
    """The fingerprint of the other side's, once it has proven to have its key."""
    _late: OSError | None = None
    """An error that came behind data: it is raised at the next read."""

    def proves(self, certificate: bytes) -> None:
        """Note whose certificate (DER) the other side has shown."""
        self.proven = sha256(certificate).digest()

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Read at most so many bytes; none at the end.

        Raises:
            ValueError: ``flags``, of which TLS knows none.
            BlockingIOError: there is nothing now.
            OSError: the connection broke.

        """
        if flags:
            raise ValueError(f"flags {flags} on a connection with TLS")
        buffer = bytearray(buflen)
        return bytes(buffer[: self.recv_into(buffer)])

    def recv_into(self, buffer: WriteableBuffer, nbytes: int | None = None, flags: int = 0) -> int:
        """Read into ``buffer`` what is there, of several records, too; 0 at the end.

        Raises:
            BlockingIOError: there is nothing now.
            OSError: the connection broke.

        """
        if self._late is not None:
            raise self._late
        view, got = memoryview(buffer)[:nbytes], 0
        try:
            while got < len(view) and (more := super().recv_into(view[got:])):
                got += more
        except _WAITS:
            if not got:
                raise BlockingIOError(errno.EAGAIN, "no whole record is there") from None
        except OSError as error:
            if not got:
                raise translated(error) from error
            self._late = translated(error)
        return got

    def send(self, data: ReadableBuffer, flags: int = 0) -> int:
        """Send some of ``data``: all, as far as nothing is in the way.

        Raises:
            BlockingIOError: it is not all sent. Some may be: the next thing to be sent must begin
                with the same data.
            OSError: the connection broke.

        """
        try:
            return super().send(data)
        except _WAITS:
            raise BlockingIOError(errno.EAGAIN, "the socket is full") from None
        except OSError as error:
            raise translated(error, writing=True) from error

    def shutdown(self, how: int) -> None:
        """Shut one or both directions down; the other one stays encrypted.

        Raises:
            OSError: the connection broke.

        """
        socket.socket.shutdown(self, how)  # that of SSLSocket would go on in clear


def translated(error: OSError, *, writing: bool = False) -> OSError:
    """Return the error of a socket or the ``TlsError`` that an error of TLS stands for."""
    if not isinstance(error, ssl.SSLError):
        return error
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        number = errno.EPIPE if writing else errno.ECONNRESET
        return OSError(number, "the other side has ended the connection")
    if isinstance(error, ssl.SSLCertVerificationError):
        return TlsError(Reason.CERTIFICATE, Who.HERE, error.verify_message)
    return _broken(cast("str | None", error.reason) or "", str(error))


def _broken(reason: str, otherwise: str) -> TlsError:
    """Say what a ``reason`` of OpenSSL's means."""
    if reason == _NONE_SHOWN:
        return TlsError(Reason.CERTIFICATE, Who.HERE, "it shows no certificate")
    if "ALERT" in reason and any(word in reason for word in _OUR_CERTIFICATE):
        alert = reason.partition("ALERT_")[2]
        return TlsError(Reason.CERTIFICATE, Who.PEER, f"it refuses ours: {_words(alert)}")
    return TlsError(Reason.PROTOCOL, Who.PEER, _NO_TLS.get(reason) or _words(reason) or otherwise)


def _words(name: str) -> str:
    return name.lower().replace("_", " ")
