"""The flows that a bridge is to have: by the federation file, and by the VLANs of its ports."""

from __future__ import annotations

from collections import Counter

from fedsdn.config.model import Federation, Site
from fedsdn.ovs.database import Bridge, Interface, Port, read_bridges
from fedsdn.ovs.local_vlans import Bridges, local_vlan, numbering_bridge
from fedsdn.pipeline.build import SiteFlows, pipeline_flows, site_flows
from fedsdn.pipeline.declarations import (
    LOCAL_PORT,
    ROUTER_PORT,
    SERVER_PORT,
    SOCKSIFIER_PORT,
    wan_port,
)
from fedsdn.pipeline.flows import Flow
from fedsdn.pipeline.network import TenantPort
from fedsdn.shell import Shell

_FLAT = 0
"""What Open vSwitch calls the VLAN of frames without one."""

_NO_NUMBER = {None, -1}
_NAME_OCTETS = 15
"""So much of a port's name OpenFlow tells (1.3.5, section 7.2.1, ``OFP_MAX_PORT_NAME_LEN``)."""


def wanted_flows(shell: Shell, federation: Federation, site_name: str) -> tuple[Flow, ...]:
    """Return all flows that the bridge of a site is to have, as ``shell`` finds its ports.

    Raises:
        OvsError: the database does not answer, or has no such bridge.

    """
    name = federation.site(site_name).provider_network.bridge
    bridges = read_bridges(shell, name)
    ports = tenant_ports(federation.site(site_name), bridges)
    return pipeline_flows(federation, site_name, ports, routed=_has_router(bridges, name))


def flows_among(
    bridges: Bridges, federation: Federation, site_name: str, before: SiteFlows | None
) -> SiteFlows:
    """Return all flows that a site's bridge is to have if these are all bridges.

    Groups that are as ``before`` are the same objects.
    """
    site = federation.site(site_name)
    ports = tenant_ports(site, bridges)
    routed = _has_router(bridges, site.provider_network.bridge)
    return site_flows(federation, site_name, ports, before, routed=routed)


def _has_router(bridges: Bridges, name: str) -> bool:
    """Whether a bridge has the router's port; one that is not there wants nothing else."""
    return name not in bridges or ROUTER_PORT in bridges[name].ports


def tenant_ports(site: Site, bridges: Bridges) -> tuple[TenantPort, ...]:
    """Find the ports that carry the site's provider network, apart from uplinks and the proxy's.

    None, while the proxy's own ports are not (yet) in it: they would answer in another network. The
    router's may be missing: an older version's ``fedsdn site up`` has made none, and TCP goes on,
    all else is as without us.
    """
    bridge = bridges.get(site.provider_network.bridge)
    if bridge is None:
        return ()
    vlan = site.provider_network.segmentation_id or _FLAT
    proxy = (SOCKSIFIER_PORT, SERVER_PORT, ROUTER_PORT)
    there = {name: bridge.ports[name] for name in proxy if name in bridge.ports}
    if not there.keys() >= {SOCKSIFIER_PORT, SERVER_PORT}:
        return ()
    if not all(_untagged(port, vlan) for port in there.values()):
        return ()
    others = {*proxy, *(name for up in site.uplinks for name in (up.port, wan_port(up)))}
    every = (port for name, port in bridge.ports.items() if name not in others)
    names = {one.name: name for name, one in openflow_ports(bridge).items()}
    found = (
        _tenant_port(names[one.name], port, site, bridges)
        for port in every
        for one in port.interfaces
        if one.name in names
    )
    return tuple(port for port in found if port is not None)


def _tenant_port(name: str | int, port: Port, site: Site, bridges: Bridges) -> TenantPort | None:
    vlan = site.provider_network.segmentation_id or _FLAT
    untagged, tagged = _untagged(port, vlan), _tagged(port, vlan)
    if not (untagged or tagged):
        return None
    numbering = numbering_bridge(port, bridges)
    if numbering is None:
        return TenantPort(name, untagged, tagged)
    local = local_vlan(site, numbering)
    return None if local is None else TenantPort(name, untagged=False, tagged=False, local=local)


def openflow_ports(bridge: Bridge) -> dict[str | int, Interface]:
    """Return the interfaces that are OpenFlow ports, by name, as ``ovs-ofctl --names`` prints it.

    By number those that share their name with another: of a long one only the first octets are
    told, and those of OVN's patch ports are ``patch-provnet-`` and one more.
    """
    there = [
        one
        for port in bridge.ports.values()
        for one in port.interfaces
        if one.ofport not in _NO_NUMBER
    ]
    known = Counter(_openflow_name(one, bridge) for one in there)
    found: dict[str | int, Interface] = {}
    for one in there:
        name = _openflow_name(one, bridge)
        if known[name] == 1:
            found[name] = one
        elif one.ofport is not None:
            found[one.ofport] = one
    return found


def _openflow_name(interface: Interface, bridge: Bridge) -> str:
    return LOCAL_PORT if interface.name == bridge.name else interface.name[:_NAME_OCTETS]


# What NORMAL takes from a port, and as which VLAN's (ovs-vswitchd.conf.db(5), VLAN configuration)


def _mode(port: Port) -> str:
    return port.vlan_mode or ("trunk" if port.tag is None else "access")


def _untagged(port: Port, vlan: int) -> bool:
    """Whether a frame without a VLAN is of ``vlan`` if it comes in here."""
    match _mode(port):
        case "trunk":
            return vlan == _FLAT and _carries(port.trunks, _FLAT)
        case "dot1q-tunnel":
            return vlan == (port.tag or _FLAT) and _carries(port.cvlans, _FLAT)
    return vlan == (port.tag or _FLAT)


def _tagged(port: Port, vlan: int) -> bool:
    """Whether a frame with the tag of ``vlan`` is of it if it comes in here."""
    if vlan == _FLAT:
        return False
    match _mode(port):
        case "trunk":
            return _carries(port.trunks, vlan)
        case "native-tagged" | "native-untagged":
            return vlan == port.tag or _carries(port.trunks, vlan)
    return False


def _carries(vlans: tuple[int, ...], vlan: int) -> bool:
    return not vlans or vlan in vlans
