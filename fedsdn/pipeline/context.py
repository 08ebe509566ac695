"""The inputs of every feature, and the constructor of its flows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedsdn.config.model import Family, Federation, Site
from fedsdn.pipeline.cookie import cookie_here
from fedsdn.pipeline.declarations import Feature, Table
from fedsdn.pipeline.flows import Action, Flow, Match

if TYPE_CHECKING:
    from fedsdn.pipeline.network import TenantPort

ABOVE_DEFAULT = 10
"""Priority of a table's ordinary flows."""

DEFAULT = 0
"""Priority of a table's own miss flow."""


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes the flows of one feature of a site: their cookies say whose they are."""

    site: Site
    feature: Feature

    def flow(
        self,
        table: Table,
        match: Match,
        *actions: Action,
        why: str,
        priority: int = ABOVE_DEFAULT,
        hard_timeout: int = 0,
    ) -> Flow:
        """Make a flow; its cookie names the line of the caller.

        ``why`` must be a literal, so that the cookie alone leads to it in the source.
        """
        return Flow(
            table=table,
            priority=priority,
            match=match,
            actions=actions,
            cookie=cookie_here(self.site, self.feature, depth=2),
            why=why,
            hard_timeout=hard_timeout,
        )

    def default(self, table: Table, *actions: Action, why: str) -> Flow:
        """Make the table's miss flow; without actions it drops."""
        return Flow(
            table=table,
            priority=DEFAULT,
            match=Match(),
            actions=actions,
            cookie=cookie_here(self.site, self.feature, depth=2),
            why=why,
        )


@dataclass(frozen=True, slots=True)
class Context(Maker):
    """The federation as seen from one site, for one feature; and what the bridge's ports are.

    ``routed``: the router's port is among them.
    """

    federation: Federation
    tenant_ports: tuple[TenantPort, ...] = ()
    routed: bool = True

    @property
    def peers_families(self) -> list[Family]:
        """IP versions of the peers' prefixes."""
        peers = self.federation.peers(self.site.name)
        return sorted({prefix.family for peer in peers for prefix in peer.prefixes})


@dataclass(frozen=True, slots=True)
class PeerContext(Maker):
    """One peer as seen from a site: all that the flows of a peer may depend on."""

    peer: Site
