"""All flows of a site."""

from __future__ import annotations

from collections.abc import Iterable

from fedsdn.config.model import Federation
from fedsdn.pipeline import host, network, proxy_ports, restore, table_miss, tenants, uplinks
from fedsdn.pipeline.context import Context
from fedsdn.pipeline.declarations import Feature
from fedsdn.pipeline.flows import Flow
from fedsdn.pipeline.network import TenantPort

_FEATURES = {
    Feature.UPLINKS: uplinks.flows,
    Feature.HOST: host.flows,
    Feature.NETWORK: network.flows,
    Feature.TENANTS: tenants.flows,
    Feature.PROXY_PORTS: proxy_ports.flows,
    Feature.RESTORE: restore.flows,
    Feature.TABLE_MISS: table_miss.flows,
}


def pipeline_flows(
    federation: Federation, site_name: str, tenant_ports: Iterable[TenantPort] = ()
) -> tuple[Flow, ...]:
    """All flows of the site's bridge, sorted by table, then by descending priority.

    ``tenant_ports`` are the bridge's: ``ovs.wanted`` reads them. Without them no tenant is served.

    Raises:
        FedsdnError: the federation has no such site.

    """
    site = federation.site(site_name)
    ports = tuple(tenant_ports)
    flows = [
        flow
        for feature, make in _FEATURES.items()
        for flow in make(Context(federation, site, feature, ports))
    ]
    return tuple(sorted(flows, key=lambda flow: (flow.table, -flow.priority, str(flow.match))))
