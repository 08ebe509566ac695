"""Federations that tests share."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

from fedsdn.config.model import (
    Federation,
    Prefix,
    Probes,
    ProviderNetwork,
    Site,
    SourceRestore,
    Uplink,
)
from fedsdn.pipeline.network import TenantPort


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
    )


PROBES = Probes("the-lab-two-site-keeps-no-secrets-from-you")


def two_sites() -> Federation:
    """What topo/two-site.yaml says."""
    return Federation((_site("a", 1), _site("b", 2)), 1080, PROBES)


def three_sites() -> Federation:
    """Every uplink of a family reaches every other."""
    return Federation((_site("a", 1), _site("b", 2), _site("c", 3)), 1080, PROBES)


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
        replace(site, proxy="socks5") if site.name == name else site for site in federation.sites
    )
    return replace(federation, sites=sites)
