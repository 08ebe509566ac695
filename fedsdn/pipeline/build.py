"""All rows of a site."""

from __future__ import annotations

from fedsdn.config.model import Federation
from fedsdn.pipeline import host, proxy_ports, restore, table_miss, tenants, uplinks
from fedsdn.pipeline.context import Context
from fedsdn.pipeline.declarations import Feature
from fedsdn.pipeline.rows import Row

_FEATURES = {
    Feature.UPLINKS: uplinks.rows,
    Feature.HOST: host.rows,
    Feature.TENANTS: tenants.rows,
    Feature.PROXY_PORTS: proxy_ports.rows,
    Feature.RESTORE: restore.rows,
    Feature.TABLE_MISS: table_miss.rows,
}


def pipeline_rows(federation: Federation, site_name: str) -> tuple[Row, ...]:
    """Every row that the site's bridge is to have, ordered by table and falling priority.

    Raises:
        FedsdnError: the federation has no such site.

    """
    site = federation.site(site_name)
    rows = [
        row
        for feature, make in _FEATURES.items()
        for row in make(Context(federation, site, feature))
    ]
    return tuple(sorted(rows, key=lambda row: (row.table, -row.priority, str(row.match))))
