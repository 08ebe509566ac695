"""The MTUs of the uplinks' ports, which may change while a site is up."""

from __future__ import annotations

from contextlib import suppress

from fedsdn.config.model import Site
from fedsdn.errors import FedsdnError
from fedsdn.site import database, links
from fedsdn.site.values import BridgeFacts


def now(site: Site, facts: BridgeFacts) -> BridgeFacts | None:
    """Return the facts as they are if a port has another MTU than ``facts`` say; else ``facts``.

    None while Open vSwitch has not noticed it yet, or does not answer.
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
