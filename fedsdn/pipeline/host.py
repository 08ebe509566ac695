"""The host's own traffic over uplinks.

The host may have an address on the bridge (port LOCAL) and reach that network through an uplink.
NORMAL does not serve uplinks (``site.reserved_ports``), so these flows do: between LOCAL and the
uplink with the address's network, and no other port.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv6Network

from fedsdn.config.model import Network, Uplink
from fedsdn.pipeline.context import ABOVE_DEFAULT, Context
from fedsdn.pipeline.declarations import LOCAL_PORT, HookPriority, Table
from fedsdn.pipeline.flows import Flow, Match, Output, Protocol, ip
from fedsdn.pipeline.network import HANDED_BACK

_LINK_LOCAL = IPv6Network("fe80::/10")
_MULTICAST = IPv6Network("ff02::/16")
_BELOW_PROXY = ABOVE_DEFAULT - 8
"""Below the flows of the proxy's address."""


def flows(context: Context) -> Iterator[Flow]:
    """Flows between the host and its networks."""
    networks: dict[Network, Uplink] = {}
    for uplink in context.site.uplinks:
        networks.setdefault(uplink.address.network, uplink)
        yield from _to_host(context, uplink)
    for network, uplink in networks.items():
        yield from _from_host(context, network, uplink)
    solicited = [Output(uplink.port) for uplink in networks.values() if uplink.family == 6]
    if solicited:
        yield context.flow(
            Table.HOOK,
            Match(
                protocol=Protocol.ICMP6,
                in_port=LOCAL_PORT,
                source=_LINK_LOCAL,
                handed_back=False,
            ),
            *solicited,
            *HANDED_BACK,
            priority=HookPriority.PORT,
            why="the host asks for neighbours, wherever they are",
        )


def _to_host(context: Context, uplink: Uplink) -> Iterator[Flow]:
    network, port = uplink.address.network, uplink.port
    matches = [Match(protocol=ip(network), in_port=port, destination=network)]
    if uplink.family == 4:
        matches.append(Match(protocol=Protocol.ARP, in_port=port, arp_target=network))
    else:
        matches += [
            Match(protocol=Protocol.ICMP6, in_port=port, destination=to)
            for to in (_LINK_LOCAL, _MULTICAST)
        ]
    for match in matches:
        yield context.flow(
            Table.UPLINK,
            match,
            Output(LOCAL_PORT),
            priority=_BELOW_PROXY,
            why="to the host, if it has an address in the uplink's network",
        )


def _from_host(context: Context, network: Network, uplink: Uplink) -> Iterator[Flow]:
    matches = [Match(protocol=ip(network), source=network)]
    if uplink.family == 4:
        matches.append(Match(protocol=Protocol.ARP, arp_source=network))
    for match in matches:
        yield context.flow(
            Table.HOOK,
            replace(match, in_port=LOCAL_PORT, handed_back=False),
            Output(uplink.port),
            priority=HookPriority.PORT,
            why="from the host's address in an uplink's network: out of that uplink",
        )
