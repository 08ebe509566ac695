"""Who may connect to whom: the proxy is never an open proxy.

Pure code over the federation file.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedsdn.config.model import Address, Federation, Prefix, Site, SourceRestore, Uplink
from fedsdn.proxy.ended.record import Reason


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something is not allowed."""

    reason: Reason


NOT_A_PEER = Refusal(Reason.NOT_A_PEER)
FOREIGN_CLIENT = Refusal(Reason.FOREIGN_CLIENT)
FOREIGN_DESTINATION = Refusal(Reason.FOREIGN_DESTINATION)
UNFEDERATED_DESTINATION = Refusal(Reason.UNFEDERATED)


@dataclass(frozen=True, slots=True)
class Policy:
    """What the federation file allows at ``site``."""

    federation: Federation
    site: Site

    @classmethod
    def at(cls, federation: Federation, site_name: str) -> Policy:
        """Make the policy of the site called ``site_name``.

        Raises:
            FedsdnError: the federation has no such site.

        """
        return cls(federation, federation.site(site_name))

    def peer_behind(self, address: Address) -> Site | Refusal:
        """Return the peer that has an uplink with ``address``."""
        site = self.federation.site_with_uplink(address)
        return NOT_A_PEER if site is None or site.name == self.site.name else site

    def admits(self, peer: Site, client: Address, destination: Address) -> Refusal | None:
        """Check a request of ``peer``; None if it is allowed.

        The client behind another's proxy is not known: the caller is the proxy itself.
        """
        if peer.proxy == "fedsdn" and not self.is_vm(client, peer):
            return FOREIGN_CLIENT
        if not self.is_vm(destination, self.site):
            return FOREIGN_DESTINATION
        return None

    def own_address(self, destination: Address) -> Address:
        """Return the proxy's address in the prefix of this site that holds ``destination``.

        Raises:
            LookupError: no prefix does; ``admits`` would have said so.

        """
        prefix = self.prefix_at(self.site, destination)
        if prefix is None:
            raise LookupError(f"{destination} is in no prefix of site {self.site.name}")
        return prefix.proxy_address

    def source_restore(self, peer: Site) -> SourceRestore:
        """How the source addresses of clients at ``peer`` are restored."""
        return self.federation.source_restore(self.site.name, peer)

    def warnings(self) -> tuple[str, ...]:
        """Name the sites between which VMs do not see the address of their client."""
        own = ", ".join(str(prefix.proxy_address) for prefix in self.site.prefixes)
        unrestored = [peer.name for peer in self.federation.unrestored_peers(self.site.name)]
        foreign = [
            peer.name for peer in self.federation.peers(self.site.name) if peer.proxy == "socks5"
        ]
        found = []
        if unrestored:
            found.append(
                f"sources are not restored: VMs here see connections from {', '.join(unrestored)} "
                f"come from the proxy ({own})"
            )
        if foreign:
            found.append(
                f"sources are not restored: VMs of {', '.join(foreign)} see connections from here "
                "come from their own proxy, which is another's ('proxy: socks5')"
            )
        return tuple(found)

    def peer_towards(self, destination: Address) -> Site | Refusal:
        """Return the peer in whose prefixes ``destination`` lies."""
        held = self.federation.prefix_of(destination)
        if held is None:
            return UNFEDERATED_DESTINATION
        peer, _ = held
        federated = peer.name != self.site.name and self.is_vm(destination, peer)
        return peer if federated else UNFEDERATED_DESTINATION

    def is_vm(self, address: Address, site: Site) -> bool:
        """Whether ``address`` is one that a VM of ``site`` may have."""
        if address.version == 6 and address.ipv4_mapped is not None:
            return False  # a dual-stack socket would take it for the IPv4 one (RFC 4291, 2.5.5.2)
        prefix = self.prefix_at(site, address)
        return prefix is not None and address != prefix.proxy_address

    def prefix_at(self, site: Site, address: Address) -> Prefix | None:
        """Return the prefix of ``site`` that holds ``address``; None if none does."""
        held = self.federation.prefix_of(address)
        return held[1] if held is not None and held[0].name == site.name else None

    def paths(self, peer: Site, turn: int) -> tuple[tuple[Uplink, Uplink], ...]:
        """Return all pairs of an own uplink and one of ``peer`` that it reaches, in order of trial.

        The first depends on ``turn``; each further path shares as few uplinks as possible with
        those before it, so that a single uplink that is down costs one attempt.
        """
        left = [
            (own, other)
            for own in self.site.uplinks
            for other in peer.uplinks
            if own.reaches(other)
        ]
        ordered: list[tuple[Uplink, Uplink]] = []
        while left:
            shift = turn % len(left)
            left = left[shift:] + left[:shift]
            following = min(left, key=lambda pair: _shared(pair, ordered))
            left.remove(following)
            ordered.append(following)
        return tuple(ordered)


def _shared(pair: tuple[Uplink, Uplink], others: list[tuple[Uplink, Uplink]]) -> int:
    return sum(pair[0] is own for own, _ in others) + sum(pair[1] is other for _, other in others)
