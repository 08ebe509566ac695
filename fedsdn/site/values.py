"""What a host has as a site, as values: they print as a person knows them from ip(8)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from fedsdn.config.model import Address, Family, Interface, Network, Site
from fedsdn.tunnels.plan import TunnelKind

DEFAULT_MTU = 1500
"""MTU in bytes of a port whose bridge says nothing else."""


@dataclass(frozen=True, slots=True)
class BridgeFacts:
    """What the plan depends on and only the bridge knows.

    ``checksum_offload`` is False where the datapath passes frames on without the checksums that
    their sender left to the hardware (netdev without userspace-tso-enable).
    ``uplink_segmentation`` is False where it has super-frames cut up wrongly: netdev of Open
    vSwitch 3.1 reckons segments without TCP options, and those of MPTCP make them longer than the
    uplink's MTU. ``mtu`` is the smallest of the bridge's other ports, ``uplink_mtus`` those of the
    uplinks' ports by name.
    """

    checksum_offload: bool = True
    uplink_segmentation: bool = True
    mtu: int = DEFAULT_MTU
    uplink_mtus: Mapping[str, int] = field(default_factory=dict)

    def of(self, site: Site) -> BridgeFacts:
        """Return them without the ports that are no uplinks of the site."""
        names = [uplink.port for uplink in site.uplinks if uplink.port in self.uplink_mtus]
        return replace(self, uplink_mtus={name: self.uplink_mtus[name] for name in names})


@dataclass(frozen=True, slots=True)
class Port:
    """A port of the bridge: access port of VLAN ``tag`` (0: of untagged frames), or trunk."""

    name: str
    tag: int | None = None
    trunks: tuple[int, ...] = ()

    def __str__(self) -> str:
        tag = "" if self.tag is None else f" tag {self.tag}"
        return f"{self.name}{tag}" + (f" trunks {list(self.trunks)}" if self.trunks else "")


@dataclass(frozen=True, slots=True)
class Veth:
    """The wire between a port of the bridge and the interface of the same name inside."""

    name: str
    mac: str
    mtu: int
    checksum_offload: bool
    segmentation_offload: bool

    def __str__(self) -> str:
        checksum, tso = (
            "on" if offload else "off"
            for offload in (self.checksum_offload, self.segmentation_offload)
        )
        return f"{self.name} {self.mac} mtu {self.mtu} tx-checksum {checksum} tso {tso} up"


@dataclass(frozen=True, slots=True)
class Tun:
    """A TUN device of the namespace that stays, with a queue for each worker that reads from it."""

    name: str
    mtu: int

    def __str__(self) -> str:
        return f"{self.name} tun multi_queue mtu {self.mtu} up"


@dataclass(frozen=True, slots=True)
class Vxlan:
    """Where the two ends of a VXLAN interface are; ``mac`` is its own link-layer address."""

    identifier: int
    local: Address
    remote: Address
    port: int
    mac: str

    def __str__(self) -> str:
        ends = f"local {self.local} remote {self.remote} dstport {self.port}"
        return f"id {self.identifier} {ends} {self.mac}"


@dataclass(frozen=True, slots=True)
class TunnelLink:
    """The interface of a tunnel: WireGuard's, of the kernel or of wireguard-go, or a VXLAN."""

    name: str
    mtu: int
    vxlan: Vxlan | None = None

    @property
    def kind(self) -> TunnelKind:
        """What it is."""
        return TunnelKind.VXLAN if self.vxlan else TunnelKind.WIREGUARD

    def __str__(self) -> str:
        ends = f" {self.vxlan}" if self.vxlan else ""
        return f"{self.name} {self.kind}{ends} mtu {self.mtu} up"


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    """An address on an interface of the namespace, without a route of its own."""

    interface: str
    address: Interface

    def __str__(self) -> str:
        return f"{self.address} dev {self.interface}"


class RouteKind(StrEnum):
    """What a route does with its packets, under the name that ip-route(8) gives it."""

    UNICAST = "unicast"
    LOCAL = "local"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class Route:
    """A route of one of the namespace's tables."""

    table: int
    destination: Network
    kind: RouteKind = RouteKind.UNICAST
    interface: str | None = None
    gateway: Address | None = None
    source: Address | None = None
    mtu: int | None = None
    """Of what goes there, where the interface takes more."""

    def __str__(self) -> str:
        parts = [] if self.kind is RouteKind.UNICAST else [str(self.kind)]
        parts.append(str(self.destination))
        named = {"via": self.gateway, "dev": self.interface, "src": self.source, "mtu": self.mtu}
        parts += [f"{word} {value}" for word, value in named.items() if value is not None]
        return f"table {self.table}: {' '.join(parts)}"


@dataclass(frozen=True, slots=True)
class Rule:
    """A routing rule: packets from an address, or with a mark, look into a table."""

    priority: int
    family: Family
    table: int
    source: Address | None = None
    mark: int | None = None
    mask: int | None = None
    """The bits of the mark that count; None for all."""
    by_kernel: bool = False
    """Whether it is one that the kernel makes in each namespace, and anybody can delete."""

    def __str__(self) -> str:
        which = f"from {self.source or 'all'}"
        which += "" if self.mark is None else f" fwmark {self.mark:#x}"
        which += "" if self.mask is None else f"/{self.mask:#x}"
        return f"{self.priority}: {which} lookup {self.table} (IPv{self.family})"
