"""A site's identity: made, kept on its host, and found in the federation file."""

from __future__ import annotations

import os
import ssl
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from fedsdn.config.model import Identity
from fedsdn.errors import FinalError
from fedsdn.identity import store
from fedsdn.identity.new import PUBLIC_KEY, NewIdentity, make
from fedsdn.users import PROXY_USER
from tests.unit.federations import two_sites


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "fedsdn" / "identity"


def context(side: int, own: store.OwnIdentity, *peers: Identity) -> ssl.SSLContext:
    made = ssl.SSLContext(side)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.load_cert_chain(*own.tls_files())
    made.load_verify_locations(cadata=b"".join(peer.certificate for peer in peers))
    return made


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> list[bytes | None]:
    """Return the certificates that the server and the client have seen."""
    near, far = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [server.wrap_bio(near, far, server_side=True), client.wrap_bio(far, near)]
    for _ in range(4):
        for end in reversed(ends):
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return [end.getpeercert(binary_form=True) for end in ends]


def test_tls_tells_two_certificates_of_one_name_apart(directory: Path) -> None:
    """While an identity is replaced, both are in the peers' stores, in any order."""
    a, old, new = (store.save(directory, make(name)) for name in ("a", "b", "b"))
    for listed in ((old, new), (new, old)):
        for used in listed:
            every = (a.identity, *(one.identity for one in listed))
            server = context(ssl.PROTOCOL_TLS_SERVER, a, *every)
            client = context(ssl.PROTOCOL_TLS_CLIENT, used, *every)
            seen = shake_hands(server, client)
            assert seen == [used.identity.certificate, a.identity.certificate]


def test_the_probes_keys_of_two_sites_make_one_secret(directory: Path) -> None:
    a, b = (store.save(directory, make(name)) for name in "ab")
    secrets = {
        X25519PrivateKey.from_private_bytes(own.keys().probes).exchange(
            X25519PublicKey.from_public_bytes(peer.identity.key)
        )
        for own, peer in ((a, b), (b, a))
    }
    assert len(secrets) == 1


def test_a_certificate_is_small_and_holds_for_ten_years_and_since_yesterday() -> None:
    made = make("a-name-of-thirty-two-characters--")
    certificate = x509.load_der_x509_certificate(made.identity.certificate)
    now = datetime.now(UTC)
    assert now - certificate.not_valid_before_utc > timedelta(hours=23)
    assert certificate.not_valid_after_utc - now > timedelta(days=3650)
    assert certificate.subject.rfc4514_string() == "CN=a-name-of-thirty-two-characters--"
    assert len(made.identity.certificate) < 400


def test_what_was_saved_is_found(directory: Path) -> None:
    made = [make("a"), make("a")]
    saved = {store.save(directory, one) for one in made}
    assert set(store.load(directory)) == saved
    assert {own.identity for own in saved} == {one.identity for one in made}


def test_nobody_made_one(directory: Path) -> None:
    assert store.load(directory) == ()
    with pytest.raises(FinalError, match=r"site a .* \(file: [0-9a-f]{16}; host: none\): .*init"):
        store.current(two_sites().site("a"), ())


def test_the_first_of_the_file_that_the_host_has_is_in_force(directory: Path) -> None:
    one, other, stranger = (make("a") for _ in range(3))
    own = [store.save(directory, each) for each in (one, other)]
    site = two_sites().site("a")

    def current(*listed: NewIdentity) -> Identity:
        identities = tuple(each.identity for each in listed)
        return store.current(replace(site, identities=identities), own).identity

    assert current(one, other) == one.identity
    assert current(other, one) == other.identity
    assert current(stranger, other) == other.identity
    mixed = replace(one.identity, key=other.identity.key)
    with pytest.raises(FinalError, match="has no identity in the federation file"):
        store.current(replace(site, identities=(mixed,)), own)


def test_each_private_key_is_for_one_user_and_the_rest_is_for_all(directory: Path) -> None:
    own = store.save(directory, make("a"))

    def owner_and_mode(path: Path) -> tuple[int, int]:
        return path.stat().st_uid, path.stat().st_mode & 0o7777

    assert owner_and_mode(directory) == (0, 0o755)
    assert owner_and_mode(own.public_file) == (0, 0o644)
    assert owner_and_mode(own.tls_key_file) == (PROXY_USER, 0o600)
    assert owner_and_mode(own.probes_key_file) == (0, 0o600)
    assert owner_and_mode(own.tunnels_key_file) == (0, 0o600)
    assert len(list(directory.iterdir())) == 4
    assert b"PRIVATE" not in own.public_file.read_bytes()
    assert "PRIVATE" not in repr(make("a"))


def test_directories_that_are_made_can_be_gone_through_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        store.save(tmp_path / "etc/fedsdn/identity", make("a"))
    finally:
        os.umask(before)
    for name in ("etc", "etc/fedsdn", "etc/fedsdn/identity"):
        assert (tmp_path / name).stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_private_keys_that_others_may_read_are_refused(directory: Path, mode: int) -> None:
    own = store.save(directory, make("a"))
    for file, use in (
        (own.tls_key_file, own.tls_files),
        (own.tunnels_key_file, own.keys),
        (own.probes_key_file, own.keys),
    ):
        file.chmod(mode)
        with pytest.raises(FinalError, match=f"{file}: .* mode {mode:04o}.*'chmod 600 {file}'"):
            use()


def test_private_keys_of_other_users_are_refused(directory: Path) -> None:
    own = store.save(directory, make("a"))
    os.chown(own.probes_key_file, 1, 1)
    with pytest.raises(FinalError, match="found owner 1 "):
        own.keys()


def test_a_key_of_the_probes_that_the_proxy_could_read_is_refused(directory: Path) -> None:
    own = store.save(directory, make("a"))
    os.chown(own.probes_key_file, PROXY_USER, PROXY_USER)
    with pytest.raises(FinalError, match=f"'chown 0:0 {own.probes_key_file}'"):
        own.try_keys()


def test_a_key_that_the_proxy_cannot_read_is_refused(directory: Path) -> None:
    """As root's 'cp' from a backup leaves it."""
    own = store.save(directory, make("a"))
    os.chown(own.tls_key_file, 0, 0)
    with pytest.raises(FinalError, match=f"'chown {PROXY_USER}:{PROXY_USER} {own.tls_key_file}'"):
        own.tls_files()


def test_a_key_with_a_passphrase_asks_nobody(directory: Path) -> None:
    own = store.save(directory, make("a"))
    key = load_pem_private_key(own.tls_key_file.read_bytes(), None)
    own.tls_key_file.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )
    with pytest.raises(FinalError, match="or one with a passphrase"):
        own.try_keys()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_nothing_is_left_of_keys_that_were_not_written_whole(
    directory: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    written: list[object] = []

    def interrupt(file: object) -> None:
        written.append(file)
        if len(written) == count:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.save(directory, make("a"))
    assert len(written) == count
    assert os.listdir(directory) == []


def test_the_keys_that_count(directory: Path) -> None:
    one, other = (make("a") for _ in range(2))
    keys = {each: store.save(directory, each).keys() for each in (one, other)}
    site = two_sites().site("a")
    for listed in ((one, other), (other, one), (one,)):
        identities = tuple(each.identity for each in listed)
        found = store.own_keys(replace(site, identities=identities), directory)
        assert found == tuple(keys[each] for each in listed)


@pytest.mark.parametrize("link", [True, False])
def test_something_else_in_place_of_the_directory(directory: Path, link: bool) -> None:
    directory.parent.mkdir()
    if link:
        directory.symlink_to("nowhere")
    else:
        directory.write_bytes(b"")
    with pytest.raises(FinalError, match=r"see what is there \(ls -ld\)"):
        store.save(directory, make("a"))


def test_a_directory_where_others_may_put_keys_is_refused(directory: Path) -> None:
    store.save(directory, make("a"))
    directory.chmod(0o775)
    with pytest.raises(FinalError, match=f"'chmod 755 {directory}'"):
        store.load(directory)
    directory.chmod(0o755)
    os.chown(directory, 1, 1)
    with pytest.raises(FinalError, match=f"'chown root {directory}'"):
        store.load(directory)


def test_another_key_in_place_of_the_private_one_is_refused(directory: Path) -> None:
    own, other = (store.save(directory, make("a")) for _ in range(2))
    for file in (own.probes_key_file, own.tunnels_key_file):
        good = file.read_bytes()
        for content in (other.probes_key_file.read_bytes(), own.tls_key_file.read_bytes(), b""):
            file.write_bytes(content)
            with pytest.raises(FinalError, match=f"{file}: found another key"):
                own.keys()
        file.write_bytes(good)
    own.tunnels_key_file.write_bytes(own.probes_key_file.read_bytes())
    with pytest.raises(FinalError, match=f"{own.tunnels_key_file}: found another key"):
        own.keys()
    own.probes_key_file.unlink()
    with pytest.raises(FinalError, match=r"cannot be read \(No such file .*: put it back from a"):
        own.keys()


def test_an_identity_without_a_key_for_tunnels_is_refused(directory: Path) -> None:
    as_before_tunnels(store.save(directory, make("a")))
    with pytest.raises(FinalError, match="run 'fedsdn identity init', which adds one"):
        store.load(directory)


def as_before_tunnels(own: store.OwnIdentity) -> None:
    """Leave of an identity what the version before had, under another name."""
    certificate, key, _ = own.public_file.read_bytes().split(PUBLIC_KEY)
    own.public_file.with_name("0123456789abcdef.pem").write_bytes(certificate + PUBLIC_KEY + key)
    own.tls_key_file.rename(own.directory / "0123456789abcdef-tls.key")
    own.probes_key_file.rename(own.directory / "0123456789abcdef-probes.key")
    own.public_file.unlink()
    own.tunnels_key_file.unlink()


def test_it_gets_one_and_is_the_same_to_its_peers(directory: Path) -> None:
    before, other = (store.save(directory, make("a")) for _ in range(2))
    as_before_tunnels(before)
    (added,) = store.add_tunnels_keys(directory)
    old, new = before.identity, added.identity
    assert (new.certificate, new.key) == (old.certificate, old.key)
    assert new.tunnel_key != old.tunnel_key
    assert set(store.load(directory)) == {added, other}
    added.try_keys()
    assert len(list(directory.iterdir())) == 8
    assert store.add_tunnels_keys(directory) == ()


def test_it_gets_none_as_long_as_others_may_read_its_keys(directory: Path) -> None:
    as_before_tunnels(store.save(directory, make("a")))
    key = directory / "0123456789abcdef-tls.key"
    key.chmod(0o644)
    before = set(directory.iterdir())
    with pytest.raises(FinalError, match=f"'chmod 600 {key}'"):
        store.add_tunnels_keys(directory)
    assert set(directory.iterdir()) == before


@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\n", b"\xff\x00"])
def test_what_is_no_identity_is_refused(directory: Path, content: bytes) -> None:
    own = store.save(directory, make("a"))
    own.public_file.write_bytes(content)
    with pytest.raises(FinalError, match=f"{own.public_file}: found no certificate"):
        store.load(directory)


def test_an_identity_under_anothers_name_is_refused(directory: Path) -> None:
    own, other = (store.save(directory, make("a")) for _ in range(2))
    own.public_file.replace(other.public_file)
    with pytest.raises(FinalError, match=f"found the identity {own.identity.name}"):
        store.load(directory)
