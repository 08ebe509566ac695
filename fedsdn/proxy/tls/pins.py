"""Who a certificate is: the site that the federation file pins it for."""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256

from cryptography import x509

from fedsdn.config.model import Federation, Site
from fedsdn.proxy.ended.record import Reason, Who
from fedsdn.proxy.tls.secured import TlsError

_SHOWN_BYTES = 8


def site_of(certificate: bytes, federation: Federation, now: datetime) -> Site:
    """Return the site that has this certificate (DER), if it is valid ``now``.

    A resumed session proves that the other side had it, and nothing about its dates.

    Raises:
        TlsError: no site has it, or not any more, or it is not valid.

    """
    fingerprint = sha256(certificate).digest()
    site = federation.site_with_fingerprint(fingerprint)
    if site is None:
        shown = fingerprint[:_SHOWN_BYTES].hex()
        raise _refused(f"{shown} is no site's in the federation file")
    found = x509.load_der_x509_certificate(certificate)
    if now > found.not_valid_after_utc:
        raise _refused("certificate has expired")
    if now < found.not_valid_before_utc:
        raise _refused("certificate is not yet valid")
    return site


def check(certificate: bytes, peer: str, federation: Federation, now: datetime) -> None:
    """Check that a certificate is one of the site called ``peer``.

    Raises:
        TlsError: it is not.

    """
    site = site_of(certificate, federation, now)
    if site.name != peer:
        raise _refused(f"it is that of site {site.name}")


def _refused(detail: str) -> TlsError:
    return TlsError(Reason.CERTIFICATE, Who.HERE, detail)
