"""What is routed between VMs and tunnels, and nothing else: text for ``nft -f -``.

Only from the router's port into a tunnel and back, from one of our prefixes and to one, and never
TCP, which would have no socket; to peers' prefixes alone there are routes. A tunnel with encryption
hands out nothing but what came from the peer whose prefix it is; of one without, the source is
looked at here. What belongs to no flow (an ICMP error about nothing, an answer that nobody asked
for) is dropped. New flows are judged by the rules (``nft_policy``), at both ends; what none allows
is refused with an ICMP error, of which one VM is told so many a second.

The kernel takes up as a neighbour whatever it sends to at ``router``, and the table is the whole
host's. So of our prefixes' addresses only VMs that have sent something are sent to without a limit:
a sweep from far away does not fill it.

Conntrack looks at these packets alone: connections have their sockets. It also keeps which tunnels
a flow takes.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from fedsdn.config.model import Federation, Site
from fedsdn.pipeline.declarations import (
    AWAITED_AT_ONCE,
    AWAITED_PER_SECOND,
    AWAITED_SECONDS,
    CT_RECEIVED_MASK,
    CT_SENT_MASK,
    HEARD_SECONDS,
    MOST_AWAITED,
    MOST_BEGINNERS,
    MOST_ERRORS_PER_SECOND,
    MOST_FLOWS_AT_ONCE,
    MOST_FLOWS_PER_SECOND,
    MOST_HEARD,
    MOST_REFUSALS_AT_ONCE,
    MOST_REFUSALS_PER_SECOND,
    MOST_SENDERS,
    ROUTER_PORT,
    SENDERS_SECONDS,
    SHARED_FLOWS_PER_SECOND,
    SocketMark,
    ct_received_mark,
    ct_sent_mark,
)
from fedsdn.site.nft_policy import Policy, policy
from fedsdn.site.nft_text import chain, drop, dynamic_set, listed, of
from fedsdn.tunnels.plan import Tunnel, TunnelKind

_FAMILIES = ((4, "ip"), (6, "ip6"))
_BEGINNERS, _REFUSED = "beginners", "refused"
_HEARD, _AWAITED, _CALLERS = "heard", "awaited", "callers"
_SETS = (
    (_BEGINNERS, MOST_BEGINNERS, SENDERS_SECONDS),
    (_REFUSED, MOST_SENDERS, SENDERS_SECONDS),
    (_HEARD, MOST_HEARD, HEARD_SECONDS),
    (_AWAITED, MOST_AWAITED, AWAITED_SECONDS),
    (_CALLERS, MOST_BEGINNERS, AWAITED_SECONDS),
)
_ERRORS = (
    "icmp type != { destination-unreachable, time-exceeded, parameter-problem }",
    "icmpv6 type != { destination-unreachable, packet-too-big, time-exceeded, parameter-problem }",
)
"""What is related to a flow and yet no error: redirects, and source quench."""
_MARKED = f"meta mark set {SocketMark.ROUTED:#x}"
_DISCOVERY = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept"


def routed_sets() -> str:
    """Write the sets of VMs whose rate is limited, or that are known; packets add to them."""
    return "".join(
        dynamic_set(f"{name}_{word}", family, most, seconds)
        for name, most, seconds in _SETS
        for family, word in _FAMILIES
    )


def routed_chains(federation: Federation, site: Site, found: tuple[Tunnel, ...]) -> tuple[str, ...]:
    """Write the chains of what is routed, over the tunnels ``found``."""
    rules = policy(federation, site)
    return (
        chain("tracked", _tracked(found)),
        chain("untracked", _untracked()),
        chain("refuse", _refuse()),
        chain(ROUTER_PORT, _from_router(site)),
        chain("tunnels", _from_tunnels(site, found)),
        chain("begin", _begin()),
        judgement(rules),
        chain("unheard", _unheard()),
        chain("route", _route(found)),
    )


def judgement(rules: Policy) -> str:
    """Write the two chains that depend on the rules."""
    return chain("rules", rules.rules) + "\n" + chain("judge", _judge(rules.judged))


def changed_rules(table: str, rules: Policy) -> str:
    """Write what puts these rules in the place of those that are there, at one stroke."""
    flushed = "".join(f"flush chain {table} {name}\n" for name in ("rules", "judge"))
    return f"{flushed}table {table} {{\n{judgement(rules)}}}\n"


def without_rules(ruleset: str) -> str:
    """Return a site's ruleset without the chains that depend on the rules."""
    return _OF_RULES.sub("", ruleset)


_OF_RULES = re.compile(r"^\tchain (?:rules|judge) \{\n.*?^\t\}\n", re.MULTILINE | re.DOTALL)


def from_routed(found: tuple[Tunnel, ...]) -> Iterator[str]:
    """Yield the rules of the prerouting chain, where these tunnels are."""
    yield f'iifname "{ROUTER_PORT}" jump {ROUTER_PORT}'
    if found:
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
            yield f"{word} saddr {listed(own)} update @{_HEARD}_{word} {{ {word} saddr }}"
            yield f"{word} saddr {listed(own)} {_MARKED} accept"
    yield _DISCOVERY
    yield drop("not from a prefix of ours")


def _from_tunnels(site: Site, found: tuple[Tunnel, ...]) -> Iterator[str]:
    yield "meta l4proto tcp " + drop("TCP is not routed")
    if plain := tuple(one for one in found if one.kind is not TunnelKind.WIREGUARD):
        for family, word in _FAMILIES:
            theirs = [
                f'"{tunnel.name}" . {network}'
                for tunnel in plain
                for peer in tunnel.peers
                for network in of(family, peer.prefixes)
            ]
            foreign = f"iifname . {word} saddr != {listed(theirs)} " if theirs else ""
            yield f"iifname {_names(plain)} meta nfproto ipv{family} {foreign}" + drop(
                "not from its peer's prefix"
            )
    for family, word in _FAMILIES:
        if own := of(family, (prefix.network for prefix in site.prefixes)):
            yield f"{word} daddr {listed(own)} {_MARKED} accept"
    yield drop("not to a prefix of ours")


def _judge(judged: str) -> Iterator[str]:
    yield "ct state { invalid, untracked } " + drop("of no flow")
    for other in _ERRORS:
        yield f"ct state related {other} " + drop("not an error of those that count")
    yield f"{judged} return"
    yield f"ct state related limit rate {MOST_ERRORS_PER_SECOND}/second return"
    yield "ct state related " + drop("more errors about flows that are not judged yet")
    yield "ct state new jump begin"
    yield "jump rules"
    yield f"{judged} return"
    yield "goto refuse"


def _begin() -> Iterator[str]:
    """Yield what returns for a flow that may begin, if the rules allow it."""
    for _, word in _FAMILIES:
        yield (
            f"update @{_BEGINNERS}_{word} {{ {word} saddr limit rate "
            f"{MOST_FLOWS_PER_SECOND}/second burst {MOST_FLOWS_AT_ONCE} packets }} return"
        )
    yield f"limit rate {SHARED_FLOWS_PER_SECOND}/second return"
    yield drop("more than one VM may begin")


def _unheard() -> Iterator[str]:
    """Yield what returns for a packet from a tunnel to a VM that has sent something."""
    yield "ct state != new return"
    for _, word in _FAMILIES:
        awaited = f"update @{_AWAITED}_{word} {{ {word} daddr }}"
        yield f"{word} daddr @{_HEARD}_{word} return"
        yield f"{word} daddr @{_AWAITED}_{word} {awaited} return"
        yield (
            f"update @{_CALLERS}_{word} {{ {word} saddr limit rate {AWAITED_PER_SECOND}/second "
            f"burst {AWAITED_AT_ONCE} packets }} {awaited} return"
        )
    yield drop("to more than are waited for")


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
    inward = f'iifname {_names(found)} oifname "{ROUTER_PORT}"'
    yield f"{inward} jump judge"
    yield f"{inward} jump unheard"
    for slot, several in sorted(slots.items()):
        names = _names(tuple(several))
        sent = f"ct mark & {0xFFFFFFFF & ~CT_SENT_MASK:#x} | {ct_sent_mark(slot):#x}"
        received = f"ct mark & {0xFFFFFFFF & ~CT_RECEIVED_MASK:#x} | {ct_received_mark(slot):#x}"
        yield f'iifname "{ROUTER_PORT}" oifname {names} ct mark set {sent} accept'
        yield f'iifname {names} oifname "{ROUTER_PORT}" ct mark set {received} accept'
