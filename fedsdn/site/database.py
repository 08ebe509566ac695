"""What concerns a site in Open vSwitch's database.

What is ours carries ``external_ids:fedsdn=SITE``, so that it is found again after a restart of the
host too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fedsdn.ovs import database
from fedsdn.ovs.database import Bridge
from fedsdn.shell import Shell
from fedsdn.site import reserved_ports
from fedsdn.site.reserved_ports import UplinkPort
from fedsdn.site.values import DEFAULT_MTU, BridgeFacts, Port

HERE = Shell("this host")

OWNER = "fedsdn"
"""Key in ``external_ids`` of every port of ours; its value is the site."""

_VLANS = 4096


@dataclass(frozen=True, slots=True)
class BridgePort:
    """A port as the database has it; the VLANs of a reserved uplink as they were before.

    ``owner`` is the site that made it, None if it is not ours.
    """

    port: Port
    bridge: str
    owner: str | None
    mtu: int | None
    ofport: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Database:
    """What concerns us in the Open vSwitch database, as it was when it was read."""

    bridges: Mapping[str, Bridge]
    ports: Mapping[str, BridgePort]
    vlans: Mapping[str, UplinkPort]
    userspace_tso: bool

    @property
    def own_ports(self) -> tuple[BridgePort, ...]:
        """Ports that a site set-up made, on any bridge."""
        return tuple(port for port in self.ports.values() if port.owner is not None)

    def facts(self, bridge: str) -> BridgeFacts:
        """Return what the plan of a site on ``bridge`` depends on."""
        others = {
            name: port.mtu
            for name, port in self.ports.items()
            if port.bridge == bridge and port.owner is None and port.mtu and name != bridge
        }
        netdev = self.bridges[bridge].datapath_type == "netdev"
        return BridgeFacts(
            checksum_offload=self.userspace_tso or not netdev,
            uplink_segmentation=not netdev,
            mtu=min(others.values(), default=DEFAULT_MTU),
            uplink_mtus=others,
        )


def read() -> Database:
    """Read the database.

    Raises:
        OvsError: Open vSwitch is not installed, or its database does not answer.

    """
    there = database.read_database(HERE)
    every = [
        (port, bridge.name) for bridge in there.bridges.values() for port in bridge.ports.values()
    ]
    return Database(
        bridges=there.bridges,
        ports={port.name: _port(port, bridge) for port, bridge in every},
        vlans={port.name: _uplink_port(port, bridge) for port, bridge in every},
        userspace_tso=there.other_config.get("userspace-tso-enable") == "true",
    )


def _port(port: database.Port, bridge: str) -> BridgePort:
    before = port.external_ids.get(reserved_ports.BEFORE)
    trunks = port.trunks if before is None else reserved_ports.trunks(before)
    return BridgePort(
        port=Port(port.name, port.tag, trunks),
        bridge=bridge,
        owner=port.external_ids.get(OWNER),
        mtu=port.interface.mtu,
        ofport=port.interface.ofport,
        error=port.interface.error,
    )


def _uplink_port(port: database.Port, bridge: str) -> UplinkPort:
    before = port.external_ids.get(reserved_ports.BEFORE)
    return UplinkPort(port.name, bridge, port.vlan_mode or "", port.trunks, before)


def sharing_vlan(ports: Iterable[BridgePort]) -> tuple[BridgePort, ...]:
    """Find the ports that have a VLAN in common with another of them: NORMAL joins these."""
    every = tuple(ports)
    return tuple(
        port
        for port in every
        if any(_vlans(port.port) & _vlans(other.port) for other in every if other is not port)
    )


def _vlans(port: Port) -> frozenset[int]:
    """VLANs that a port carries (ovs-vswitchd.conf.db(5), VLAN configuration of a port)."""
    own = frozenset() if port.tag is None else frozenset({port.tag})
    if port.trunks or own:
        return own | frozenset(port.trunks)
    return frozenset(range(_VLANS))
