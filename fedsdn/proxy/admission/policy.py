"""Who may connect to whom: the proxy is never an open proxy.

Pure code over the federation file.
"""

from __future__ import annotations

from dataclasses import dataclass

from fedsdn.config.decision import Question, contact, no_rule
from fedsdn.config.model import Address, Federation, Prefix, Site, SourceRestore, Uplink
from fedsdn.config.rules import Contact
from fedsdn.config.special import special
from fedsdn.proxy.ended.record import Reason
from fedsdn.socket_address import SocketAddress


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something is not allowed; ``peer`` names the site at the other end, if there is one."""

    reason: Reason
    detail: str = ""
    peer: str = ""


NOT_A_PEER = Refusal(Reason.NOT_A_PEER)


@dataclass(frozen=True, slots=True)
class Policy:
    """What the federation file allows at ``site``."""

    federation: Federation
    site: Site

    @classmethod
    def at(cls, federation: Federation, site_name: str) -> Policy:
        """Make the policy of the site called ``site_name``, ready to be asked.

        Raises:
            FedsdnError: the federation has no such site.

        """
        federation.prepare()
        return cls(federation, federation.site(site_name))

    def peer_behind(self, address: Address) -> Site | Refusal:
        """Return the peer that has an uplink with ``address``."""
        site = self.federation.site_with_uplink(address)
        return NOT_A_PEER if site is None or site.name == self.site.name else site

    def opens(self, client: Address, destination: SocketAddress) -> Site | Refusal:
        """Return the peer that a VM of this site may open a connection to, or why it may not."""
        held = self.federation.prefix_of(destination.address)
        own = self.prefix_at(self.site, client)
        peer = None if held is None or held[0].name == self.site.name else held[0]
        name = "" if peer is None else peer.name
        for address, prefix in ((destination.address, held and held[1]), (client, own)):
            if kind := special(address, prefix):
                return Refusal(Reason.NO_VM, f"{address} is {kind}", name)
        if peer is None:
            return Refusal(Reason.UNFEDERATED)
        if own is None:
            return Refusal(Reason.UNFEDERATED, "client is no VM of this site", name)
        forbidden = self._forbidden(self.contact(self.site, client, destination))
        return Refusal(Reason.NO_RULE, forbidden, name) if forbidden else peer

    def admits(self, peer: Site, client: Address, destination: SocketAddress) -> Refusal | None:
        """Check a request of ``peer``; None if it is allowed.

        The client behind another's proxy is not known: the caller is the proxy itself. That proxy
        knows no rules, so what it asks for in vain is its clients' doing.
        """
        is_ours = peer.proxy == "fedsdn"
        no_vm = Reason.PEER_NO_VM if is_ours else Reason.NO_VM
        ends = [(destination.address, self.site, Reason.FOREIGN_DESTINATION)]
        if is_ours:
            ends.insert(0, (client, peer, Reason.FOREIGN_CLIENT))
        for address, site, foreign in ends:
            prefix = self.prefix_at(site, address)
            if kind := special(address, prefix):
                return Refusal(no_vm, f"{address} is {kind}", peer.name)
            if prefix is None:
                return Refusal(foreign, peer=peer.name)
        if forbidden := self._forbidden(self.contact(peer, client, destination)):
            no_rule = Reason.PEER_NO_RULE if is_ours else Reason.NO_RULE
            return Refusal(no_rule, forbidden, peer.name)
        return None

    def contact(self, origin: Site, client: Address, destination: SocketAddress) -> Contact:
        """Return what the rules judge of a connection from a VM of ``origin``."""
        return contact(origin, Question(client, destination.address, destination.port))

    def _forbidden(self, wanted: Contact) -> str:
        """Say why no rule allows something; nothing if one does, or there are none."""
        rules = self.federation.rules
        if rules is None or rules.first(wanted) is not None:
            return ""
        return no_rule(rules, wanted)

    def own_address(self, destination: Address) -> Address:
        """Return the proxy's address in the prefix of this site that holds ``destination``.

        Raises:
            LookupError: no prefix does; ``admits`` would have said so.

        """
        prefix = self.prefix_at(self.site, destination)
        if prefix is None:
            raise LookupError(f"{destination} is in no prefix of site {self.site.name}")
        return prefix.proxy_address

    def is_encrypted(self, peer: Site) -> bool:
        """Whether connections with the proxy of ``peer`` are."""
        known = self.federation.find_site(peer.name) is not None
        return not known or self.federation.encryption(self.site.name, peer.name) == "tls"

    def source_restore(self, peer: Site) -> SourceRestore:
        """How the source addresses of clients at ``peer`` are restored."""
        return self.federation.source_restore(self.site.name, peer)

    def warnings(self) -> tuple[str, ...]:
        """Say what the federation file does without, between this site and others."""
        return *self.unrestored(), *self.in_clear()

    def in_clear(self) -> tuple[str, ...]:
        """Name the peers with which connections are not encrypted, and so nobody is proven."""
        plain = [
            peer for peer in self.federation.peers(self.site.name) if not self.is_encrypted(peer)
        ]
        foreign = ", ".join(peer.name for peer in plain if peer.proxy == "socks5")
        ours = ", ".join(peer.name for peer in plain if peer.proxy == "fedsdn")
        why = {"'encryption: none'": ours, "another's proxy": foreign}
        return tuple(
            f"not encrypted, and whoever has their addresses is taken for them: {names} ({reason})"
            for reason, names in why.items()
            if names
        )

    def unrestored(self) -> tuple[str, ...]:
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
