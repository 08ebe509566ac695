"""Addresses that no VM has, though they may be in a prefix: never a client, never a destination.

IPv4's are of RFC 1122, section 3.2.1.3, and RFC 6890; IPv6's of RFC 4291, section 2.
"""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING

from fedsdn.config.prefixes import NetworkIndex, span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedsdn.config.model import Address, Network, Prefix

_SPECIAL = NetworkIndex(
    (span(ip_network(network)), kind)
    for network, kind in (
        ("0.0.0.0/8", "an address of 'this network'"),
        ("127.0.0.0/8", "a loopback address"),
        ("169.254.0.0/16", "a link-local address"),
        ("224.0.0.0/4", "a multicast address"),
        ("240.0.0.0/4", "a reserved address"),
        ("::/128", "the unspecified address"),
        ("::1/128", "a loopback address"),
        # A dual-stack socket would take it for the IPv4 one (RFC 4291, section 2.5.5.2).
        ("::ffff:0:0/96", "an IPv4 address written as IPv6"),
        ("fe80::/10", "a link-local address"),
        ("ff00::/8", "a multicast address"),
    )
)


def special(address: Address, prefix: Prefix | None = None) -> str | None:
    """Say what an address is, if no VM has it; ``prefix`` is the one that holds it, if one does."""
    kind = _SPECIAL.find(address)
    if kind is not None or prefix is None:
        return kind
    if address == prefix.proxy_address:
        return f"the proxy's address in {prefix.network}"
    if address == prefix.gateway:
        return f"the gateway of {prefix.network}"
    own = of_network(address, prefix.network)
    return None if own is None else f"the {own} address of {prefix.network}"


def of_network(address: Address, network: Network) -> str | None:
    """Name the kind of an address that is a network's own; None if it is a host's.

    Networks of two addresses and of one have none (RFC 3021, RFC 6164).
    """
    if network.max_prefixlen - network.prefixlen <= 1:
        return None
    if address == network.network_address:
        return "network" if network.version == 4 else "subnet-router anycast"
    if network.version == 4 and address == network.broadcast_address:
        return "broadcast"
    return None


def of_nobody(prefix: Prefix) -> Iterator[Address]:
    """Yield the addresses of a prefix that no VM has."""
    network = prefix.network
    for address in (network.network_address, network.broadcast_address):
        if of_network(address, network) is not None:
            yield address
    yield prefix.proxy_address
    if prefix.gateway is not None:
        yield prefix.gateway
