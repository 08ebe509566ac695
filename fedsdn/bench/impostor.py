"""Callers who speak TLS and our SOCKS, and are not the peer, or ask for what is not the peer's."""

from __future__ import annotations

import os
import socket
import ssl
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from fedsdn.identity.store import load
from fedsdn.proxy.socks.protocol import GREETING, SELECTION, Reply, Request, encode_reply
from fedsdn.socket_address import SocketAddress

_ANSWER_BYTES = 1 << 12
_YEAR = timedelta(days=365)
_CHAIN = 300


class Kind(StrEnum):
    """What an impostor shows or asks for."""

    NO_CERTIFICATE = "no certificate"
    FOREIGN = "foreign certificate"
    EXPIRED = "expired certificate"
    EARLY = "certificate not yet valid"
    CHAIN = "long chain of certificates"
    """As much as OpenSSL would parse before it refuses them (100 KB)."""
    CLIENT = "another site's client"
    """With the peer's own certificate."""
    DESTINATION = "destination elsewhere"
    """With the peer's own certificate."""


_BEGIN_AND_END = {
    Kind.FOREIGN: (-_YEAR, _YEAR),
    Kind.EXPIRED: (-2 * _YEAR, -_YEAR),
    Kind.EARLY: (_YEAR, 2 * _YEAR),
    Kind.CHAIN: (-_YEAR, _YEAR),
}
_REFUSED = SELECTION + encode_reply(Reply.NOT_ALLOWED)
_NO_ADDRESS = "198.51.100.1"
"""For documentation (RFC 5737)."""


def context(kind: Kind, directory: Path, name: str) -> ssl.SSLContext:
    """Return what an impostor of the site called ``name``, which has its keys there, shows.

    Raises:
        FedsdnError: the keys cannot be read.

    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    if kind in _BEGIN_AND_END:
        now = datetime.now(UTC)
        begin, end = (now + one for one in _BEGIN_AND_END[kind])
        with tempfile.NamedTemporaryFile() as file:
            key, certificate = _certificate(name, begin, end)
            file.write(key + certificate * (_CHAIN if kind is Kind.CHAIN else 1))
            file.flush()
            made.load_cert_chain(file.name)
    elif kind is not Kind.NO_CERTIFICATE:
        (own, *_) = load(directory)
        made.load_cert_chain(*own.tls_files())
    return made


def _certificate(site: str, begin: datetime, end: datetime) -> tuple[bytes, bytes]:
    """Make a key, and a certificate in a site's name."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, site)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1 + int.from_bytes(os.urandom(8), "big") // 2)
        .not_valid_before(begin)
        .not_valid_after(end)
        .sign(key, SHA256())
    )
    return (
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        certificate.public_bytes(Encoding.PEM),
    )


def asked(kind: Kind, client: str, destination: str) -> bytes:
    """Return greeting and request between two VMs, or as an impostor changes them."""
    if kind is Kind.CLIENT:
        client = _NO_ADDRESS
    elif kind is Kind.DESTINATION:
        destination = _NO_ADDRESS
    near, far = (SocketAddress(ip_address(one), 40_000) for one in (client, destination))
    return GREETING + Request(near, far, number=1).encode()


def call(
    sock: socket.socket, made: ssl.SSLContext, said: bytes, seconds: float
) -> Callable[[], str]:
    """Return what has an impostor call, in a thread, and returns what became of it."""

    def work() -> str:
        sock.settimeout(seconds)
        answer = b""
        with suppress(ConnectionError, ssl.SSLError), made.wrap_socket(sock) as far:
            far.sendall(said)
            while len(answer) < len(_REFUSED) and (more := far.recv(_ANSWER_BYTES)):
                answer += more
        return "refused" if answer in {b"", _REFUSED} else "served"

    return work
