"""Sites' identities in the federation file: read, and checked against each other.

A certificate that has expired is no error of the file: TLS refuses it, ``status`` says so.
"""

from __future__ import annotations

import base64
import binascii
from functools import reduce

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519
from cryptography.x509.oid import NameOID

from fedsdn.config.document import ConfigError, Document, KeyPath
from fedsdn.config.model import Federation, Identity
from fedsdn.config.schema import describe

KEY_BYTES = 32
_ANY_KEY = x25519.X25519PrivateKey.from_private_bytes(bytes([1] * KEY_BYTES))


def parse_identity(site: str, document: Document) -> Identity:
    """Read an identity of ``site``.

    Raises:
        ConfigError: it is none, or another site's.

    """
    certificate = document.section("certificate")
    der = _bytes(certificate, site)
    if problem := _certificate_problem(der, site):
        raise certificate.error(problem, _as_printed(site))
    key, tunnel_key = (_key(document.section(name), site) for name in ("key", "tunnel_key"))
    return Identity(der, key, tunnel_key)


def _key(document: Document, site: str) -> bytes:
    key = _bytes(document, site)
    if len(key) != KEY_BYTES:
        raise document.error(f"{len(key)} bytes, but an X25519 key has 32", _as_printed(site))
    if not _is_point(key):
        raise document.error("no X25519 key: nothing is secret with it", _as_printed(site))
    return key


def identity_document(identity: Identity) -> dict[str, str]:
    """Return what the federation file has of an identity."""
    return {
        "certificate": base64.b64encode(identity.certificate).decode(),
        "key": base64.b64encode(identity.key).decode(),
        "tunnel_key": base64.b64encode(identity.tunnel_key).decode(),
    }


def common_name(certificate: bytes) -> str:
    """Return the site that a certificate, in DER, is of; several in a row, none as ``nobody``."""
    subject = x509.load_der_x509_certificate(certificate).subject
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return ", ".join(str(name.value) for name in names) or "nobody"


def check_identities(federation: Federation, sites: Document, *, required: bool) -> None:
    """Check that every site has an identity of its own; with ``required``, that it has one.

    Raises:
        ConfigError: the first site that has not.

    """
    taken: dict[bytes, KeyPath] = {}
    for site in federation.sites:
        if site.proxy != "fedsdn" and site.identities:
            here = sites.section(site.name).section("identity")
            raise here.error(
                f"an identity at a site with another's proxy ('proxy: {site.proxy}')",
                "none: nothing of fedsdn runs there",
            )
        if required and site.proxy == "fedsdn" and not site.identities:
            here = sites.section(site.name).section("identity")
            raise here.error("nothing", _as_printed(site.name))
        for index, identity in enumerate(site.identities):
            for name in ("certificate", "key", "tunnel_key"):
                value = getattr(identity, name)
                at = (site.name, "identity", index, name)
                if taken.setdefault(value, at) is not at:
                    raise _taken(sites, at, taken[value])


def _taken(sites: Document, at: KeyPath, other: KeyPath) -> ConfigError:
    here, there = (reduce(Document.section, path, sites) for path in (at, other))
    owner, site = str(other[0]), str(at[0])
    return here.error(f"the same as at site {owner} (line {there.line})", _as_printed(site))


def _as_printed(site: str) -> str:
    return f"what 'fedsdn identity init' prints at site {site}"


def _bytes(document: Document, site: str) -> bytes:
    try:
        return base64.b64decode(document.value, validate=True)
    except (binascii.Error, ValueError) as error:
        # Not quoted: it may be a private key, and errors are logged.
        found = f"{len(document.value)} characters, which are not base64"
        remedy = _as_printed(site)
        if "PRIVATE KEY" in document.value:
            found = "a private key, which whoever has read this file has now"
            remedy += ", after 'fedsdn identity rotate' there"
        raise document.error(found, remedy) from error


def _certificate_problem(der: bytes, site: str) -> str:
    """Say why these bytes are no certificate of this site; an empty string if they are one."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        key = certificate.public_key()
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        own = certificate.subject == certificate.issuer
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return f"{len(der)} bytes, which are no certificate (X.509, DER)"
    if not isinstance(key, ed25519.Ed25519PublicKey) and not _is_p256(key):
        return "a certificate with another key than P-256 or Ed25519"
    if not own:
        return "a certificate that is not self-signed"
    if [name.value for name in names] != [site]:
        said = ", ".join(describe(str(name.value)) for name in names) or "nobody"
        return f"a certificate of {said}"
    return ""


def _is_p256(key: object) -> bool:
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)


def _is_point(key: bytes) -> bool:
    """Whether the key makes a shared secret that depends on the other (RFC 7748, section 6.1)."""
    try:
        _ANY_KEY.exchange(x25519.X25519PublicKey.from_public_bytes(key))
    except ValueError:
        return False
    return True
