"""Keeps NORMAL off the uplinks' ports: each is a trunk of a VLAN that no frame may carry.

NORMAL then neither floods frames to them, nor takes any from them; flows that name the port are not
concerned (ovs-vswitchd.conf.db(5), ``Port``, ``vlan_mode``). So no owner's NORMAL joins two uplinks
to a loop, or lets tenants' frames out. It stands in the database: it holds before the first flow is
there, and after a restart of ovs-vswitchd. What the port had before stands beside it, and comes
back. The port's own ``tag`` means nothing to a trunk, and stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from fedsdn.pipeline.declarations import NOBODYS_VLAN

BEFORE = "fedsdn-vlan"
"""Key in ``external_ids`` of an uplink's port; its value is ``vlan_mode/trunks`` before."""


@dataclass(frozen=True, slots=True)
class UplinkPort:
    """A port's way with VLANs. ``before`` is None if it is not reserved."""

    name: str
    bridge: str
    vlan_mode: str
    trunks: tuple[int, ...]
    before: str | None

    @property
    def reserved(self) -> bool:
        """Whether NORMAL is kept off it."""
        ours = (self.vlan_mode, self.trunks) == ("trunk", (NOBODYS_VLAN,))
        return ours and self.before is not None


def stale(bridge: str, wanted: Iterable[str], there: Iterable[UplinkPort]) -> Iterator[list[str]]:
    """Yield commands of ovs-vsctl that release what is not to be reserved."""
    places = {(bridge, port) for port in wanted}
    for port in there:
        if port.before is not None and (port.bridge, port.name) not in places:
            yield from release(port)


def missing(wanted: Iterable[str], there: Mapping[str, UplinkPort]) -> Iterator[list[str]]:
    """Yield commands of ovs-vsctl that reserve what is not."""
    for name in wanted:
        port = there[name]
        if port.reserved:
            continue
        trunks = ",".join(map(str, port.trunks))
        before = f"{port.vlan_mode}/{trunks}" if port.before is None else port.before
        columns = ("vlan_mode=trunk", f"trunks={NOBODYS_VLAN}")
        yield ["set", "Port", name, *columns, f'external_ids:{BEFORE}="{before}"']


def trunks(before: str) -> tuple[int, ...]:
    """Read the VLANs out of what stands beside a reserved port."""
    return tuple(int(vlan) for vlan in before.partition("/")[2].split(",") if vlan)


def release(port: UplinkPort) -> Iterator[list[str]]:
    """Yield the commands of ovs-vsctl that give a reserved port back."""
    mode, _, trunks = (port.before or "").partition("/")
    yield ["clear", "Port", port.name, "vlan_mode", "trunks"]
    columns = [f"vlan_mode={mode}"] if mode else []
    columns += [f"trunks={trunks}"] if trunks else []
    if columns:
        yield ["set", "Port", port.name, *columns]
    yield ["remove", "Port", port.name, "external_ids", BEFORE]
