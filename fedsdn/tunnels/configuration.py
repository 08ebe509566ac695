"""What a WireGuard interface is told, and what it says, as wg(8) writes both. Pure code."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections import defaultdict
from collections.abc import Iterable, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import ip_address, ip_network

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fedsdn.config.model import Address, Network
from fedsdn.tunnels.plan import Tunnel, TunnelPeer

_NONE, _OFF = "(none)", "off"


@dataclass(frozen=True, slots=True)
class Identities:
    """The tunnels' keys that sites use now: this one's private key, and its peers' public ones."""

    own: bytes | None = field(default=None, repr=False)
    peers: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SeenPeer:
    """A peer of an interface, as it is.

    ``handshake`` is when the last session began, in seconds since 1970, None without one;
    ``received`` and ``sent`` are bytes since the interface or the peer was made.
    """

    key: bytes
    endpoint: tuple[Address, int] | None
    prefixes: frozenset[Network]
    keepalive: int
    handshake: int | None
    received: int
    sent: int


@dataclass(frozen=True, slots=True)
class Seen:
    """An interface as it is; ``key`` is the public half of its own, None without one."""

    key: bytes | None
    port: int
    mark: int
    peers: tuple[SeenPeer, ...]

    @property
    def settings(self) -> tuple[object, ...]:
        """What of it follows from what it was told."""
        peers = [(one.key, one.endpoint, one.prefixes, one.keepalive) for one in self.peers]
        return self.key, self.port, self.mark, peers


def parse_all(dump: str) -> dict[str, Seen]:
    """Read what ``wg show all dump`` prints, by interface; see ``parse``."""
    lines: defaultdict[str, list[str]] = defaultdict(list)
    for line in dump.splitlines():
        name, _, rest = line.partition("\t")
        lines[name].append(rest)
    found = {}
    for name, several in lines.items():
        with suppress(ValueError):
            found[name] = parse("\n".join(several))
    return found


def parse(dump: str) -> Seen:
    """Read what ``wg show INTERFACE dump`` prints; it has the private key, which is left out.

    Raises:
        ValueError: it is nothing of the kind.

    """
    first, *peers = (line.split("\t") for line in dump.splitlines())
    _, public, port, mark = first
    return Seen(
        key=None if public == _NONE else b64decode(public),
        port=int(port),
        mark=0 if mark == _OFF else int(mark, 0),
        peers=tuple(_peer(words) for words in peers),
    )


def _peer(words: list[str]) -> SeenPeer:
    key, _, endpoint, prefixes, handshake, received, sent, keepalive = words
    return SeenPeer(
        key=_key(key),
        endpoint=None if endpoint == _NONE else _endpoint(endpoint),
        prefixes=_prefixes(prefixes),
        keepalive=0 if keepalive == _OFF else int(keepalive),
        handshake=int(handshake) or None,
        received=int(received),
        sent=int(sent),
    )


_REMEMBERED = 1 << 16
"""Texts of which the meaning is kept, as all peers are read again and again: those of 1,000 over 64
paths. If it were fewer than there are, none would be there when its turn comes again."""


@lru_cache(_REMEMBERED)
def _key(text: str) -> bytes:
    return b64decode(text)


@lru_cache(_REMEMBERED)
def _prefixes(text: str) -> frozenset[Network]:
    return frozenset(() if text == _NONE else map(ip_network, text.split(",")))


@lru_cache(_REMEMBERED)
def _endpoint(text: str) -> tuple[Address, int]:
    address, _, port = text.rpartition(":")
    return ip_address(address.strip("[]").partition("%")[0]), int(port)


def public_half(private_key: bytes) -> bytes:
    """Return the public key that goes with a private one."""
    return X25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


@dataclass(frozen=True, slots=True)
class Configuration:
    """What an interface is to be told: its own private key, and what a tunnel has.

    Without ``tunnel`` it is one that the federation file has no more, and has no peers. ``learnt``
    are the ports at which peers are by what came from them, by key, where a NAT gives them others.
    """

    private_key: bytes = field(repr=False)
    tunnel: Tunnel | None
    learnt: Mapping[bytes, int] = field(default_factory=dict)

    @property
    def peers(self) -> tuple[TunnelPeer, ...]:
        """The other ends."""
        return () if self.tunnel is None else self.tunnel.peers

    @property
    def is_rotating(self) -> bool:
        """Whether a peer may go over to another key."""
        return any(peer.spare_keys for peer in self.peers)

    def following(
        self, seen: Seen, before: Configuration | None = None, kept: Set[str] | None = None
    ) -> Configuration:
        """Return it with what the interface has ``seen`` since it was told ``before``.

        The sites that are ``kept`` get keepalives, None: all of them. A peer keeps the port from
        which it was last heard, as a NAT may have changed it, unless the federation has the peer
        elsewhere now. Of a peer's two keys, the one with the latest session has the prefixes.

        The peer's probes may be signed with the other key already. Prefixes that follow these make
        both ends begin a session at once; then each refuses the other's, and tries again after
        five seconds.
        """
        if self.tunnel is None:
            return self
        began = {one.key: one.handshake for one in seen.peers if one.handshake is not None}
        peers = tuple(
            _with_last(peer if kept is None or peer.site in kept else _quiet(peer), began)
            for peer in self.peers
        )
        return replace(
            self,
            tunnel=replace(self.tunnel, peers=peers),
            learnt={} if before is None else dict(self._learnt(seen, before)),
        )

    def _learnt(self, seen: Seen, before: Configuration) -> Iterable[tuple[bytes, int]]:
        told, wanted = before._endpoints(), self._endpoints()
        for one in seen.peers:
            end = wanted.get(one.key)
            if end is not None and end == told.get(one.key) and one.endpoint is not None:
                address, port = one.endpoint
                if address == end[0]:
                    yield one.key, port

    def _endpoints(self) -> dict[bytes, tuple[Address, int]]:
        """Return where the federation has the peers, by key."""
        return {
            key: (peer.address, peer.port)
            for peer in self.peers
            for key in (peer.key, *peer.spare_keys)
        }

    def text(self) -> str:
        """Write it for ``wg syncconf``."""
        head = ["[Interface]", f"PrivateKey = {_base64(self.private_key)}"]
        if self.tunnel is not None:
            head += [f"ListenPort = {self.tunnel.port}", f"FwMark = {self.tunnel.mark:#x}"]
        every = [*head, *(line for peer in self.peers for line in _peer_lines(peer, self.learnt))]
        return "\n".join(every) + "\n"

    def is_that(self, seen: Seen) -> bool:
        """Whether an interface has it already.

        A peer's port may be another: one behind NAT has the port that the NAT gave it.
        """
        if seen.key != public_half(self.private_key):
            return False
        if self.tunnel is not None and (seen.port, seen.mark) != (
            self.tunnel.port,
            self.tunnel.mark,
        ):
            return False
        return set(_wanted(self.peers)) == {
            (one.key, one.endpoint and one.endpoint[0], one.prefixes, one.keepalive)
            for one in seen.peers
        }


def _quiet(peer: TunnelPeer) -> TunnelPeer:
    return replace(peer, keepalive=0)


def _with_last(peer: TunnelPeer, began: Mapping[bytes, int]) -> TunnelPeer:
    keys = (peer.key, *peer.spare_keys)
    last = max(keys, key=lambda key: began.get(key, 0))
    return replace(peer, key=last, spare_keys=tuple(key for key in keys if key != last))


_Wanted = tuple[bytes, Address, frozenset[Network], int]


def _wanted(peers: Iterable[TunnelPeer]) -> Iterable[_Wanted]:
    for peer in peers:
        yield peer.key, peer.address, frozenset(peer.prefixes), peer.keepalive
        for key in peer.spare_keys:
            yield key, peer.address, frozenset(), 0


def _peer_lines(peer: TunnelPeer, learnt: Mapping[bytes, int]) -> Iterable[str]:
    address = f"[{peer.address}]" if peer.address.version == 6 else str(peer.address)
    for key in (peer.key, *peer.spare_keys):
        yield "[Peer]"
        yield f"PublicKey = {_base64(key)}"
        yield f"Endpoint = {address}:{learnt.get(key, peer.port)}"
        if key == peer.key:
            yield f"AllowedIPs = {', '.join(map(str, peer.prefixes))}"
            yield f"PersistentKeepalive = {peer.keepalive or _OFF}"


def _base64(key: bytes) -> str:
    return b64encode(key).decode()
