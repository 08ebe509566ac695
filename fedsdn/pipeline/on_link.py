"""Whose link-layer addresses are known beforehand: no neighbour on an uplink's wire can forge them.

Those of peers on the same link follow from their sites' names, or stand in the federation file, as
a gateway's may. Of others, and behind a NAT, only asking tells.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from fedsdn.config.model import DYNAMIC, MOST_KEPT, Address, Federation, Site, Uplink
from fedsdn.pipeline.declarations import port_mac, wan_port


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A neighbour on the link of an interface of the namespace, entered for good."""

    interface: str
    address: Address
    mac: str

    def __str__(self) -> str:
        return f"{self.address} dev {self.interface} lladdr {self.mac} permanent"


def neighbours(federation: Federation, site: Site) -> tuple[Neighbour, ...]:
    """Return the neighbours of a site's uplinks that need not be asked for."""
    found = [*_peers(federation, site), *_gateways(site)]
    return tuple({(one.interface, one.address): one for one in found}.values())


def _peers(federation: Federation, site: Site) -> Iterator[Neighbour]:
    for peer in federation.peers(site.name):
        yield from _of_peer(site, peer)


@lru_cache(MOST_KEPT)
def _of_peer(site: Site, peer: Site) -> tuple[Neighbour, ...]:
    """Return the uplinks of a peer that are on a link of the site's."""
    return tuple(
        Neighbour(wan_port(uplink), remote.peer_address, mac)
        for remote in peer.uplinks
        if (mac := _known_mac(peer, remote)) is not None
        for uplink in site.uplinks
        if remote.peer_address in uplink.address.network and uplink.reaches(remote)
    )


def _known_mac(peer: Site, uplink: Uplink) -> str | None:
    """Return the link-layer address under which a peer's uplink is known on its link."""
    if uplink.mac is not None:
        return None if uplink.mac == DYNAMIC else uplink.mac
    return port_mac(peer, wan_port(uplink)) if _is_ours(peer, uplink) else None


def _is_ours(peer: Site, uplink: Uplink) -> bool:
    return peer.proxy == "fedsdn" and uplink.public is None


def _gateways(site: Site) -> Iterator[Neighbour]:
    for uplink in site.uplinks:
        if uplink.gateway is not None and uplink.gateway_mac is not None:
            yield Neighbour(wan_port(uplink), uplink.gateway, uplink.gateway_mac)
