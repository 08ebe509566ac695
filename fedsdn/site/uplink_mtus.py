"""The MTUs of the uplinks' ports, which may change while a site is up."""

from __future__ import annotations

from contextlib import suppress

from fedsdn.config.model import Site
from fedsdn.errors import FedsdnError
from fedsdn.site import database, links
from fedsdn.site.values import BridgeFacts


def now(site: Site, facts: BridgeFacts) -> BridgeFacts | None:
    """Return ``facts`` if the uplinks' ports have the MTUs that these say, else the facts anew.

    None while Open vSwitch does not know a port's new MTU yet, or does not answer.
    """
    host = links.host_links()
    ports = [uplink.port for uplink in site.uplinks if uplink.port in host]
    mtus = {port: host[port].get_attr("IFLA_MTU") for port in ports}
    if all(facts.uplink_mtus.get(port) in {None, mtu} for port, mtu in mtus.items()):
        return facts
    with suppress(FedsdnError, KeyError):
        found = database.read().facts(site.provider_network.bridge).of(site)
        if all(found.uplink_mtus.get(port) == mtu for port, mtu in mtus.items()):
            return found
    return None
