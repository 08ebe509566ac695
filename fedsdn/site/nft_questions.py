"""What may be asked on the uplinks' links, so that nobody fills the host's neighbour table.

The kernel takes up as a neighbour whoever asks for our link-layer address, or is sent an answer
there. The table is the whole host's. So strangers are taken up in a number that is limited, those
who ask apart from those who only ping, who may be anywhere. Peers and gateways are in no limit.

But a router that forwards may ask by an address that stands in no file: by its own if the
gateway's is a group's (VRRP), by its link-local one in IPv6 (RFC 4861, section 7.2.2). So who asks
is not shut out by what others send. In IPv4 those beyond the limit, or not of the link, are
answered without being taken up: without its sender's address a request is one for duplicate address
detection (RFC 5227), whose answer goes to the link-layer address that asks. IPv6 has no such thing:
there link-local addresses have a limit of their own, and beyond it so many more are taken up in a
second: a router asks again.
"""

from __future__ import annotations

from collections.abc import Iterator

from fedsdn.config.model import Address, Federation, Site
from fedsdn.pipeline.declarations import (
    MOST_STRANGERS,
    STRANGERS_PER_SECOND,
    STRANGERS_SECONDS,
    wan_port,
)
from fedsdn.pipeline.link_local import link_local
from fedsdn.pipeline.on_link import neighbours
from fedsdn.site.nft_text import chain, drop, dynamic_set, listed, of

ARP_TABLE = "arp fedsdn"
"""Family and name of the table for IPv4's requests."""

_FAMILIES = ((4, "ip"), (6, "ip6"))
_ECHO = {4: "icmp type echo-request", 6: "icmpv6 type echo-request"}
_SOLICITATION = "icmpv6 type nd-neighbor-solicit"
_LINK_LOCAL = "fe80::/10"
_STRANGERS = {4: "strangers_ip", 6: "strangers_ip6"}
_ASKERS, _ROUTERS = "askers_ip6", "askers_link_local"


def sets() -> str:
    """Write the sets of strangers who ping, and of those who ask in IPv6."""
    every = ((_STRANGERS[4], 4), (_STRANGERS[6], 6), (_ASKERS, 6), (_ROUTERS, 6))
    return "".join(
        dynamic_set(name, family, MOST_STRANGERS, STRANGERS_SECONDS) for name, family in every
    )


def questions(federation: Federation, site: Site) -> Iterator[str]:
    """Yield the rules about echoes and solicitations that come by the uplinks."""
    gateways = [uplink.gateway for uplink in site.uplinks if uplink.gateway is not None]
    for family, word in _FAMILIES:
        if not any(uplink.family == family for uplink in site.uplinks):
            continue
        if known := of(family, (*gateways, *reachable(federation, site))):
            yield f"{word} saddr {listed(known)} {_ECHO[family]} accept"
        yield f"{_ECHO[family]} update @{_STRANGERS[family]} {{ {word} saddr }} accept"
        yield f"{_ECHO[family]} " + drop("more strangers than are answered")
    if any(uplink.family == 6 for uplink in site.uplinks):
        yield from _solicitations(federation, site)


def _solicitations(federation: Federation, site: Site) -> Iterator[str]:
    if known := of(6, _on_link(federation, site)):
        yield f"ip6 saddr {listed(known)} {_SOLICITATION} accept"
    yield f"ip6 saddr {_LINK_LOCAL} {_SOLICITATION} update @{_ROUTERS} {{ ip6 saddr }} accept"
    yield f"ip6 saddr != {_LINK_LOCAL} {_SOLICITATION} update @{_ASKERS} {{ ip6 saddr }} accept"
    yield f"{_SOLICITATION} limit rate {STRANGERS_PER_SECOND}/second accept"
    yield f"{_SOLICITATION} " + drop("more strangers ask than are answered")


def arp_table(federation: Federation, site: Site) -> str:
    """Write the table for ARP requests on the uplinks; nothing if none is of IPv4."""
    if not any(uplink.family == 4 for uplink in site.uplinks):
        return ""
    strangers = dynamic_set("askers", 4, MOST_STRANGERS, STRANGERS_SECONDS)
    return f"table {ARP_TABLE} {{\n{strangers}{chain('input', _requests(federation, site))}}}\n"


def _requests(federation: Federation, site: Site) -> Iterator[str]:
    uplinks = [uplink for uplink in site.uplinks if uplink.family == 4]
    names = [f'"{wan_port(uplink)}"' for uplink in uplinks]
    ports = f"iifname {listed(names)}"
    yield "type filter hook input priority filter; policy accept;"
    yield "arp operation != request accept"
    if known := of(4, _on_link(federation, site)):
        yield f"{ports} arp saddr ip {listed(known)} accept"
    for name, uplink in zip(names, uplinks, strict=True):
        on_link = f"arp saddr ip {uplink.address.network}"
        yield f"iifname {name} {on_link} update @askers {{ arp saddr ip }} accept"
    yield f'{ports} arp saddr ip set 0.0.0.0 counter comment "answered, and not taken up"'


def reachable(federation: Federation, site: Site) -> Iterator[Address]:
    """Yield the addresses of peers that an uplink reaches."""
    for peer in federation.peers(site.name):
        for remote in peer.uplinks:
            if any(uplink.reaches(remote) for uplink in site.uplinks):
                yield remote.peer_address


def _on_link(federation: Federation, site: Site) -> Iterator[Address]:
    """Yield the addresses by which gateways, and peers on the link, ask, as far as is known."""
    networks = [uplink.address.network for uplink in site.uplinks]
    yield from (uplink.gateway for uplink in site.uplinks if uplink.gateway is not None)
    for address in reachable(federation, site):
        if any(address in network for network in networks):
            yield address
    for one in neighbours(federation, site):
        if one.address.version == 6:
            yield link_local(one.mac)
