"""Which tunnels a site has, worked out from the federation alone.

A tunnel for each path, so that a path's loss moves what is on it and nothing else. With WireGuard
(https://www.wireguard.com/papers/wireguard.pdf, section 2) a prefix belongs to one peer of an
interface, and what another sends with it is dropped. So there is one interface for each uplink of
the site and each number of the peers' uplinks: on it every peer's prefixes are that peer's alone.
Two sites whose lines are protected already (``encryption: none``) have a VXLAN interface (RFC 7348)
for each path.

Uplinks are numbered in the order of their names, as the file's order means nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv6Address
from zlib import crc32

from fedsdn.config.model import Address, AddressPair, Family, Federation, Network, Site, Uplink
from fedsdn.config.reserved import MOST_UPLINKS, TUNNEL_PORTS
from fedsdn.errors import FinalError
from fedsdn.pipeline.declarations import (
    ROUTER_PORT,
    plain_tunnel_name,
    port_mac,
    tunnel_mark,
    tunnel_name,
)

LEAST_MTU = 1280
"""IPv6 needs it of every link (RFC 8200, section 5); what the uplink cannot carry in one piece then
goes in fragments of the tunnel's own packets."""

KEEPALIVE_SECONDS = 25
"""Less than the 30 seconds for which a NAT keeps an idle UDP mapping at worst (RFC 4787, REQ-5 asks
for two minutes). It keeps sessions, too: a path that takes over others' flows needs one at once."""

_VXLAN_IDENTIFIERS = 1 << 24

_KEPT = 1 << 14
"""So many ends of tunnels are kept: of most a changed file says nothing new."""


class TunnelKind(StrEnum):
    """What a tunnel's interface is, as ip-link(8) calls it."""

    WIREGUARD = "wireguard"
    VXLAN = "vxlan"


_OVERHEAD: dict[tuple[TunnelKind, Family], int] = {
    (TunnelKind.WIREGUARD, 4): 60,
    (TunnelKind.WIREGUARD, 6): 80,
    (TunnelKind.VXLAN, 4): 50,
    (TunnelKind.VXLAN, 6): 70,
}
"""Octets that a tunnel puts around a packet: IP (20 or 40), UDP (8), and 32 of WireGuard's (header
and tag), or 8 of VXLAN's and an Ethernet header (14)."""


@dataclass(frozen=True, slots=True)
class TunnelPeer:
    """The other end of a tunnel.

    ``address`` and ``port`` are where packets to it go. ``key`` is its X25519 public key, 32 bytes;
    none where nothing is encrypted. With ``spare_keys`` it may begin a session while it goes over
    to another identity, and send nothing yet. ``keepalive`` is after how many seconds of silence an
    empty packet goes to it, 0 for never; sessions with it are those that this site ``begins``, or
    the peer does. ``next_hop`` and ``mac`` are the peer's on a VXLAN's link;
    WireGuard finds its peers by ``prefixes``.
    """

    site: str
    uplink: str
    address: Address
    port: int
    prefixes: tuple[Network, ...]
    key: bytes = b""
    spare_keys: tuple[bytes, ...] = ()
    keepalive: int = 0
    begins: bool = False
    next_hop: IPv6Address | None = None
    mac: str | None = None


@dataclass(frozen=True, slots=True)
class Tunnel:
    """An interface of the proxy's namespace that leads to peers.

    ``uplink`` is the site's own, with the address ``local``; ``number`` that of the peers' uplinks,
    from 1. ``port`` is the UDP port at which it gets packets, ``mark`` the packet mark of what it
    sends, ``slot`` its path's place among the site's (0 to 63). ``overhead`` are the octets around
    each packet. A VXLAN has one peer, an ``identifier`` and a link-layer address.
    """

    name: str
    kind: TunnelKind
    uplink: str
    number: int
    local: Address
    port: int
    mark: int
    slot: int
    overhead: int
    peers: tuple[TunnelPeer, ...]
    identifier: int | None = None
    mac: str | None = None

    def mtu(self, uplink_mtu: int) -> int:
        """MTU of the interface where the uplink has ``uplink_mtu``; both in bytes."""
        return max(LEAST_MTU, uplink_mtu - self.overhead)

    def path(self, peer: TunnelPeer) -> AddressPair:
        """Return the path that it takes to a peer, as the probes name it."""
        return self.local, peer.address


def tunnels(
    federation: Federation, site: Site, keys: Mapping[str, bytes] | None = None
) -> tuple[Tunnel, ...]:
    """Return the tunnels of a site, in the order of its uplinks and then of the peers'.

    ``keys`` are the public keys that peers use now, by site, where one has two identities; of
    others the first in the file counts. A peer with another's proxy has no tunnel, and none with
    encryption before it has an identity.

    Raises:
        FinalError: two paths to unencrypted peers happen to have the same VXLAN identifier.

    """
    encrypted, plain = _peers(federation, site, keys or {})
    most = max((len(peer.uplinks) for peer in federation.peers(site.name)), default=0)
    ways = (
        _Way(site, uplink, index, number)
        for index, uplink in enumerate(_in_order(site))
        for number in range(1, most + 1)
    )
    found = [
        tunnel
        for way in ways
        for tunnel in (*_wireguard(federation, way, encrypted), *_vxlans(federation, way, plain))
    ]
    _check_identifiers(site, found)
    return tuple(found)


def renumbered(first: Federation, second: Federation) -> dict[str, tuple[str, ...]]:
    """Return the uplinks, by site, that both have and whose tunnels have other ports in the other.

    Over their paths nothing is carried while one site follows the one and its peer the other.
    """
    every = first.datagrams_port != second.datagrams_port
    moved: dict[str, tuple[str, ...]] = {}
    for site in first.sites:
        other = second.find_site(site.name)
        if other is not None:
            before, after = _numbers(site), _numbers(other)
            both = (name for name in before if name in after)
            names = tuple(name for name in both if every or after[name] != before[name])
            moved |= {site.name: names} if names else {}
    return moved


def _numbers(site: Site) -> dict[str, int]:
    return {one.name: at for at, one in enumerate(_in_order(site))}


@dataclass(frozen=True, slots=True)
class _Way:
    """From an uplink of a site, with its index in the order of names, to peers' of a number."""

    site: Site
    uplink: Uplink
    index: int
    number: int

    @property
    def mark(self) -> int:
        return tunnel_mark(self.site.uplinks.index(self.uplink))

    @property
    def slot(self) -> int:
        return self.index * MOST_UPLINKS + self.number - 1


def _remote(uplink: Uplink, number: int, peer: Site) -> Uplink | None:
    """Return the peer's uplink of this number, if there is one and ``uplink`` reaches it."""
    theirs = _in_order(peer)
    if len(theirs) < number or not uplink.reaches(theirs[number - 1]):
        return None
    return theirs[number - 1]


@lru_cache(_KEPT)
def _in_order(site: Site) -> tuple[Uplink, ...]:
    return tuple(sorted(site.uplinks, key=lambda uplink: uplink.name))


def _peers(
    federation: Federation, site: Site, keys: Mapping[str, bytes]
) -> tuple[dict[str, tuple[bytes, ...]], list[Site]]:
    """Return the peers with encryption, each with its keys, and those without.

    The key that a peer uses is its first.
    """
    encrypted: dict[str, tuple[bytes, ...]] = {}
    plain: list[Site] = []
    for peer in federation.peers(site.name):
        if "socks5" in (peer.proxy, site.proxy):
            continue
        if federation.encryption(site.name, peer.name) == "none":
            plain.append(peer)
        elif listed := [identity.tunnel_key for identity in peer.identities]:
            used = keys.get(peer.name)
            first = used if used in listed else listed[0]
            encrypted[peer.name] = (first, *(key for key in listed if key != first))
    return encrypted, plain


def _wireguard(
    federation: Federation, way: _Way, peers_keys: Mapping[str, tuple[bytes, ...]]
) -> Iterator[Tunnel]:
    """Yield the interface of a way, if it leads to anybody."""
    first = federation.datagrams_port
    port = first + (way.number - 1) * MOST_UPLINKS + way.index
    every = (
        _wireguard_peer(way.site, way.index, way.number, federation.site(name), port, keys)
        for name, keys in peers_keys.items()
    )
    peers = tuple(peer for peer in every if peer is not None)
    if peers:
        yield Tunnel(
            name=tunnel_name(way.uplink, way.number),
            kind=TunnelKind.WIREGUARD,
            uplink=way.uplink.name,
            number=way.number,
            local=way.uplink.address.ip,
            port=first + way.slot,
            mark=way.mark,
            slot=way.slot,
            overhead=_OVERHEAD[TunnelKind.WIREGUARD, way.uplink.family],
            peers=peers,
        )


@lru_cache(_KEPT)
def _wireguard_peer(
    site: Site, index: int, number: int, peer: Site, port: int, keys: tuple[bytes, ...]
) -> TunnelPeer | None:
    """Return the other end of a way, if there is one; of most peers it is known already."""
    uplink = _in_order(site)[index]
    remote = _remote(uplink, number, peer)
    if remote is None:
        return None
    return TunnelPeer(
        site=peer.name,
        uplink=remote.name,
        address=remote.peer_address,
        port=port,
        prefixes=_prefixes(peer),
        key=keys[0],
        spare_keys=keys[1:],
        keepalive=KEEPALIVE_SECONDS,
        begins=_begins((site, uplink), (peer, remote)),
    )


def _begins(own: tuple[Site, Uplink], other: tuple[Site, Uplink]) -> bool:
    """Whether an end of a path begins its sessions: one of the two does.

    The one behind a NAT, as that may let in answers alone; else the one whose name comes first.
    """
    (site, uplink), (peer, remote) = own, other
    if (uplink.public is None) != (remote.public is None):
        return uplink.public is not None
    return site.name < peer.name


def _vxlans(federation: Federation, way: _Way, peers: list[Site]) -> Iterator[Tunnel]:
    """Yield the interface of each peer without encryption that a way leads to."""
    port = federation.datagrams_port + TUNNEL_PORTS - 1
    for peer in peers:
        remote = _remote(way.uplink, way.number, peer)
        if remote is None:
            continue
        identifier = _vxlan_identifier((way.site, way.uplink), (peer, remote))
        mac = port_mac(peer, ROUTER_PORT)
        yield Tunnel(
            name=plain_tunnel_name(identifier),
            kind=TunnelKind.VXLAN,
            uplink=way.uplink.name,
            number=way.number,
            local=way.uplink.address.ip,
            port=port,
            mark=way.mark,
            slot=way.slot,
            overhead=_OVERHEAD[TunnelKind.VXLAN, way.uplink.family],
            peers=(
                TunnelPeer(
                    site=peer.name,
                    uplink=remote.name,
                    address=remote.peer_address,
                    port=port,
                    prefixes=_prefixes(peer),
                    next_hop=_link_local(mac),
                    mac=mac,
                ),
            ),
            identifier=identifier,
            mac=port_mac(way.site, ROUTER_PORT),
        )


def _prefixes(site: Site) -> tuple[Network, ...]:
    return tuple(prefix.network for prefix in site.prefixes)


def _vxlan_identifier(*ends: tuple[Site, Uplink]) -> int:
    """Return a path's number, the same at both of its ends, whoever else is in the file."""
    names = sorted(f"{site.name}/{uplink.name}" for site, uplink in ends)
    return crc32(" ".join(names).encode()) % _VXLAN_IDENTIFIERS


def _link_local(mac: str) -> IPv6Address:
    """Return the address that a link-layer address stands for (RFC 4291, appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    identifier = bytes((octets[0] ^ 2, *octets[1:3], 0xFF, 0xFE, *octets[3:]))
    return IPv6Address(b"\xfe\x80".ljust(8, b"\0") + identifier)


def _check_identifiers(site: Site, found: list[Tunnel]) -> None:
    taken: dict[int, str] = {}
    for tunnel in found:
        if tunnel.identifier is None:
            continue
        (peer,) = tunnel.peers
        path = f"{tunnel.uplink} to {peer.site}/{peer.uplink}"
        other = taken.setdefault(tunnel.identifier, path)
        if other != path:
            raise FinalError(
                f"site {site.name}: found VXLAN identifier {tunnel.identifier} for two paths "
                f"without encryption, {other} and {path}: give an uplink of one another name, or "
                "encrypt that pair"
            )
