"""The provider network: which tenants' frames are of it. The one place where that is decided.

A VLAN is not in every frame: Open vSwitch tags those of access ports in NORMAL only. So each port
that has to do with the network has flows of its own here; what else comes is another network's, or
nobody's, and goes back to table 0, whatever its addresses: the bridge's other owner does with it
what it would do without us. Neutron translates the integration bridge's VLANs there, so a frame of
ours keeps such a tag until it is delivered: it may still turn out to be none of ours. All tables
behind see the network's frames only, so conntrack's zone is the network's too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fedsdn.pipeline.context import Context
from fedsdn.pipeline.declarations import Table
from fedsdn.pipeline.flows import (
    Action,
    Flow,
    HandBack,
    Match,
    PopVlan,
    Resubmit,
    SetVlan,
    Tag,
)


@dataclass(frozen=True, slots=True)
class TenantPort:
    """A port of the bridge with frames of the provider network.

    ``untagged``: those without a VLAN are. ``tagged``: those with the network's tag are.
    ``local``: those with this tag are, another bridge's for the network. ``name`` is the OpenFlow
    port's, or its number where another port has that name.
    """

    name: str | int
    untagged: bool
    tagged: bool
    local: int | None = None


HANDED_BACK = (HandBack(), Resubmit(Table.HOOK))
"""What is done with a frame that is not ours: the bridge's other flows take it."""


def flows(context: Context) -> Iterator[Flow]:
    """Flows that pick the network's frames."""
    vlan = context.site.provider_network.segmentation_id
    for port in context.tenant_ports:
        if port.untagged:
            yield context.flow(
                Table.NETWORK,
                Match(in_port=port.name, tag=Tag.NO_VLAN),
                Resubmit(Table.TENANT),
                why="the port's own VLAN is the provider network",
            )
        if port.tagged:
            yield context.flow(
                Table.NETWORK,
                Match(in_port=port.name, vlan=vlan),
                Resubmit(Table.TENANT),
                why="the provider network's tag, and the port carries it",
            )
        if port.local is not None:
            yield context.flow(
                Table.NETWORK,
                Match(in_port=port.name, vlan=port.local),
                Resubmit(Table.TENANT),
                why="Neutron's tag for the provider network",
            )
    yield context.default(
        Table.NETWORK,
        *HANDED_BACK,
        why="another network, its addresses are its own: as if we were not there",
    )


def translation(vlan: int | None) -> Action:
    """Return what gives a frame with another bridge's tag the network's own, as Neutron does it.

    ``vlan`` is the provider network's.
    """
    return PopVlan() if vlan is None else SetVlan(vlan)


_BY_PORT = {
    Table.NETWORK,
    Table.TO_SOCKSIFIER,
    Table.TO_SERVER,
    Table.TO_BOTH,
    Table.TO_ROUTER,
}


def is_of_a_port(flow: Flow) -> bool:
    """Whether a flow is there because the bridge has a certain port of tenants."""
    return flow.table in _BY_PORT and flow.match.in_port is not None
