"""The keys that probes are signed with: one for each pair of sites, and each of its directions.

Each site has X25519 keys, of which the federation file has the public halves. What two sites
compute of one's private and the other's public half (RFC 7748, section 6.1) no third can; HKDF
(RFC 5869) makes the keys of it. So no site can forge the probes of two others, and a probe that
comes back to its sender is none.

While a site changes its identity the file has two for it. A site takes what is signed with any two
that are listed of which it has the private half. It signs with its own current one and that of its
peer which the peer has used last (files change at one site after the other: the peer's own may
have only one of the two), or the first; and replies with those that it was asked with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

NAME_BYTES = 8
_SECRET_BYTES = 32
_LABEL = b"fedsdn probes"


@dataclass(frozen=True, slots=True)
class PairKey:
    """The key for what one site sends another; its ``name`` is in every datagram."""

    sender: str
    receiver: str
    name: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class _End:
    """A site, and the public half of a key of its."""

    site: str
    public: bytes


def pair_keys(
    site: str, private: X25519PrivateKey, peer: str, public: bytes
) -> tuple[PairKey, PairKey]:
    """Return the keys for what ``site`` sends its peer, and for what it gets from it.

    Raises:
        ValueError: ``public`` is no public key of X25519, or one with which anybody can compute.

    """
    shared = private.exchange(X25519PublicKey.from_public_bytes(public))
    near, far = _End(site, private.public_key().public_bytes_raw()), _End(peer, public)
    return _derive(shared, near, far), _derive(shared, far, near)


def _derive(shared: bytes, sender: _End, receiver: _End) -> PairKey:
    names = (_LABEL, sender.site.encode(), receiver.site.encode())
    info = b"\0".join(names) + b"\0" + sender.public + receiver.public
    made = HKDF(SHA256(), NAME_BYTES + _SECRET_BYTES, None, info).derive(shared)
    return PairKey(sender.site, receiver.site, made[:NAME_BYTES], made[NAME_BYTES:])


_Pair = tuple[str, bytes, bytes]
"""A peer, the public half of a key of ours, and that of one of the peer's."""


class ProbeKeys:
    """The keys of one site with all its peers.

    Each is computed once, in some 80 µs: when it is needed for sending, or by ``derive``.
    """

    def __init__(self, site: str) -> None:
        """Begin with none."""
        self._site = site
        self._private: dict[bytes, X25519PrivateKey] = {}
        self._signing: dict[str, _Pair] = {}
        self._known: dict[_Pair, tuple[PairKey, PairKey]] = {}
        self._missing: dict[_Pair, None] = {}
        self._by_name: dict[bytes, _Pair] = {}
        """Pairs by the name of the key that the peer signs with."""

    def set(self, own: Sequence[X25519PrivateKey], peers: Mapping[str, Sequence[bytes]]) -> None:
        """Go over to these keys, the current one first, and the public halves of each peer's."""
        self._private = {key.public_key().public_bytes_raw(): key for key in own}
        used = {peer: theirs for peer, (_, _, theirs) in self._signing.items()}
        self._signing = {
            peer: (
                peer,
                next(iter(self._private)),
                used[peer] if used.get(peer) in keys else keys[0],
            )
            for peer, keys in peers.items()
            if keys and self._private
        }
        wanted: Iterable[_Pair] = (
            (peer, ours, theirs)
            for peer, keys in peers.items()
            for ours, theirs in product(self._private, keys)
        )
        before, self._known, self._missing, self._by_name = self._known, {}, {}, {}
        for pair in wanted:
            if pair in before:
                self._keep(pair, before[pair])
            else:
                self._missing[pair] = None

    def _keep(self, pair: _Pair, keys: tuple[PairKey, PairKey]) -> None:
        self._known[pair] = keys
        _, receiving = keys
        self._by_name[receiving.name] = pair

    def derive(self, most: int) -> bool:
        """Compute so many keys that are missing; True if more are."""
        for pair in list(self._missing)[:most]:
            self._compute(pair)
        return bool(self._missing)

    @property
    def is_complete(self) -> bool:
        """Whether no key is missing: who signs with another is none of our peers."""
        return not self._missing

    def _compute(self, pair: _Pair) -> None:
        peer, ours, theirs = pair
        del self._missing[pair]
        with suppress(ValueError):  # no public key, so nobody has its private half
            self._keep(pair, pair_keys(self._site, self._private[ours], peer, theirs))

    def signing(self, peer: str) -> PairKey | None:
        """Return the key for what is sent to a peer; None if it or this site has none."""
        pair = self._signing.get(peer)
        if pair is None:
            return None
        if pair in self._missing:
            self._compute(pair)
        found = self._known.get(pair)
        return found and found[0]

    def receiving(self, name: bytes) -> PairKey | None:
        """Return the key of this name with which a peer signs; None if there is none (yet)."""
        pair = self._by_name.get(name)
        return pair and self._known[pair][1]

    def replying(self, received: PairKey) -> PairKey:
        """Return the key for a reply to what is signed with one of ``receiving``."""
        return self._known[self._by_name[received.name]][0]

    def used(self) -> dict[str, bytes]:
        """Return the public key of each peer with which probes are signed."""
        return {peer: theirs for peer, (_, _, theirs) in self._signing.items()}

    def follow(self, received: PairKey) -> bool:
        """Note that a peer uses the identity with which ``received`` was made; True if newly so."""
        peer, _, theirs = self._by_name[received.name]
        before = self._signing[peer]
        if before[2] == theirs:
            return False
        self._signing[peer] = (*before[:2], theirs)
        return True
