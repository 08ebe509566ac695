"""What must hold before a site is set up. Each check that fails is one line for the operator."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from fedsdn import namespace
from fedsdn.config.model import Federation, ProviderNetwork, Site
from fedsdn.errors import FedsdnError, FinalError
from fedsdn.ovs.commands import check_switch
from fedsdn.pipeline.declarations import PROXY_NAMESPACE
from fedsdn.site import database, flows, links, record
from fedsdn.site.database import Database
from fedsdn.site.flows import TableMiss
from fedsdn.site.plan import port_names
from fedsdn.tunnels.plan import TunnelKind, tunnels

_TOOLS = {
    "nft": "nftables",
    "ovs-vsctl": "openvswitch-switch",
    "ovs-ofctl": "openvswitch-switch",
}
_KERNEL = {
    "mptcp": "Multipath TCP: a kernel with CONFIG_MPTCP, from 6.1",
    "ipv6": "IPv6: remove 'ipv6.disable=1' from the kernel's command line",
}


def check_root() -> None:
    """Raise FedsdnError unless this process may change the network."""
    if os.geteuid() != 0:
        raise FedsdnError(f"this needs root, and runs as user {os.geteuid()}: use sudo")


def check_record(site_name: str) -> None:
    """Raise FinalError if the host was set up as another site."""
    recorded = record.read()
    if recorded is not None and recorded != site_name:
        raise FinalError(
            f"this host is set up as site {recorded!r}, not {site_name!r}: "
            "run 'fedsdn site down' first, or correct the site's name"
        )


def check_host(site: Site) -> Database:
    """Check everything that ``up`` relies on, and return the Open vSwitch database as it is.

    Raises:
        FedsdnError: the host cannot be set up as this site.

    """
    check_root()
    for tool, package in _TOOLS.items():
        _check_tool(tool, package)
    for name, remedy in _KERNEL.items():
        if not Path(f"/proc/sys/net/{name}").is_dir():
            raise FedsdnError(f"this kernel has no /proc/sys/net/{name}; needed is {remedy}")
    check_record(site.name)
    there = database.read()
    _check_bridge(site, there)
    _check_names(site, there)
    return there


def check_tunnels(federation: Federation, site: Site) -> None:
    """Raise FedsdnError if the site has tunnels with encryption, and nothing to set them up."""
    if any(one.kind is TunnelKind.WIREGUARD for one in tunnels(federation, site)):
        _check_tool("wg", "wireguard-tools")


def _check_tool(tool: str, package: str) -> None:
    if shutil.which(tool) is None:
        raise FedsdnError(f"{tool} is not installed: install package {package}")


def check_bridge(site: Site) -> None:
    """Check what a set-up host has of the bridge, as ``check_host``; the proxy can, too.

    A host that is not set up has nothing to lose, and may have no bridge.

    Raises:
        FedsdnError: the bridge is not as the site needs it.

    """
    if record.read() is not None:
        _check_bridge(site, database.read())


def _check_bridge(site: Site, there: Database) -> None:
    provider = site.provider_network
    bridge = there.bridges.get(provider.bridge)
    if bridge is None:
        known = ", ".join(there.bridges) or "none"
        raise FedsdnError(
            f"bridge {provider.bridge} of site {site.name} is missing, Open vSwitch has {known}: "
            f"make it, or correct provider_network.bridge in the federation file"
        )
    for uplink in site.uplinks:
        port = there.ports.get(uplink.port)
        if port is None or port.bridge != bridge.name:
            where = f"on bridge {port.bridge}" if port else "on no bridge"
            raise FedsdnError(
                f"port {uplink.port} of uplink {uplink.name} is {where}: run 'ovs-vsctl add-port "
                f"{bridge.name} {uplink.port}', or correct the uplink's port"
            )
    check_switch(database.HERE)
    _check_table_miss(provider)


def warnings(site: Site, there: Database) -> Iterator[str]:
    """Say what is no reason to refuse, and yet dangerous."""
    ports = [there.ports[uplink.port] for uplink in site.uplinks]
    joined = [port.port.name for port in database.sharing_vlan(ports)]
    if joined:
        yield (
            f"the uplinks' ports {', '.join(joined)} share a VLAN: while the site is not up and "
            "the bridge forwards, frames may go round between their wires for ever; give each a "
            f"VLAN of its own that nothing else has: 'ovs-vsctl set Port {joined[0]} tag=4001', …"
        )


def _check_table_miss(provider: ProviderNetwork) -> None:
    if provider.table_miss == "none" and flows.table_miss(provider.bridge) is not TableMiss.OTHERS:
        raise FedsdnError(
            f"bridge {provider.bridge} has no table-miss flow of its own, so it would forward "
            "nothing but federated traffic: write 'table_miss: normal' under provider_network, or "
            "start the bridge's owner (Neutron's agent) first"
        )


def _check_names(site: Site, there: Database) -> None:
    if namespace.taken(PROXY_NAMESPACE) and record.read() is None:
        raise FedsdnError(
            f"network namespace {PROXY_NAMESPACE} is already there and was not made by "
            f"'fedsdn site up': run 'ip netns delete {PROXY_NAMESPACE}' if nobody needs it"
        )
    host = links.host_links()
    inside = links.namespace_links(PROXY_NAMESPACE)
    for name in port_names(site):
        port = there.ports.get(name)
        if port is not None and port.owner is None:
            raise FedsdnError(
                f"port {name} is already on bridge {port.bridge} and was not made by "
                f"'fedsdn site up': remove it with 'ovs-vsctl del-port {name}'"
            )
        link = host.get(name)
        ours = port is not None or links.is_pair(link, inside.get(name))
        if link is not None and not (ours and links.is_veth(link)):
            raise FedsdnError(
                f"interface {name} is already there and was not made by 'fedsdn site up': "
                "rename it, or delete it with 'ip link delete'"
            )
