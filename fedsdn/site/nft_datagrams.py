"""What is routed between VMs and tunnels, and nothing else: text for ``nft -f -``.

Only from the router's port into a tunnel and back, from one of our prefixes and to one, and never
TCP, which would have no socket; to peers' prefixes alone there are routes. A tunnel with encryption
hands out nothing but what came from the peer whose prefix it is; of one without, the source is
looked at here. What belongs to no flow (an ICMP error about nothing, an answer that nobody asked
for) is dropped. New flows are judged by the rules (``nft_policy``), at both ends; what none allows
is refused with an ICMP error, of which one VM is told so many a second.

Conntrack looks at these packets alone: connections have their sockets. It also keeps which tunnels
a flow takes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from fedsdn.config.model import Federation, Site
from fedsdn.pipeline.declarations import (
    CT_RECEIVED_MASK,
    CT_SENT_MASK,
    MOST_FLOWS_AT_ONCE,
    MOST_FLOWS_PER_SECOND,
    MOST_REFUSALS_AT_ONCE,
    MOST_REFUSALS_PER_SECOND,
    MOST_SENDERS,
    ROUTER_PORT,
    SENDERS_SECONDS,
    SocketMark,
    ct_received_mark,
    ct_sent_mark,
)
from fedsdn.site.nft_policy import Policy, policy
from fedsdn.site.nft_text import chain, drop, dynamic_set, listed, of
from fedsdn.tunnels.plan import Tunnel, TunnelKind, tunnels

_FAMILIES = ((4, "ip"), (6, "ip6"))
_BEGINNERS, _REFUSED = "beginners", "refused"
_MARKED = f"meta mark set {SocketMark.ROUTED:#x}"
_DISCOVERY = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept"


def routed_sets() -> str:
    """Write the sets of VMs whose rate is limited; packets add to them."""
    return "".join(
        dynamic_set(f"{name}_{word}", family, MOST_SENDERS, SENDERS_SECONDS)
        for name in (_BEGINNERS, _REFUSED)
        for family, word in _FAMILIES
    )


def routed_chains(federation: Federation, site: Site) -> tuple[str, ...]:
    """Write the chains of what is routed."""
    found = tunnels(federation, site)
    rules = policy(federation, site)
    return (
        chain("tracked", _tracked(found)),
        chain("untracked", _untracked()),
        chain("refuse", _refuse()),
        chain(ROUTER_PORT, _from_router(site)),
        chain("tunnels", _from_tunnels(site, found)),
        judgement(rules),
        chain("route", _route(found)),
    )


def judgement(rules: Policy) -> str:
    """Write the two chains that depend on the rules."""
    return chain("rules", rules.rules) + "\n" + chain("judge", _judge(rules.judged))


def changed_rules(table: str, rules: Policy) -> str:
    """Write what puts these rules in the place of those that are there, at one stroke."""
    flushed = "".join(f"flush chain {table} {name}\n" for name in ("rules", "judge"))
    return f"{flushed}table {table} {{\n{judgement(rules)}}}\n"


def from_routed(federation: Federation, site: Site) -> Iterator[str]:
    """Yield the rules of the prerouting chain."""
    yield f'iifname "{ROUTER_PORT}" jump {ROUTER_PORT}'
    if found := tunnels(federation, site):
        yield f"iifname {_names(found)} jump tunnels"


def to_proxy() -> Iterator[str]:
    """Yield the rules of the input chain: no datagram is for the proxy itself."""
    yield f'iifname "{ROUTER_PORT}" {_DISCOVERY}'
    yield f"meta mark {SocketMark.ROUTED:#x} goto refuse"


def _names(found: tuple[Tunnel, ...]) -> str:
    return listed(f'"{tunnel.name}"' for tunnel in found)


def _tracked(found: tuple[Tunnel, ...]) -> Iterator[str]:
    yield "type filter hook prerouting priority raw; policy accept;"
    names = listed([f'"{ROUTER_PORT}"', *(f'"{tunnel.name}"' for tunnel in found)])
    yield f"iifname != {names} notrack"


def _untracked() -> Iterator[str]:
    yield "type filter hook output priority raw; policy accept;"
    yield "notrack"


def _from_router(site: Site) -> Iterator[str]:
    yield "meta l4proto tcp " + drop("TCP is not routed")
    for family, word in _FAMILIES:
        if own := of(family, (prefix.network for prefix in site.prefixes)):
            yield f"{word} saddr {listed(own)} {_MARKED} accept"
    yield _DISCOVERY
    yield drop("not from a prefix of ours")


def _from_tunnels(site: Site, found: tuple[Tunnel, ...]) -> Iterator[str]:
    yield "meta l4proto tcp " + drop("TCP is not routed")
    for tunnel in found:
        if tunnel.kind is not TunnelKind.WIREGUARD:
            (peer,) = tunnel.peers
            for family, word in _FAMILIES:
                theirs = of(family, peer.prefixes)
                foreign = (
                    f"{word} saddr != {listed(theirs)} " if theirs else f"meta nfproto ipv{family} "
                )
                yield f'iifname "{tunnel.name}" {foreign}' + drop("not from its peer's prefix")
    for family, word in _FAMILIES:
        if own := of(family, (prefix.network for prefix in site.prefixes)):
            yield f"{word} daddr {listed(own)} {_MARKED} accept"
    yield drop("not to a prefix of ours")


def _judge(judged: str) -> Iterator[str]:
    yield "ct state { invalid, untracked } " + drop("of no flow")
    yield f"{judged} return"
    yield "ct state related return"
    for _, word in _FAMILIES:
        yield (
            f"ct state new update @{_BEGINNERS}_{word} {{ {word} saddr limit rate over "
            f"{MOST_FLOWS_PER_SECOND}/second burst {MOST_FLOWS_AT_ONCE} packets }} "
            + drop("more than one VM may begin")
        )
    yield "jump rules"
    yield f"{judged} return"
    yield "goto refuse"


def _refuse() -> Iterator[str]:
    for _, word in _FAMILIES:
        yield (
            f"update @{_REFUSED}_{word} {{ {word} saddr limit rate over "
            f"{MOST_REFUSALS_PER_SECOND}/second burst {MOST_REFUSALS_AT_ONCE} packets }} "
            + drop("refused, and told often enough")
        )
    yield 'counter reject with icmpx admin-prohibited comment "no rule allows it"'


def _route(found: tuple[Tunnel, ...]) -> Iterator[str]:
    slots: defaultdict[int, list[Tunnel]] = defaultdict(list)
    for tunnel in found:
        slots[tunnel.slot].append(tunnel)
    if not found:
        return
    yield f'iifname "{ROUTER_PORT}" oifname {_names(found)} jump judge'
    yield f'iifname {_names(found)} oifname "{ROUTER_PORT}" jump judge'
    for slot, several in sorted(slots.items()):
        names = _names(tuple(several))
        sent = f"ct mark & {0xFFFFFFFF & ~CT_SENT_MASK:#x} | {ct_sent_mark(slot):#x}"
        received = f"ct mark & {0xFFFFFFFF & ~CT_RECEIVED_MASK:#x} | {ct_received_mark(slot):#x}"
        yield f'iifname "{ROUTER_PORT}" oifname {names} ct mark set {sent} accept'
        yield f'iifname {names} oifname "{ROUTER_PORT}" ct mark set {received} accept'
