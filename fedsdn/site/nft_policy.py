"""Which flows that are not TCP the rules of ``allow`` let through, as text for ``nft -f -``.

A flow is judged by the addresses, protocol and port that it began with, be the packet at hand one
there or one back: conntrack keeps the addresses. That it was allowed is kept in its mark, with a
digest of the rules: a flow is judged once, and once more after the rules have changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from zlib import crc32

from fedsdn.config.model import Address, Family, Federation, Network, Site
from fedsdn.config.rules import Rule, ports_text
from fedsdn.config.special import of_nobody
from fedsdn.pipeline.declarations import CT_POLICY_MASK, ct_policy_mark
from fedsdn.site.nft_text import listed, of

_FAMILIES: tuple[tuple[Family, str], ...] = ((4, "ip"), (6, "ip6"))
_ICMP: dict[Family, str] = {4: "icmp", 6: "ipv6-icmp"}
_ALLOW = "ALLOW"
_OTHER_BITS = 0xFFFFFFFF & ~CT_POLICY_MASK


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules of a chain that marks what is allowed, and leaves all else as it is."""

    rules: tuple[str, ...]
    mark: int

    @property
    def judged(self) -> str:
        """Condition that a packet's flow was allowed by these rules."""
        return f"ct mark & {CT_POLICY_MASK:#x} == {self.mark:#x}"


def policy(federation: Federation, site: Site) -> Policy:
    """Make the rules of the flows between a site and its peers."""
    conditions = (*_to_nobody(site), *_allowed(federation, site))
    mark = ct_policy_mark(crc32("\n".join(conditions).encode()))
    keep = f"ct mark set ct mark & {_OTHER_BITS:#x} | {mark:#x} return"
    return Policy(tuple(one.replace(_ALLOW, keep) for one in conditions), mark)


def _to_nobody(site: Site) -> Iterator[str]:
    """Yield what refuses addresses that no VM has; each site looks at its own."""
    found = [address for prefix in site.prefixes for address in of_nobody(prefix)]
    for family, word in _FAMILIES:
        if addresses := of(family, found):
            for end in ("saddr", "daddr"):
                yield f"ct original {word} {end} {listed(addresses)} return"


def _allowed(federation: Federation, site: Site) -> Iterator[str]:
    """Yield what allows something, with ``_ALLOW`` for how that is done."""
    if federation.allow is None:
        yield _ALLOW
        return
    ways = _Ways(federation, site)
    for rule in federation.allow:
        for family, word in _FAMILIES:
            for what in _what(rule, family):
                for origin, target in ways.of(rule, family):
                    yield " ".join((*_between(word, origin, target), *what, _ALLOW))


_End = list[Address | Network] | None
"""Networks at one end; None for any."""


class _Ways:
    """From a site's VMs to its peers', and back."""

    def __init__(self, federation: Federation, site: Site) -> None:
        self._federation = federation
        self._site = site

    def of(self, rule: Rule, family: Family) -> Iterator[tuple[_End, _End]]:
        """Yield the two ends of each way that a rule allows something on."""
        if rule.origin is None and rule.target is None:
            yield None, None
            return
        for outward in (True, False):
            origin = of(family, self._networks(rule.origin, own=outward))
            target = of(family, self._networks(rule.target, own=not outward))
            if origin and target:
                yield origin, target

    def _networks(
        self, members: tuple[str | Network, ...] | None, *, own: bool
    ) -> Iterator[Network]:
        """Yield what the members have of the site's own prefixes, or of its peers'."""
        for member in members if members is not None else self._names():
            if not isinstance(member, str):
                for site, prefix in self._federation.prefixes_in(member):
                    if self._is_of(site, own=own):
                        yield max(member, prefix.network, key=_length)
            elif (named := self._federation.find_site(member)) is None:
                yield from self._networks(self._federation.group(member).members, own=own)
            elif self._is_of(named, own=own):
                yield from (prefix.network for prefix in named.prefixes)

    def _names(self) -> Iterator[str]:
        return (site.name for site in self._federation.sites)

    def _is_of(self, site: Site, *, own: bool) -> bool:
        return site.proxy == "fedsdn" and (site.name == self._site.name) is own


def _length(network: Network) -> int:
    return network.prefixlen


def _between(word: str, origin: _End, target: _End) -> Iterator[str]:
    ends = (("saddr", origin), ("daddr", target))
    yield from (f"ct original {word} {end} {listed(found)}" for end, found in ends if found)


def _what(rule: Rule, family: Family) -> Iterator[tuple[str, ...]]:
    """Yield conditions on protocol and port, any of which will do."""
    if rule.is_about("udp") and rule.ports:
        ports = listed(map(ports_text, rule.ports))
        yield "ct direction original", f"udp dport {ports}"
        yield "ct direction reply", f"udp sport {ports}"
    elif rule.protocol == "udp":
        yield ("meta l4proto udp",)
    elif rule.protocol == "icmp":
        yield (f"meta l4proto {_ICMP[family]}",)
    elif rule.protocol == "any":
        yield ()
