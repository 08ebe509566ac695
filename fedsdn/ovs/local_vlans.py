"""The VLAN that the provider network has beyond a patch port, where Neutron's agent numbers VLANs.

neutron-openvswitch-agent gives each network of its host a VLAN of its own on the integration
bridge, and has table 0 of the provider bridge translate it. What it has chosen it writes into the
database: ``other_config`` of every port that it binds has the network (``net_uuid``,
``network_type``, ``physical_network``, ``segmentation_id``) and its local VLAN (``tag``).
"""

from __future__ import annotations

from collections.abc import Mapping

from fedsdn.config.model import Site
from fedsdn.ovs.database import Bridge, Port

Bridges = Mapping[str, Bridge]


def numbering_bridge(port: Port, bridges: Bridges) -> Bridge | None:
    """Return the bridge beyond a patch port if its VLANs are local ones; None if they are real."""
    beyond = next((one for one in bridges.values() if _has_interface(one, port)), None)
    if beyond is None or not any("net_uuid" in one.other_config for one in beyond.ports.values()):
        return None
    return beyond


def local_vlan(site: Site, numbering: Bridge) -> int | None:
    """Return the local VLAN of the site's provider network; None if it has none, or two."""
    found = _candidates(site, numbering)
    return found[0][1] if len(found) == 1 else None


def ambiguity(site: Site, bridges: Bridges) -> tuple[str, str] | None:
    """Say which VMs cannot be told to be of the provider network, and what to do; None for none."""
    bridge = bridges.get(site.provider_network.bridge)
    for port in bridge.ports.values() if bridge else ():
        numbering = numbering_bridge(port, bridges)
        found = _candidates(site, numbering) if numbering else ()
        if numbering and len(found) > 1:
            vlans = " and ".join(f"{tag} ({physical})" for physical, tag in found)
            return (
                f"the provider network may be local VLAN {vlans} of {numbering.name}: VMs behind "
                f"port {port.name} are not served",
                "let it differ by type or segmentation id from this host's other networks",
            )
    return None


def _candidates(site: Site, numbering: Bridge) -> tuple[tuple[str, int], ...]:
    """Return physical network and local VLAN of whatever may be the provider network.

    The agent does not say which bridge a physical network is behind.
    """
    wanted = site.provider_network.segmentation_id
    kind = "flat" if wanted is None else "vlan"
    found = set()
    for port in numbering.ports.values():
        said = port.other_config
        ours = said.get("network_type") == kind and (
            wanted is None or said.get("segmentation_id") == str(wanted)
        )
        # The two differ while the agent binds the port, or has declared it dead.
        if ours and port.tag is not None and said.get("tag") == str(port.tag):
            found.add((said.get("physical_network", "?"), port.tag))
    return tuple(sorted(found))


def _has_interface(bridge: Bridge, port: Port) -> bool:
    peer = port.interface.peer
    return peer is not None and any(
        peer == interface.name for one in bridge.ports.values() for interface in one.interfaces
    )
