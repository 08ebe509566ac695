"""Uplinks: shared between the host and the proxy, peers only, no leaks.

Packets to the proxy's address on an uplink go to the proxy, packets to the host's to the host
(``host``). Nothing else passes, least of all to tenants or another uplink: two bridges with two
uplinks each would be a loop. The proxy's packets leave by the uplink of their source address alone.
"""

from __future__ import annotations

from collections.abc import Iterator

from fedsdn.config.model import Uplink
from fedsdn.pipeline.context import ABOVE_DEFAULT, Context, PeerContext
from fedsdn.pipeline.declarations import (
    NOBODYS_VLAN,
    HookPriority,
    Table,
    port_mac,
    wan_port,
)
from fedsdn.pipeline.flows import Flow, Match, Output, Protocol, Resubmit, icmp, ip, tcp, udp
from fedsdn.pipeline.link_local import link_local

_ND_SOLICITATION = 135
_BELOW_PEERS = ABOVE_DEFAULT - 5


def flows(context: Context) -> Iterator[Flow]:
    """Flows of every uplink of the site."""
    yield context.flow(
        Table.HOOK,
        Match(vlan=NOBODYS_VLAN, handed_back=False),
        priority=HookPriority.NOBODYS_VLAN,
        why="drop: a forged tag would pass between the ports that NORMAL is kept off",
    )
    for uplink in context.site.uplinks:
        for port, table in ((uplink.port, Table.UPLINK), (wan_port(uplink), Table.WAN)):
            yield context.flow(
                Table.HOOK,
                Match(in_port=port, handed_back=False),
                Resubmit(table),
                priority=HookPriority.PORT,
                why="frames from an uplink, or from the proxy to it",
            )
        yield from _to_proxy(context, uplink)
        yield from _from_proxy(context, uplink)
    yield context.default(Table.UPLINK, why="drop what is neither the proxy's nor the host's")
    yield context.default(Table.WAN, why="drop foreign source addresses")


def peer_flows(context: PeerContext) -> Iterator[Flow]:
    """Flows of what a peer sends to the proxy, on every uplink that it reaches."""
    for uplink in context.site.uplinks:
        address = uplink.address.ip
        protocols = tcp(address), udp(address)
        for remote in context.peer.uplinks:
            if not uplink.reaches(remote):
                continue
            for protocol in protocols:
                from_peer = Match(
                    protocol=protocol,
                    in_port=uplink.port,
                    source=remote.peer_address,
                    destination=address,
                )
                yield context.flow(
                    Table.UPLINK,
                    from_peer,
                    Output(wan_port(uplink)),
                    why="connections and probes of a peer",
                )


def _to_proxy(context: Context, uplink: Uplink) -> Iterator[Flow]:
    port, address = uplink.port, uplink.address.ip
    proxy = Output(wan_port(uplink))
    ping = Match(protocol=icmp(address), in_port=port, destination=address)
    yield context.flow(Table.UPLINK, ping, proxy, why="ping, and errors about connections to peers")
    stranger = Match(protocol=ip(address), in_port=port, destination=address)
    yield context.flow(
        Table.UPLINK,
        stranger,
        priority=_BELOW_PEERS,
        why="drop strangers: the proxy is not open to them",
    )
    if uplink.family == 4:
        arp = Match(protocol=Protocol.ARP, in_port=port, arp_target=address)
        yield context.flow(Table.UPLINK, arp, proxy, why="ARP for the proxy's address")
        return
    own = link_local(port_mac(context.site, wan_port(uplink)))
    for target in (address, own):
        solicitation = Match(
            protocol=Protocol.ICMP6, in_port=port, icmp_type=_ND_SOLICITATION, nd_target=target
        )
        yield context.flow(Table.UPLINK, solicitation, proxy, why="solicitations for the proxy")
    neighbour = Match(protocol=Protocol.ICMP6, in_port=port, destination=own)
    yield context.flow(Table.UPLINK, neighbour, proxy, why="advertisements to the proxy")


def _from_proxy(context: Context, uplink: Uplink) -> Iterator[Flow]:
    port, address = wan_port(uplink), uplink.address.ip
    out = Output(uplink.port)
    sent = Match(protocol=ip(address), in_port=port, source=address)
    yield context.flow(
        Table.WAN, sent, out, why="the proxy's packets: by the uplink of their source"
    )
    if uplink.family == 4:
        arp = Match(protocol=Protocol.ARP, in_port=port, arp_source=address)
        yield context.flow(Table.WAN, arp, out, why="the proxy's own ARP")
        return
    own = link_local(port_mac(context.site, port))
    neighbour = Match(protocol=Protocol.ICMP6, in_port=port, source=own)
    yield context.flow(Table.WAN, neighbour, out, why="the proxy's own neighbour discovery")
