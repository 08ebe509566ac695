"""A site's own identity: made, with its private keys, as the text of files."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)
from cryptography.x509.oid import NameOID

from fedsdn.config.model import Identity

LIFE = timedelta(days=3653)
"""Ten years."""

_EARLIER = timedelta(days=1)
"""A certificate holds for peers whose clocks are behind, too."""

_ID_BYTES = 8

PUBLIC_KEY = b"-----BEGIN PUBLIC KEY-----"
"""How a public key begins in PEM (RFC 7468, section 13)."""


@dataclass(frozen=True, slots=True)
class NewIdentity:
    """An identity and its private halves, each as the text of a PEM file (RFC 7468).

    ``public`` has the certificate and the X25519 public keys, of probes and then of tunnels,
    ``tls_key`` the certificate's private key, ``probes_key`` and ``tunnels_key`` the private X25519
    keys (PKCS #8, RFC 8410).
    """

    identity: Identity
    public: bytes
    tls_key: bytes = field(repr=False)
    probes_key: bytes = field(repr=False)
    tunnels_key: bytes = field(repr=False)


def make(site: str) -> NewIdentity:
    """Make a new identity for a site: P-256 and X25519 keys, a certificate for ten years."""
    tls_key = ec.generate_private_key(ec.SECP256R1())
    certificate = _certificate(site, tls_key)
    private = [x25519.X25519PrivateKey.generate() for _ in ("probes", "tunnels")]
    public = [one.public_key() for one in private]
    return NewIdentity(
        Identity(
            certificate.public_bytes(Encoding.DER), *(one.public_bytes_raw() for one in public)
        ),
        certificate.public_bytes(Encoding.PEM)
        + b"".join(
            one.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) for one in public
        ),
        _private_pem(tls_key),
        *map(_private_pem, private),
    )


def with_tunnels_key(public: bytes, tls_key: bytes, probes_key: bytes) -> NewIdentity:
    """Add a new key for tunnels to an identity that has certificate and key of probes alone.

    The arguments are as in ``NewIdentity``.

    Raises:
        ValueError, TypeError: ``public`` is no certificate with an X25519 key behind it.

    """
    certificate = x509.load_pem_x509_certificate(public)
    key = load_pem_public_key(public[public.index(PUBLIC_KEY) :])
    if not isinstance(key, x25519.X25519PublicKey):
        raise TypeError("no X25519 key")
    private = x25519.X25519PrivateKey.generate()
    own = private.public_key()
    return NewIdentity(
        Identity(
            certificate.public_bytes(Encoding.DER), key.public_bytes_raw(), own.public_bytes_raw()
        ),
        public + own.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        tls_key,
        probes_key,
        _private_pem(private),
    )


def _certificate(site: str, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    # With the identifiers, OpenSSL tells two certificates of one name apart.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, site)])
    now, key_id = datetime.now(UTC), os.urandom(_ID_BYTES)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1 + int.from_bytes(os.urandom(_ID_BYTES), "big") // 2)
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + LIFE)
        .add_extension(x509.SubjectKeyIdentifier(key_id), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier(key_id, None, None), critical=False)
        .sign(key, SHA256())
    )


def _private_pem(key: ec.EllipticCurvePrivateKey | x25519.X25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
