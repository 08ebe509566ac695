"""The federation as values: sites, prefixes, uplinks.

A value here is already checked; ``loader`` makes them from the federation file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from typing import Literal

from fedsdn.config.prefixes import NetworkIndex, Span, span
from fedsdn.config.rules import Group, Rule, RuleIndex
from fedsdn.errors import FinalError

Address = IPv4Address | IPv6Address
AddressPair = tuple[Address, Address]
"""Own address and the peer's."""
Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network
Family = Literal[4, 6]

TableMiss = Literal["normal", "none"]

SourceRestore = Literal["transparent", "nat", "none"]
"""Who restores the client's address of a connection from a peer: the proxy, the bridge, or nobody;
then the VM sees the proxy's address."""

Proxy = Literal["fedsdn", "socks5"]
"""A site's proxy: ours, or any other that speaks plain SOCKS5 (RFC 1928)."""


Encryption = Literal["tls", "none"]
"""What protects the connections between the proxies of two sites: TLS, or only their lines."""

Prefer = Literal["latency", "spread"]
"""By which path a flow that is not TCP leaves a site: the one with the least delay for all of them,
or one of the live paths for each, in turn."""

DEFAULT_DATAGRAMS_PORT = 51820
"""WireGuard's usual UDP port, and the first of the tunnels'."""

MOST_KEPT = 4096
"""Of so many sites is kept what takes a while to find out: of most a changed file says nothing."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The public halves of a site's keys: who has the private ones is the site.

    ``certificate`` is self-signed, in DER (X.509), with a P-256 or Ed25519 key: for connections.
    ``key`` and ``tunnel_key`` are X25519 public keys (RFC 7748), 32 bytes: for probes, and for
    tunnels, whose private key the kernel shows to whoever may set up its network.
    """

    certificate: bytes
    key: bytes
    tunnel_key: bytes

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the certificate, 32 bytes: what is pinned for connections."""
        return hashlib.sha256(self.certificate).digest()

    @property
    def name(self) -> str:
        """The first 16 hexadecimal digits of SHA-256 over certificate and keys, for people."""
        return hashlib.sha256(self.certificate + self.key + self.tunnel_key).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class PairEncryption:
    """What protects the connections between two sites, whatever holds for the others."""

    sites: tuple[str, str]
    encryption: Encryption


@dataclass(frozen=True, slots=True)
class Prefix:
    """A tenant network of a site that takes part in the federation.

    ``proxy_address`` is an address of this network reserved for the proxy: it resolves the VMs'
    link-layer addresses with it. ``gateway`` is the network's router, where the file names it; no
    VM has that address.
    """

    network: Network
    proxy_address: Address
    gateway: Address | None = None

    @property
    def family(self) -> Family:
        """4 or 6."""
        return self.network.version


DYNAMIC = "dynamic"
"""Link-layer address of an uplink for which its neighbours ask, as something else answers."""


@dataclass(frozen=True, slots=True)
class Uplink:
    """A site's connection to the other sites.

    ``port`` is the uplink's port on the provider bridge. ``address`` is the proxy's address on
    it, with the length of the on-link network. Without ``gateway`` only the on-link network is
    reached. Behind a NAT, ``public`` is the address that peers see and connect to.

    ``mac`` is the link-layer address that the proxy has there, None for one that follows from the
    names (``declarations.port_mac``); the neighbours on the link know either beforehand. With
    ``DYNAMIC`` they ask. ``gateway_mac`` is the gateway's, None if it is asked for.
    """

    name: str
    port: str
    address: Interface
    gateway: Address | None = None
    public: Address | None = None
    mac: str | None = None
    gateway_mac: str | None = None

    @property
    def family(self) -> Family:
        """4 or 6."""
        return self.address.version

    def next_hop(self, address: Address) -> Address | None:
        """Return the neighbour by which an address is reached: itself on-link, or the gateway."""
        return address if address in self.address.network else self.gateway

    @property
    def peer_address(self) -> Address:
        """The address under which the other sites know this uplink."""
        return self.public or self.address.ip

    def reaches(self, other: Uplink) -> bool:
        """Whether packets can go both ways between two uplinks: on-link, or through gateways."""
        if self.family != other.family:
            return False
        if self.gateway is not None and other.gateway is not None:
            return True
        return (
            other.peer_address in self.address.network
            and self.peer_address in other.address.network
        )


@dataclass(frozen=True, slots=True)
class ProviderNetwork:
    """The bridge that carries the tenants' provider network.

    ``segmentation_id`` is the VLAN of the provider network, None when it is flat. ``table_miss``
    says who owns the bridge's table-miss flow: ``normal``, fedsdn installs it; ``none``, somebody
    else does (Neutron's agent).
    """

    bridge: str
    segmentation_id: int | None = None
    table_miss: TableMiss = "none"


@dataclass(frozen=True, slots=True)
class Site:
    """One private cloud of the federation.

    ``source_restore`` is for connections to this site's VMs. Where ``proxy`` is ``socks5``, nothing
    of fedsdn runs, and the site's operator sets up what is described here. ``identities`` are one,
    or two while one replaces the other; none at a site with another's proxy, and in a topology
    that no lab was built of. ``prefer`` is for what VMs of this site send that is not TCP.
    """

    name: str
    provider_network: ProviderNetwork
    prefixes: tuple[Prefix, ...]
    uplinks: tuple[Uplink, ...]
    source_restore: SourceRestore = "transparent"
    proxy: Proxy = "fedsdn"
    identities: tuple[Identity, ...] = ()
    prefer: Prefer = "spread"

    def __hash__(self) -> int:
        """By its name: what is kept for each of thousands of sites is found at once."""
        return hash(self.name)


@lru_cache(MOST_KEPT)
def _spans(site: Site) -> tuple[Span, ...]:
    return tuple(span(prefix.network) for prefix in site.prefixes)


@dataclass(frozen=True, slots=True)
class Probes:
    """How every path between two uplinks is probed; all times in seconds.

    A path is down after ``multiplier`` times ``interval`` without a probe, and used again when it
    has been up for ``hold``.
    """

    interval: float = 0.1
    multiplier: int = 3
    hold: float = 0.1

    @property
    def detection(self) -> float:
        """Seconds of silence after which a path is down (RFC 5880, section 6.8.4)."""
        return self.interval * self.multiplier


@dataclass(frozen=True)
class Federation:
    """All sites, the same value at every site.

    ``proxy_port`` is the SOCKS servers' TCP port, and the UDP port of the probes.
    ``default_encryption`` holds for every two sites that ``pairs`` does not name. VMs may open what
    ``allow`` says, and everything if it is None. ``datagrams_port`` is the first of the tunnels'
    UDP ports (``reserved.TUNNEL_PORTS``).
    """

    sites: tuple[Site, ...]
    proxy_port: int
    probes: Probes = Probes()
    default_encryption: Encryption = "tls"
    pairs: tuple[PairEncryption, ...] = ()
    groups: tuple[Group, ...] = ()
    allow: tuple[Rule, ...] | None = None
    datagrams_port: int = DEFAULT_DATAGRAMS_PORT

    @cached_property
    def _by_name(self) -> dict[str, Site]:
        return {site.name: site for site in self.sites}

    @cached_property
    def _by_peer_address(self) -> dict[Address, Site]:
        return {uplink.peer_address: site for site in self.sites for uplink in site.uplinks}

    @cached_property
    def _by_fingerprint(self) -> dict[bytes, Site]:
        return {one.fingerprint: site for site in self.sites for one in site.identities}

    @cached_property
    def _by_pair(self) -> dict[frozenset[str], Encryption]:
        return {frozenset(pair.sites): pair.encryption for pair in self.pairs}

    @cached_property
    def _by_prefix(self) -> NetworkIndex[tuple[Site, Prefix]]:
        return NetworkIndex(
            (found, (site, prefix))
            for site in self.sites
            for found, prefix in zip(_spans(site), site.prefixes, strict=True)
        )

    @property
    def has_disjoint_prefixes(self) -> bool:
        """Whether no two prefixes overlap; it is checked of what the federation file has."""
        return self._by_prefix.disjoint

    @cached_property
    def _groups(self) -> dict[str, Group]:
        return {group.name: group for group in self.groups}

    @cached_property
    def rules(self) -> RuleIndex | None:
        """Finds the rule of ``allow`` that decides; None if there is no ``allow``."""
        return None if self.allow is None else RuleIndex(self.allow, self.groups, self.sites)

    def prepare(self) -> None:
        """Make what look-ups need, once; else the first one does, and takes the time for it."""
        self.prefix_of(self.sites[0].prefixes[0].proxy_address)
        _ = self.rules

    def group(self, name: str) -> Group:
        """Return the group called ``name``.

        Raises:
            KeyError: no group has this name.

        """
        return self._groups[name]

    def prefixes_in(self, network: Network) -> Iterator[tuple[Site, Prefix]]:
        """Yield the prefixes that have addresses of ``network``, with their sites."""
        yield from self._by_prefix.overlapping(network)

    def find_site(self, name: str) -> Site | None:
        """Return the site called ``name``; None if there is none."""
        return self._by_name.get(name)

    def site(self, name: str) -> Site:
        """Return the site called ``name``.

        Raises:
            FinalError: no site has this name.

        """
        site = self.find_site(name)
        if site is None:
            known = ", ".join(self._by_name)
            raise FinalError(
                f"unknown site {name!r}: write one that the federation file has: {known}"
            )
        return site

    def site_with_uplink(self, address: Address) -> Site | None:
        """Return the site that has an uplink with this peer address; None if none has."""
        return self._by_peer_address.get(address)

    def site_with_fingerprint(self, fingerprint: bytes) -> Site | None:
        """Return the site that has an identity with this fingerprint; None if none has."""
        return self._by_fingerprint.get(fingerprint)

    def encryption(self, one: str, other: str) -> Encryption:
        """Return what protects the connections between two sites; others' proxies speak no TLS.

        Raises:
            FinalError: a site has none of these names.

        """
        if "socks5" in (self.site(one).proxy, self.site(other).proxy):
            return "none"
        return self._by_pair.get(frozenset((one, other)), self.default_encryption)

    def prefix_at(self, version: int, number: int) -> tuple[Site, Prefix] | None:
        """Return the prefix that holds the address that is this ``number``, likewise."""
        return self._by_prefix.find_number(version, number)

    def prefix_of(self, address: Address) -> tuple[Site, Prefix] | None:
        """Return the prefix that holds ``address``, with its site; None if none does."""
        return self._by_prefix.find(address)

    def local_site(self, name: str) -> Site:
        """Return the site called ``name``, where fedsdn is to run.

        Raises:
            FinalError: no site has this name, or the site has another proxy.

        """
        site = self.site(name)
        if site.proxy != "fedsdn":
            raise FinalError(
                f"site {name!r} has another's proxy ('proxy: {site.proxy}'): nothing of fedsdn "
                "runs there; name a site that has fedsdn's"
            )
        return site

    def peers(self, name: str) -> tuple[Site, ...]:
        """Return every site but ``name``."""
        return tuple(site for site in self.sites if site.name != name)

    def source_restore(self, name: str, peer: Site) -> SourceRestore:
        """Who restores clients' addresses of connections from ``peer`` to VMs of a site."""
        return "none" if peer.proxy == "socks5" else self.site(name).source_restore

    def unrestored_peers(self, name: str) -> tuple[Site, ...]:
        """Peers whose connections reach a site's VMs from the address of the site's own proxy."""
        return tuple(peer for peer in self.peers(name) if self.source_restore(name, peer) == "none")
