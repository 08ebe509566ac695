"""Checks of a federation file beyond its schema: networks that fit, sites that reach each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache

from fedsdn.config.document import ConfigError, Document, KeyPath, key_path
from fedsdn.config.model import (
    MOST_KEPT,
    Address,
    Family,
    Federation,
    Interface,
    Network,
    Prefix,
    Site,
    Uplink,
)
from fedsdn.config.prefixes import first_overlap
from fedsdn.config.reach import Reach, all_reach_all
from fedsdn.config.reserved import (
    ROUTER_PORT,
    SERVER_PORT,
    SOCKSIFIER_LISTEN_PORTS,
    SOCKSIFIER_PORT,
    TUNNEL_PORTS,
    WAN_PORT_PREFIX,
)
from fedsdn.config.rules_file import check_rules
from fedsdn.config.schema import describe
from fedsdn.config.special import of_network

_MOST_SHOWN = 8
"""An error lists so many uplinks, and counts the rest."""


def check_federation(federation: Federation, document: Document) -> None:
    """Check a federation's values against each other; ``document`` is what it was read from.

    Sites that the document lacks have been checked before: only what others have in common with
    them is looked at again.

    Raises:
        ConfigError: the first that does not fit; one line that says where.

    """
    _check_proxy_port(federation, document)
    _check_tunnels_ports(federation, document)
    sites = document.section("sites")
    _check_overlaps(federation, sites)
    for name, where in sites.items():
        _check_site(federation.site(name), where)
    _check_owners(federation, sites)
    _check_families(federation, sites)
    _check_proxies(federation, sites)
    _check_pairs(federation, document.section("pairs"))
    _check_reach(federation, sites)
    check_rules(federation, document)


def _check_site(site: Site, where: Document) -> None:
    """Check what can be said of a site without others."""
    for index, prefix in enumerate(site.prefixes):
        _check_prefix(prefix, where.section("prefixes").section(index))
    _check_ports(site, where)
    for uplink in site.uplinks:
        _check_uplink_addresses(uplink, where.section("uplinks").section(uplink.name))


def _check_proxy_port(federation: Federation, document: Document) -> None:
    if federation.proxy_port in SOCKSIFIER_LISTEN_PORTS:
        raise document.section("proxy_port").error(
            f"{federation.proxy_port}, one of the ports at which the proxy accepts VMs' "
            f"connections ({SOCKSIFIER_LISTEN_PORTS[0]} to {SOCKSIFIER_LISTEN_PORTS[-1]})",
            "another port, as 1080",
        )


def _check_tunnels_ports(federation: Federation, document: Document) -> None:
    first = federation.datagrams_port
    last = first + TUNNEL_PORTS - 1
    if first <= federation.proxy_port <= last:
        raise (
            document.section("datagrams")
            .section("port")
            .error(
                f"{first}, so that the tunnels have UDP ports {first} to {last}; "
                f"'proxy_port' {federation.proxy_port} is the probes'",
                "another port, as 51820",
            )
        )


def _check_overlaps(federation: Federation, sites: Document) -> None:
    if federation.has_disjoint_prefixes:
        return
    every = [
        (site, index, prefix)
        for site in federation.sites
        for index, prefix in enumerate(site.prefixes)
    ]
    overlap = first_overlap([prefix.network for _, _, prefix in every])
    if overlap is None:
        return
    (site, index, prefix), (owner, there, other) = (every[position] for position in overlap)
    line = _below(sites, (owner.name, "prefixes", there, "prefix")).line
    raise _below(sites, (site.name, "prefixes", index, "prefix")).error(
        f"'{prefix.network}', which overlaps '{other.network}' of site {owner.name} (line {line})",
        f"a network of site {site.name} alone",
    )


def _check_prefix(prefix: Prefix, where: Document) -> None:
    _check_unicast(prefix.network.network_address, where.section("prefix"))
    for key, address in (("proxy_address", prefix.proxy_address), ("gateway", prefix.gateway)):
        if address is not None:
            _check_inside(address, prefix, where.section(key))
    if prefix.gateway == prefix.proxy_address:
        raise where.section("gateway").error(
            f"'{prefix.gateway}', the proxy's own address", "the router's address"
        )


def _check_inside(address: Address, prefix: Prefix, where: Document) -> None:
    if address not in prefix.network:
        raise where.error(
            f"'{address}', which is outside the prefix '{prefix.network}'",
            f"an address of '{prefix.network}'",
        )
    _check_host(address, prefix.network, where)


def _check_unicast(address: Address, where: Document) -> None:
    """Refuse addresses that hosts in other networks cannot reach."""
    if address.is_multicast:
        kind = "a multicast address"
    elif address.is_loopback:
        kind = "a loopback address"
    elif address.is_link_local:
        kind = "a link-local address"
    elif address.version == 4 and (address.is_reserved or address.is_unspecified):
        kind = "a reserved address"
    elif address.version == 6 and address.ipv4_mapped:
        kind = "an IPv4 address written as IPv6"
    else:
        return
    raise where.error(f"'{where.value}', {kind}", "a unicast address that other sites can reach")


def _check_host(address: Address, network: Network, where: Document) -> None:
    """Refuse a network's own addresses."""
    kind = of_network(address, network)
    if kind is not None:
        raise where.error(
            f"'{where.value}', the {kind} address of '{network}'",
            f"a host's address in '{network}'",
        )


def _check_ports(site: Site, where: Document) -> None:
    """Check the names of the bridge's ports: no name twice, and none of fedsdn's own."""
    bridge = site.provider_network.bridge
    _check_not_reserved(bridge, where.section("provider_network").section("bridge"))
    taken = {bridge: "the bridge's own"}
    for uplink in site.uplinks:
        port = where.section("uplinks").section(uplink.name).section("port")
        _check_not_reserved(uplink.port, port)
        if uplink.port in taken:
            raise port.error(
                f"'{uplink.port}', which is {taken[uplink.port]}", "a port of this uplink alone"
            )
        taken[uplink.port] = f"uplink {uplink.name}'s (line {port.line})"


def _check_not_reserved(name: str, where: Document) -> None:
    if name in (SOCKSIFIER_PORT, SERVER_PORT, ROUTER_PORT) or name.startswith(WAN_PORT_PREFIX):
        raise where.error(
            f"'{name}', a name of fedsdn's own ports",
            f"another name than '{SOCKSIFIER_PORT}', '{SERVER_PORT}', '{ROUTER_PORT}' and "
            f"'{WAN_PORT_PREFIX}...'",
        )


def _check_uplink_addresses(uplink: Uplink, where: Document) -> None:
    _check_unicast(uplink.address.ip, where.section("address"))
    _check_host(uplink.address.ip, uplink.address.network, where.section("address"))
    if uplink.gateway is not None:
        _check_gateway(uplink.gateway, uplink.address, where.section("gateway"))
    elif uplink.gateway_mac is not None:
        raise where.section("gateway_mac").error(
            f"'{uplink.gateway_mac}' on an uplink without gateway",
            f"the router's address under '{key_path(where.at)}.gateway' too",
        )
    if uplink.public is None:
        return
    public = where.section("public")
    if uplink.public.version != uplink.family:
        raise public.error(
            f"'{uplink.public}' beside the IPv{uplink.family} address '{uplink.address}'",
            f"an IPv{uplink.family} address",
        )
    _check_unicast(uplink.public, public)
    if uplink.gateway is None:
        raise public.error(
            f"'{uplink.public}' on an uplink without gateway",
            f"the NAT router's address under '{key_path(where.at)}.gateway' too",
        )


def _check_gateway(gateway: Address, address: Interface, where: Document) -> None:
    """Check that it is on-link; IPv6 routers may go by a link-local address (RFC 4861, 4.2)."""
    if gateway.version == 6 and address.version == 6 and gateway.is_link_local:
        return
    if gateway not in address.network:
        raise where.error(
            f"'{gateway}', which is outside the uplink's network '{address.network}'",
            f"the router's address in '{address.network}'",
        )
    _check_host(gateway, address.network, where)
    if gateway == address.ip:
        raise where.error(f"'{gateway}', the uplink's own address", "the router's address")


def _check_owners(federation: Federation, sites: Document) -> None:
    """Check that no other uplink and no tenant network has an uplink's addresses."""
    numbers = [one for site in federation.sites for one in _addresses(site)]
    if len(set(numbers)) == len(numbers) and not any(federation.prefix_at(*one) for one in numbers):
        return
    taken: dict[Address, KeyPath] = {}
    for at, address in _uplinks_addresses(federation):
        held = federation.prefix_of(address)
        if address not in taken and held is None:
            taken[address] = at
            continue
        here = _below(sites, at)
        if address in taken:
            other = _below(sites, taken[address])
            raise here.error(
                f"'{here.value}', which {key_path(other.at)} (line {other.line}) has already",
                "an address of this uplink alone",
            )
        if held is not None:
            site, prefix = held
            raise here.error(
                f"'{here.value}', which is in site {site.name}'s prefix '{prefix.network}'",
                "an address outside all prefixes",
            )


def _uplinks_addresses(federation: Federation) -> Iterator[tuple[KeyPath, Address]]:
    """Yield all uplinks' addresses, each with its place below the sites."""
    for site in federation.sites:
        for uplink in site.uplinks:
            yield (site.name, "uplinks", uplink.name, "address"), uplink.address.ip
            if uplink.public is not None:
                yield (site.name, "uplinks", uplink.name, "public"), uplink.public


@lru_cache(MOST_KEPT)
def _addresses(site: Site) -> tuple[tuple[int, int], ...]:
    """Return the addresses of a site's uplinks as numbers, with their IP version."""
    every = (each for up in site.uplinks for each in (up.address.ip, up.public) if each is not None)
    return tuple((each.version, int(each)) for each in every)


def _below(sites: Document, at: KeyPath) -> Document:
    for key in at:
        sites = sites.section(key)
    return sites


def _check_families(federation: Federation, sites: Document) -> None:
    """Check that each prefix has one of its family to talk to: no connection changes family."""
    having = Counter(family for site in federation.sites for family in _prefixes_families(site))
    if 1 not in having.values():
        return
    for site in federation.sites:
        for index, prefix in enumerate(site.prefixes):
            if having[prefix.family] == 1:
                where = sites.section(site.name).section("prefixes").section(index)
                raise where.section("prefix").error(
                    f"'{prefix.network}', but no other site has an IPv{prefix.family} prefix",
                    f"an IPv{prefix.family} prefix at another site too, or leave this one out",
                )


@lru_cache(MOST_KEPT)
def _prefixes_families(site: Site) -> frozenset[Family]:
    return frozenset(prefix.family for prefix in site.prefixes)


def _check_proxies(federation: Federation, sites: Document) -> None:
    """Check that other people's proxies have ours to talk to, and no bridge that restores.

    They name no clients, so the bridge could not restore these, and would have to let the proxy's
    own address through. A client's connection whose flow expires too early would then come from it.
    """
    foreign = [site.name for site in federation.sites if site.proxy == "socks5"]
    for site in federation.sites:
        here = sites.section(site.name)
        if site.proxy == "socks5" and len(foreign) == len(federation.sites):
            raise here.section("proxy").error(
                "'socks5', but no other site has fedsdn's proxy", "'fedsdn', at one site or more"
            )
        if site.proxy == "fedsdn" and site.source_restore == "nat" and foreign:
            raise here.section("source_restore").error(
                f"'nat', but the proxy of site {foreign[0]} ('proxy: socks5') names no clients",
                "'transparent' or 'none'",
            )


def _check_pairs(federation: Federation, pairs: Document) -> None:
    """Check that pairs are of two sites that there are, each named once, and can be encrypted."""
    taken: dict[frozenset[str], Document] = {}
    for index, pair in enumerate(federation.pairs):
        here = pairs.section(index)
        for at, name in enumerate(pair.sites):
            if federation.find_site(name) is None:
                known = " or ".join(site.name for site in federation.sites[:_MOST_SHOWN])
                raise here.section("sites").section(at).error(describe(name), f"a site: {known}")
        both = frozenset(pair.sites)
        if len(both) == 1:
            raise here.section("sites").error(f"site {pair.sites[0]} twice", "two sites")
        other = taken.setdefault(both, here)
        if other is not here:
            found = f"{' and '.join(pair.sites)}, as on line {other.line}"
            raise here.section("sites").error(found, "each two sites once")
        foreign = [name for name in pair.sites if federation.site(name).proxy == "socks5"]
        if foreign and pair.encryption == "tls":
            raise here.section("encryption").error(
                f"'tls', but the proxy of site {foreign[0]} ('proxy: socks5') speaks none", "'none'"
            )


def _check_reach(federation: Federation, sites: Document) -> None:
    if all_reach_all(federation.sites):
        return
    reach = Reach(federation.sites)
    for position, site in enumerate(federation.sites):
        uplink = next(reach.unreached(position), None)
        if uplink is not None:
            where = sites.section(site.name).section("uplinks").section(uplink.name)
            raise _no_reach(uplink, federation.peers(site.name), where.section("address"))
    apart = next(reach.apart(), None)
    if apart is not None:
        near, far = apart
        raise (
            sites.section(far.name)
            .section("uplinks")
            .error(
                f"no uplink that reaches one of site {near.name}",
                "an uplink on a network where both are, or gateways at both sites",
            )
        )


def _no_reach(uplink: Uplink, peers: Sequence[Site], where: Document) -> ConfigError:
    of_family = [
        f"{peer.name}/{other.name} '{other.address}'"
        for peer in peers
        for other in peer.uplinks
        if other.family == uplink.family
    ]
    if not of_family:
        return where.error(
            f"'{uplink.address}', but no other site has an IPv{uplink.family} uplink",
            f"an IPv{10 - uplink.family} address, or an IPv{uplink.family} uplink at another site",
        )
    shown, left = ", ".join(of_family[:_MOST_SHOWN]), len(of_family) - _MOST_SHOWN
    more = f" and {left} more" if left > 0 else ""
    return where.error(
        f"'{uplink.address}', from which none is reached of {shown}{more}",
        "an address in the network of one of them, or gateways at both ends",
    )
