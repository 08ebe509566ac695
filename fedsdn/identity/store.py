"""The directory of a site's own identities: the public half for all, each private key for one user.

A process reads the private keys that it needs, and only then: the proxy's workers have the
certificate's, the application those of probes and tunnels, and neither may read the other's.
"""

from __future__ import annotations

import os
import ssl
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import x25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    load_pem_private_key,
    load_pem_public_key,
)

from fedsdn import files
from fedsdn.config.identities import common_name
from fedsdn.config.model import Identity, Site
from fedsdn.errors import FinalError
from fedsdn.identity.new import PUBLIC_KEY, NewIdentity, with_tunnels_key
from fedsdn.users import PROXY_USER

ROOT = 0
_PUBLIC, _TLS_KEY, _PROBES_KEY, _TUNNELS_KEY = ".pem", "-tls.key", "-probes.key", "-tunnels.key"
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_WRITTEN_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_AS_ROOT = "run this as root"
_FROM_BACKUP = "put it back from a backup, or run 'fedsdn identity rotate'"
_PUBLIC_KEYS = 2
_NOT_READ = (ValueError, TypeError, UnsupportedAlgorithm)
"""What cryptography raises for something that is no key, or no certificate."""


@dataclass(frozen=True, slots=True)
class OwnKeys:
    """The private X25519 keys of an identity, 32 bytes each."""

    probes: bytes = field(repr=False)
    tunnels: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class OwnIdentity:
    """An identity of which this host has the private halves, in ``directory``."""

    identity: Identity
    directory: Path

    @property
    def public_file(self) -> Path:
        """Certificate and X25519 public keys, in PEM."""
        return self.directory / f"{self.identity.name}{_PUBLIC}"

    @property
    def tls_key_file(self) -> Path:
        """The certificate's private key, in PEM: for the proxy's user alone."""
        return self.directory / f"{self.identity.name}{_TLS_KEY}"

    @property
    def probes_key_file(self) -> Path:
        """The private X25519 key of probes, in PEM: for root alone."""
        return self.directory / f"{self.identity.name}{_PROBES_KEY}"

    @property
    def tunnels_key_file(self) -> Path:
        """The private X25519 key of tunnels, in PEM: for root alone."""
        return self.directory / f"{self.identity.name}{_TUNNELS_KEY}"

    def tls_files(self) -> tuple[Path, Path]:
        """Return the files of certificate and key, as ``SSLContext.load_cert_chain`` takes them.

        Raises:
            FinalError: the key's file is missing, is not the proxy's, or others may read it.

        """
        _check_private(self.tls_key_file, PROXY_USER)
        return self.public_file, self.tls_key_file

    def keys(self) -> OwnKeys:
        """Return the private keys of probes and tunnels.

        Raises:
            FinalError: a file is missing, is another's, or others than its owner may read it.

        """
        return OwnKeys(
            self._key(self.probes_key_file, self.identity.key),
            self._key(self.tunnels_key_file, self.identity.tunnel_key),
        )

    def _key(self, file: Path, public: bytes) -> bytes:
        _check_private(file, ROOT)
        try:
            key = load_pem_private_key(_read(file), None)
        except _NOT_READ:
            key = None
        if (
            not isinstance(key, x25519.X25519PrivateKey)
            or key.public_key().public_bytes_raw() != public
        ):
            raise FinalError(
                f"{file}: found another key than the one of {self.public_file}: {_FROM_BACKUP}"
            )
        return key.private_bytes_raw()

    def try_keys(self) -> None:
        """Read all private keys as those do who need them.

        Raises:
            FinalError: one of them is not the identity's, or not its user's alone.

        """
        self.keys()
        certificate, key = self.tls_files()
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key, password=b"")  # nobody is asked for one
        except ssl.SSLError as error:
            raise FinalError(
                f"{key}: found another key than the one of {certificate}, or one with a passphrase "
                f"({error.reason}): {_FROM_BACKUP}"
            ) from error
        except OSError as error:
            raise _unreadable(key, error) from error


def load(directory: Path) -> tuple[OwnIdentity, ...]:
    """Find the identities of this host, in the order of their names; none if nobody made one.

    Raises:
        FinalError: others than root may change them, or something else lies there.

    """
    return tuple(_load_file(file) for file in _public_files(directory))


def _public_files(directory: Path) -> list[Path]:
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(_PUBLIC))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unreadable(directory, error) from error
    _check_owned(directory)
    return [directory / name for name in names]


def current(site: Site, own: Sequence[OwnIdentity]) -> OwnIdentity:
    """Return the first identity that the federation file has of this site, and this host.

    Raises:
        FinalError: there is none.

    """
    by_identity = {one.identity: one for one in own}
    for identity in site.identities:
        if identity in by_identity:
            return by_identity[identity]
    check_site(site.name, own)
    listed = ", ".join(one.name for one in site.identities) or "none"
    here = ", ".join(one.identity.name for one in own) or "none"
    raise FinalError(
        f"site {site.name} has no identity in the federation file of which this host has the "
        f"private keys (file: {listed}; host: {here}): put what 'fedsdn identity init' prints "
        f"here under sites.{site.name} in every site's file"
    )


def check_site(site: str, own: Sequence[OwnIdentity]) -> None:
    """See that a host's identities are of the site that it is said to be.

    Raises:
        FinalError: one is another site's.

    """
    for one in own:
        name = common_name(one.identity.certificate)
        if name != site:
            raise FinalError(
                f"{one.public_file}: found the identity of site {name}, but this host is said to "
                f"be site {site}: set 'site' right, or move these keys away"
            )


def own_keys(site: Site, directory: Path) -> tuple[OwnKeys, ...]:
    """Return the private X25519 keys that count: of the current identity, then of others listed.

    Raises:
        FinalError: the current one is missing, or others than its owner may read it.

    """
    own = load(directory)
    first = current(site, own)
    others = (one for one in own if one.identity in site.identities and one != first)
    return tuple(one.keys() for one in (first, *others))


def save(directory: Path, new: NewIdentity) -> OwnIdentity:
    """Write an identity into the directory, which is made if there is none.

    Raises:
        FinalError: it cannot be written, or others than root may change what is there.

    """
    own = OwnIdentity(new.identity, directory)
    with _writing(directory), ExitStack() as unfinished:
        files.make_directory(directory, 0o755)
        _check_owned(directory)
        for file, content, mode, owner in (
            (own.tls_key_file, new.tls_key, 0o600, PROXY_USER),
            (own.probes_key_file, new.probes_key, 0o600, ROOT),
            (own.tunnels_key_file, new.tunnels_key, 0o600, ROOT),
            (own.public_file, new.public, 0o644, ROOT),  # the last: with it there is an identity
        ):
            unfinished.callback(file.unlink, missing_ok=True)
            _write(file, content, mode, owner)
        unfinished.pop_all()
    return own


def add_tunnels_keys(directory: Path) -> tuple[OwnIdentity, ...]:
    """Give a key for tunnels to identities that have none, as the version before made them.

    All else of them stays, so that connections go on; their names and so their files' are others.
    Returns those that have got one.

    Raises:
        FinalError: a private key is missing, or not its user's alone, or nothing can be written.

    """
    added = []
    for file in _public_files(directory):
        public = _read(file)
        if public.count(PUBLIC_KEY) != 1:
            continue
        tls_key, probes_key = (
            file.with_name(f"{file.stem}{ending}") for ending in (_TLS_KEY, _PROBES_KEY)
        )
        _check_private(tls_key, PROXY_USER)
        _check_private(probes_key, ROOT)
        try:
            new = with_tunnels_key(public, _read(tls_key), _read(probes_key))
        except _NOT_READ:
            continue  # 'load' says what is wrong
        added.append(save(directory, new))
        with _writing(directory):
            for old in (file, tls_key, probes_key):
                old.unlink()
    return tuple(added)


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Have nobody else make keys meanwhile. The directory is made if there is none.

    Raises:
        FinalError: somebody is at it, or it cannot be made.

    """
    with _writing(directory):
        files.make_directory(directory, 0o755)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        flock(descriptor, LOCK_EX | LOCK_NB)
        yield
    except BlockingIOError as error:
        raise FinalError(f"{directory}: locked by somebody else: try again") from error
    finally:
        os.close(descriptor)


@contextmanager
def _writing(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = _AS_ROOT if isinstance(error, PermissionError) else "see what is there (ls -ld)"
        raise FinalError(f"{directory}: cannot be written ({error.strerror}): {remedy}") from error


def check_way(directory: Path) -> None:
    """See that the proxy's workers can go to their key, and nobody else may put one there.

    Raises:
        FinalError: a directory on the way is closed to them, or open to all.

    """
    path = directory.resolve()
    for one in reversed((path, *path.parents)):
        found = _stat(one)
        mode, group = found.st_mode, found.st_gid == PROXY_USER
        wrong = ""
        if not mode & (stat.S_IXOTH | (stat.S_IXGRP if group else 0)):
            wrong = f"the proxy's workers (user {PROXY_USER}) cannot reach their key"
        elif mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            wrong = "anybody may put other keys there"
        if wrong:
            raise FinalError(f"{one}: found mode {_mode(found)}: {wrong}: run 'chmod 755 {one}'")


def _write(file: Path, content: bytes, mode: int, owner: int) -> None:
    """Write a file, whole or not at all."""
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=".")
    try:
        with open(descriptor, "wb") as new:
            os.fchown(descriptor, owner, owner)
            os.fchmod(descriptor, mode)
            new.write(content)
            new.flush()
            os.fsync(descriptor)
        os.rename(name, file)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def _load_file(file: Path) -> OwnIdentity:
    certificate, *keys = _read(file).split(PUBLIC_KEY)
    try:
        der = x509.load_pem_x509_certificate(certificate).public_bytes(Encoding.DER)
        public = [load_pem_public_key(PUBLIC_KEY + key) for key in keys]
    except _NOT_READ:
        public = []
    raw = [one.public_bytes_raw() for one in public if isinstance(one, x25519.X25519PublicKey)]
    if len(raw) == 1:
        raise FinalError(
            f"{file}: found an identity without a key for tunnels, as earlier versions made them: "
            "run 'fedsdn identity init', which adds one and leaves its other keys as they are"
        )
    if len(raw) != _PUBLIC_KEYS or len(keys) != _PUBLIC_KEYS:
        raise FinalError(
            f"{file}: found no certificate with two X25519 keys behind it: put the file back from "
            "a backup, or remove it"
        )
    own = OwnIdentity(Identity(der, *raw), file.parent)
    if own.public_file != file:
        raise FinalError(f"{file}: found the identity {own.identity.name}: rename its files so")
    return own


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(path: Path, error: OSError) -> FinalError:
    remedy = _AS_ROOT if isinstance(error, PermissionError) else _FROM_BACKUP
    return FinalError(f"{path}: cannot be read ({error.strerror}): {remedy}")


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error


def _check_owned(directory: Path) -> None:
    """Refuse a directory where others than root, and this process's user, may put files."""
    found = _stat(directory)
    if found.st_uid not in (ROOT, os.geteuid()) or found.st_mode & _WRITTEN_BY_OTHERS:
        raise FinalError(
            f"{directory}: found owner {found.st_uid} and mode {_mode(found)}, so that others may "
            f"change this site's keys: run 'chown root {directory}' and 'chmod 755 {directory}'"
        )


def _check_private(file: Path, owner: int) -> None:
    """Refuse a private key that others may read than its user (where that is not root, ours)."""
    found = _stat(file)
    commands = []
    if found.st_uid not in {owner, os.geteuid() or owner}:
        commands.append(f"'chown {owner}:{owner} {file}'")
    if found.st_mode & _OTHERS:
        commands.append(f"'chmod 600 {file}'")
    if commands:
        raise FinalError(
            f"{file}: found owner {found.st_uid} and mode {_mode(found)}, but this private key is "
            f"for user {owner} alone: run {' and '.join(commands)}, and 'fedsdn identity rotate' "
            "if others have read it"
        )


def _mode(found: os.stat_result) -> str:
    return f"{stat.S_IMODE(found.st_mode):04o}"
