"""Federations that tests share."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import cache
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from fedsdn.config.identities import identity_document
from fedsdn.config.local import IDENTITY_DIRECTORY
from fedsdn.config.model import (
    AddressPair,
    Federation,
    Prefix,
    ProviderNetwork,
    Site,
    SourceRestore,
    Uplink,
)
from fedsdn.identity import store
from fedsdn.identity.new import NewIdentity, make
from fedsdn.identity.store import OwnKeys
from fedsdn.pipeline.network import TenantPort
from fedsdn.uplinks.teardown import Orders


def uplink(
    name: str, address: str, gateway: str | None = None, public: str | None = None
) -> Uplink:
    return Uplink(
        name,
        name,
        ip_interface(address),
        gateway=ip_address(gateway) if gateway else None,
        public=ip_address(public) if public else None,
    )


def _site(name: str, number: int) -> Site:
    return Site(
        name=name,
        provider_network=ProviderNetwork("br-provider", table_miss="normal"),
        prefixes=(
            Prefix(ip_network(f"10.{number}.0.0/24"), ip_address(f"10.{number}.0.2")),
            Prefix(ip_network(f"fd00:{number}::/64"), ip_address(f"fd00:{number}::2")),
        ),
        uplinks=(
            Uplink("up1", "up1", ip_interface(f"192.0.2.{number}/24")),
            Uplink("up2", "up2", ip_interface(f"2001:db8:2::{number}/64")),
        ),
        identities=(own_identity(name).identity,),
    )


@cache
def own_identity(name: str) -> NewIdentity:
    """The identity of every site that is called so, in the tests of one process."""
    return make(name)


def private_keys(name: str) -> OwnKeys:
    """The private X25519 keys of ``own_identity``."""
    return private_part(own_identity(name))


def private_part(identity: NewIdentity) -> OwnKeys:
    """An identity's private X25519 keys."""
    return OwnKeys(*map(_raw, (identity.probes_key, identity.tunnels_key)))


def _raw(pem: bytes) -> bytes:
    key = load_pem_private_key(pem, None)
    assert isinstance(key, X25519PrivateKey)
    return key.private_bytes_raw()


def write_identity(directory: Path, *names: str) -> None:
    """Write the private halves of sites beside their federation file in ``directory``."""
    for name in names:
        store.save(directory / IDENTITY_DIRECTORY, own_identity(name))


def with_identities(text: str) -> str:
    """A federation file's text with an identity for each site, one line behind its name."""

    def add(site: re.Match[str]) -> str:
        fields = identity_document(own_identity(site[1]).identity)
        return f"{site[0]}    identity: [{json.dumps(fields)}]\n"

    return re.sub(r"^  ([a-z]+):\n", add, text, flags=re.MULTILINE)


def two_sites() -> Federation:
    """What topo/two-site.yaml says."""
    return Federation((_site("a", 1), _site("b", 2)), 1080)


def three_sites() -> Federation:
    """Every uplink of a family reaches every other."""
    return Federation((_site("a", 1), _site("b", 2), _site("c", 3)), 1080)


def tenants(*names: str) -> tuple[TenantPort, ...]:
    """Access ports of the provider network."""
    return tuple(TenantPort(name, untagged=True, tagged=False) for name in names)


def with_provider_network(federation: Federation, network: ProviderNetwork) -> Federation:
    """The same federation with another provider network at every site."""
    sites = tuple(replace(site, provider_network=network) for site in federation.sites)
    return replace(federation, sites=sites)


def with_source_restore(federation: Federation, how: SourceRestore) -> Federation:
    """The same federation with another way of restoring sources at every site."""
    sites = tuple(replace(site, source_restore=how) for site in federation.sites)
    return replace(federation, sites=sites)


def with_foreign_proxy(federation: Federation, name: str) -> Federation:
    """The same federation where one site has another's proxy."""
    sites = tuple(
        replace(site, proxy="socks5", identities=()) if site.name == name else site
        for site in federation.sites
    )
    return replace(federation, sites=sites)


def site_with(*uplinks: Uplink) -> Site:
    """Site a with these uplinks."""
    return replace(two_sites().site("a"), uplinks=uplinks)


def orders_of(down: list[AddressPair], live: list[AddressPair]) -> Orders:
    """Return those while some paths are down, of which the first one's subflows are ended."""
    return Orders(
        usable=frozenset(),
        dead=frozenset(),
        dead_pairs=frozenset(down[:1]),
        down_pairs=frozenset(down[1:]),
        live_pairs=dict.fromkeys(live, 0.0),
    )


def unencrypted(federation: Federation) -> Federation:
    """The same federation without TLS between its proxies."""
    return replace(federation, default_encryption="none")
