"""Identities, encryption and pairs in the federation file: what is read, and what is refused."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from fedsdn.config.document import ConfigError, parse_document
from fedsdn.config.loader import federation_document, parse_federation
from fedsdn.config.model import Federation, Identity, PairEncryption
from fedsdn.errors import FinalError
from fedsdn.identity.new import make
from tests.unit.bad_files import FILE
from tests.unit.federations import own_identity, three_sites, two_sites, with_foreign_proxy

Certified = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


def certificate(
    key: Certified, name: str = "a", issuer: str = "a", until: datetime | None = None
) -> str:
    """Base64 of a certificate, which holds for a day unless ``until`` says otherwise."""
    subject, by = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one)]) for one in (name, issuer)
    )
    end = until or datetime.now(UTC) + timedelta(days=1)
    builder = x509.CertificateBuilder(by, subject, key.public_key(), 1, end - timedelta(2), end)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else SHA256()
    made = builder.sign(key, algorithm)
    return base64.b64encode(made.public_bytes(Encoding.DER)).decode()


def identities_of(printed: list[dict[str, str]]) -> list[Identity]:
    """What the federation file's field ``identity`` says."""
    return [
        Identity(*(base64.b64decode(one[key]) for key in ("certificate", "key", "tunnel_key")))
        for one in printed
    ]


P256 = ec.generate_private_key(ec.SECP256R1())


def federation(change: Callable[[dict[str, Any]], object]) -> Federation:
    """Read two sites' file with a change in it."""
    document = federation_document(two_sites())
    change(document)
    return parse_federation(
        parse_document(yaml.safe_dump(document, sort_keys=False, width=1000), FILE)
    )


def error(change: Callable[[dict[str, Any]], object]) -> str:
    with pytest.raises(ConfigError) as caught:
        federation(change)
    _file, _line, said = str(caught.value).split(":", 2)
    return said.strip()


def test_sites_and_pairs_are_found() -> None:
    whole = replace(three_sites(), pairs=(PairEncryption(("c", "a"), "none"),))
    for site in whole.sites:
        assert whole.site_with_fingerprint(site.identities[0].fingerprint) is site
    assert whole.site_with_fingerprint(bytes(32)) is None
    assert [whole.encryption(*pair) for pair in ("ab", "ac", "ca", "bc")] == [
        *("tls", "none", "none", "tls")
    ]
    with pytest.raises(FinalError, match="unknown site 'd'"):
        whole.encryption("a", "d")
    plain = replace(whole, default_encryption="none", pairs=(PairEncryption(("c", "a"), "tls"),))
    assert [plain.encryption(*pair) for pair in ("ab", "ac")] == ["none", "tls"]
    assert with_foreign_proxy(whole, "b").encryption("a", "b") == "none"


@pytest.mark.parametrize("key", [P256, ed25519.Ed25519PrivateKey.generate()])
def test_other_peoples_certificates_can_be_used(key: Certified) -> None:
    mine = certificate(key)
    read = federation(lambda f: f["sites"]["a"]["identity"][0].update(certificate=mine))
    assert read.site("a").identities[0].certificate == base64.b64decode(mine)


def test_the_digits_that_people_compare_are_of_both_keys() -> None:
    one, other = own_identity("a").identity, own_identity("b").identity
    names = {one.name, replace(one, key=other.key).name, replace(other, key=one.key).name}
    assert len(names) == 3
    assert replace(one, key=other.key).fingerprint == one.fingerprint


def test_a_certificate_that_has_expired_is_no_error_of_the_file() -> None:
    old = certificate(P256, until=datetime(2026, 1, 1, tzinfo=UTC))
    federation(lambda f: f["sites"]["a"]["identity"][0].update(certificate=old))


def of_a(**fields: str) -> Callable[[dict[str, Any]], object]:
    return lambda f: f["sites"]["a"]["identity"][0].update(fields)


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


PRINTED = "write what 'fedsdn identity init' prints at site a"
CERTIFICATE, KEY = "sites.a.identity[0].certificate", "sites.a.identity[0].key"
LISTED = (
    "write a list of one identity, or of two while one replaces the other, "
    "as 'fedsdn identity init' prints it at this site"
)
IDENTITY = own_identity("a").identity


BAD: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "missing": (
        lambda f: f["sites"]["a"].pop("identity"),
        f"sites.a.identity: found nothing; {PRINTED}",
    ),
    "none": (
        lambda f: f["sites"]["a"].update(identity=[]),
        f"sites.a.identity: found an empty list; {LISTED}",
    ),
    "three": (
        lambda f: f["sites"]["a"].update(identity=3 * f["sites"]["a"]["identity"]),
        f"sites.a.identity: found a list of 3; {LISTED}",
    ),
    "not base64": (
        of_a(certificate="MII BrD"),
        f"{CERTIFICATE}: found 7 characters, which are not base64; {PRINTED}",
    ),
    "a private key": (
        of_a(key=make("a").probes_key.decode()),
        f"{KEY}: found a private key, which whoever has read this file has now; {PRINTED}, "
        "after 'fedsdn identity rotate' there",
    ),
    "a private key instead of a list": (
        lambda f: f["sites"]["a"].update(identity=make("a").tls_key.decode()),
        f"sites.a.identity: found a private key; {LISTED}",
    ),
    "base64 of something else": (
        of_a(certificate=b64(b"hello")),
        f"{CERTIFICATE}: found 5 bytes, which are no certificate (X.509, DER); {PRINTED}",
    ),
    "half a certificate": (
        of_a(certificate=b64(IDENTITY.certificate[:150])),
        f"{CERTIFICATE}: found 150 bytes, which are no certificate (X.509, DER); {PRINTED}",
    ),
    "RSA": (
        of_a(certificate=certificate(rsa.generate_private_key(65537, 2048))),
        f"{CERTIFICATE}: found a certificate with another key than P-256 or Ed25519; {PRINTED}",
    ),
    "P-384": (
        of_a(certificate=certificate(ec.generate_private_key(ec.SECP384R1()))),
        f"{CERTIFICATE}: found a certificate with another key than P-256 or Ed25519; {PRINTED}",
    ),
    "another's signature": (
        of_a(certificate=certificate(P256, issuer="b")),
        f"{CERTIFICATE}: found a certificate that is not self-signed; {PRINTED}",
    ),
    "another's certificate": (
        of_a(certificate=certificate(P256, name="c", issuer="c")),
        f"{CERTIFICATE}: found a certificate of 'c'; {PRINTED}",
    ),
    "a key that is too short": (
        of_a(key=b64(IDENTITY.key[:31])),
        f"{KEY}: found 31 bytes, but an X25519 key has 32; {PRINTED}",
    ),
    "no key of tunnels": (
        lambda f: f["sites"]["a"]["identity"][0].pop("tunnel_key"),
        "sites.a.identity[0].tunnel_key: found nothing; write the tunnel_key that 'fedsdn identity "
        "init' prints at this site",
    ),
    "a key of tunnels without a secret": (
        of_a(tunnel_key=b64(bytes(32))),
        f"{KEY.replace('key', 'tunnel_key')}: found no X25519 key: nothing is secret with it; "
        f"{PRINTED}",
    ),
    "one key for probes and tunnels": (
        of_a(tunnel_key=b64(IDENTITY.key)),
        f"{KEY.replace('key', 'tunnel_key')}: found the same as at site a (line 13); {PRINTED}",
    ),
    "a key without a secret": (
        of_a(key=b64(bytes(32))),
        f"{KEY}: found no X25519 key: nothing is secret with it; {PRINTED}",
    ),
    "a number as key": (
        lambda f: f["sites"]["a"]["identity"][0].update(key=7),
        f"{KEY}: found the number 7; write the key that 'fedsdn identity init' prints at this "
        "site, in quotes",
    ),
    "one identity at two sites": (
        of_a(
            certificate=b64(make("a").identity.certificate),
            key=b64(two_sites().sites[1].identities[0].key),
        ),
        "sites.b.identity[0].key: found the same as at site a (line 13); "
        "write what 'fedsdn identity init' prints at site b",
    ),
    "one identity twice": (
        lambda f: f["sites"]["a"].update(identity=2 * f["sites"]["a"]["identity"]),
        f"sites.a.identity[1].certificate: found the same as at site a (line 13); {PRINTED}",
    ),
    "at a foreign proxy": (
        lambda f: f["sites"]["a"].update(proxy="socks5"),
        "sites.a.identity: found an identity at a site with another's proxy ('proxy: socks5'); "
        "write none: nothing of fedsdn runs there",
    ),
    "encryption": (
        lambda f: f.update(encryption="ssl"),
        "encryption: found 'ssl'; write what protects connections between sites: 'tls', or "
        "'none' where the lines are protected",
    ),
    "a pair of one": (
        lambda f: f.update(pairs=[{"sites": ["a"], "encryption": "none"}]),
        "pairs[0].sites: found a list of 1; write a list of two sites' names, as '[a, b]'",
    ),
    "a pair of one site": (
        lambda f: f.update(pairs=[{"sites": ["a", "a"], "encryption": "none"}]),
        "pairs[0].sites: found site a twice; write two sites",
    ),
    "a pair with a stranger": (
        lambda f: f.update(pairs=[{"sites": ["a", "z"], "encryption": "none"}]),
        "pairs[0].sites[1]: found 'z'; write a site: a or b",
    ),
    "a pair twice": (
        lambda f: f.update(
            pairs=[{"sites": [*pair], "encryption": "none"} for pair in ("ab", "ba")]
        ),
        "pairs[1].sites: found b and a, as on line 61; write each two sites once",
    ),
    "a pair that cannot be encrypted": (
        lambda f: (
            f.update(pairs=[{"sites": ["a", "b"], "encryption": "tls"}]),
            f["sites"]["b"].pop("identity"),
            f["sites"]["b"].update(proxy="socks5"),
        ),
        "pairs[0].encryption: found 'tls', but the proxy of site b ('proxy: socks5') speaks none; "
        "write 'none'",
    ),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD.keys())
def test_bad_file_has_one_exact_message(
    change: Callable[[dict[str, Any]], object], message: str
) -> None:
    assert error(change) == message
