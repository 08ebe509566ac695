"""All flows of a site, in groups: its own, and those of each peer.

A peer's flows depend on the site and on that peer alone, so a peer that comes, goes or changes
makes a group of flows and touches no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fedsdn.config.model import Federation, Site
from fedsdn.pipeline import (
    datagrams,
    host,
    network,
    proxy_ports,
    restore,
    table_miss,
    tenants,
    uplinks,
)
from fedsdn.pipeline.context import Context, PeerContext
from fedsdn.pipeline.declarations import Feature
from fedsdn.pipeline.flows import Flow
from fedsdn.pipeline.network import TenantPort

_FEATURES = {
    Feature.UPLINKS: uplinks.flows,
    Feature.HOST: host.flows,
    Feature.NETWORK: network.flows,
    Feature.TENANTS: tenants.flows,
    Feature.PROXY_PORTS: proxy_ports.flows,
    Feature.DATAGRAMS: datagrams.flows,
    Feature.RESTORE: restore.flows,
    Feature.TABLE_MISS: table_miss.flows,
}
_PEER_FEATURES = {
    Feature.UPLINKS: uplinks.peer_flows,
    Feature.TENANTS: tenants.peer_flows,
    Feature.PROXY_PORTS: proxy_ports.peer_flows,
    Feature.DATAGRAMS: datagrams.peer_flows,
}

Groups = Mapping[str, tuple[Flow, ...]]
"""Flows by the name of the peer that they are for; ``OWN`` for what no peer makes."""

OWN = ""
"""No site has this name."""


@dataclass(frozen=True, slots=True)
class SiteFlows:
    """A site's flows, with what they were made from."""

    groups: Groups
    site: Site
    peers: Mapping[str, Site]


def site_flows(
    federation: Federation,
    site_name: str,
    tenant_ports: Iterable[TenantPort] = (),
    before: SiteFlows | None = None,
    *,
    routed: bool = True,
) -> SiteFlows:
    """Make all flows of the site's bridge.

    Groups that are as they were ``before`` are the same objects: comparing them costs nothing.
    ``tenant_ports`` are the bridge's: ``ovs.wanted`` reads them. Without them no tenant is served.
    ``routed``: the bridge has the router's port; without it only TCP is.

    Raises:
        FedsdnError: the federation has no such site.

    """
    site = federation.site(site_name)
    peers = {peer.name: peer for peer in federation.peers(site_name)}
    known: Mapping[str, Site] = {}
    groups: dict[str, tuple[Flow, ...]] = {}
    groups[OWN] = _own(federation, site, tuple(tenant_ports), routed=routed)
    if before is not None:
        if groups[OWN] == before.groups[OWN]:
            groups[OWN] = before.groups[OWN]
        if site == before.site:
            known = before.peers
    for name, peer in peers.items():
        same = before is not None and known.get(name) == peer
        groups[name] = before.groups[name] if before and same else _of(peer, site)
    return SiteFlows(groups, site, peers)


def _own(
    federation: Federation, site: Site, tenant_ports: tuple[TenantPort, ...], *, routed: bool
) -> tuple[Flow, ...]:
    return tuple(
        flow
        for feature, make in _FEATURES.items()
        for flow in make(Context(site, feature, federation, tenant_ports, routed))
    )


def _of(peer: Site, site: Site) -> tuple[Flow, ...]:
    return tuple(
        flow
        for feature, make in _PEER_FEATURES.items()
        for flow in make(PeerContext(site, feature, peer))
    )


def pipeline_flows(
    federation: Federation,
    site_name: str,
    tenant_ports: Iterable[TenantPort] = (),
    *,
    routed: bool = True,
) -> tuple[Flow, ...]:
    """All flows of the site's bridge, sorted by table, then by descending priority.

    ``tenant_ports`` and ``routed`` as for ``site_flows``.

    Raises:
        FedsdnError: the federation has no such site.

    """
    groups = site_flows(federation, site_name, tenant_ports, routed=routed).groups
    flows = [flow for group in groups.values() for flow in group]
    return tuple(sorted(flows, key=lambda flow: (flow.table, -flow.priority, str(flow.match))))
