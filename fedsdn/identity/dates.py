"""From when until when an identity's certificate holds."""

from __future__ import annotations

from datetime import datetime, timedelta

from cryptography import x509

from fedsdn.config.model import Identity, Site

WARNED = timedelta(days=30)
"""So long before its end an identity is to be replaced."""


def begin(identity: Identity) -> datetime:
    """Return the moment from which the certificate holds."""
    return x509.load_der_x509_certificate(identity.certificate).not_valid_before_utc


def end(identity: Identity) -> datetime:
    """Return the moment until which the certificate holds."""
    return x509.load_der_x509_certificate(identity.certificate).not_valid_after_utc


def last_end(site: Site) -> datetime:
    """Return until when a site has an identity that holds; it has one at least."""
    return max(map(end, site.identities))


def day(moment: datetime) -> str:
    """Write the day of a moment, in UTC, as ``2036-11-27``."""
    return f"{moment:%Y-%m-%d}"


def problem(identity: Identity, now: datetime) -> str:
    """Say what is wrong with the dates, now or within ``WARNED``; nothing where all is well."""
    if now < begin(identity):
        return f"does not hold before {day(begin(identity))}: is the clock right?"
    if now > end(identity):
        return f"has expired on {day(end(identity))}: TLS refuses it"
    if now > end(identity) - WARNED:
        return f"expires on {day(end(identity))}"
    return ""
