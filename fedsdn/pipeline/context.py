"""The input of every feature, and the constructor of its flows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedsdn.config.model import Federation, Prefix, Site, Uplink
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
class Context:
    """The federation as seen from one site, for one feature; and what the bridge's ports are."""

    federation: Federation
    site: Site
    feature: Feature
    tenant_ports: tuple[TenantPort, ...] = ()

    @property
    def remote_prefixes(self) -> tuple[Prefix, ...]:
        """Prefixes of all peers."""
        peers = self.federation.peers(self.site.name)
        return tuple(prefix for peer in peers for prefix in peer.prefixes)

    @property
    def peer_uplinks(self) -> tuple[Uplink, ...]:
        """Uplinks of all peers."""
        peers = self.federation.peers(self.site.name)
        return tuple(uplink for peer in peers for uplink in peer.uplinks)

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
