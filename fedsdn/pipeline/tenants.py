"""Tenants: a VM's packets to a remote prefix go to the proxy port of their connection.

Those of the provider network, that is: others' do not come beyond ``network``.

Outbound connections belong to the socksifier, inbound ones to the SOCKS server. Conntrack learns
the direction from the proxy's packets alone: a VM's neighbours can forge its packets. One without
conntrack state (the userspace datapath loses all of it when ovs-vswitchd restarts) goes to both
ports, by addresses of their own: the proxy's namespace drops the copy at the port without its
socket, and the owner's answer commits the connection again. A SYN on an inbound connection goes to
both ports, too: its socket, if it still lives, answers with a challenge ACK (RFC 5961, section 4),
and the socksifier otherwise.

All but TCP is in ``datagrams``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fedsdn.config.model import Site
from fedsdn.pipeline.context import ABOVE_DEFAULT, Context, PeerContext
from fedsdn.pipeline.declarations import (
    ROUTER_PORT,
    SERVER_PORT,
    SOCKSIFIER_PORT,
    CtMark,
    HookPriority,
    Table,
    group_mac,
    port_mac,
)
from fedsdn.pipeline.flows import (
    Action,
    AddressToSender,
    Commit,
    ConnState,
    Flow,
    Match,
    Normal,
    Output,
    PopVlan,
    Protocol,
    Resubmit,
    SetDestinationMac,
    Tag,
    Track,
    ip,
    tcp,
)
from fedsdn.pipeline.network import HANDED_BACK, translation

_TRANSLATED = 20
_BY_DIRECTION = 20
_OPENING = 30
_TURNING = 40

_TCP = ABOVE_DEFAULT + 10

_IP = {4: Protocol.IPV4, 6: Protocol.IPV6}
_DELIVERY = {CtMark.OUTBOUND: Table.TO_SOCKSIFIER, CtMark.INBOUND: Table.TO_SERVER}
_TO_BOTH = tuple(Resubmit(table) for table in _DELIVERY.values())


def flows(context: Context) -> Iterator[Flow]:
    """Flows that steer tenants' packets."""
    for family in context.peers_families:
        yield context.flow(
            Table.HOOK,
            Match(protocol=_IP[family], handed_back=False),
            Resubmit(Table.REMOTE),
            priority=HookPriority.TENANT,
            why="may be to another site: the one flow for all prefixes",
        )
    yield context.default(
        Table.REMOTE, *HANDED_BACK, why="to no other site: as if we were not there"
    )
    restored = context.site.source_restore == "nat"
    for prefix in context.site.prefixes:
        own = prefix.network
        yield context.flow(
            Table.TENANT,
            Match(protocol=tcp(own), source=own),
            Track(Table.TENANT_STATE, nat=restored),
            priority=_TCP,
            why="from a local prefix: look the connection up",
        )
        yield context.flow(
            Table.TENANT,
            Match(protocol=ip(own), source=own),
            Resubmit(Table.DATAGRAM),
            why="from a local prefix, and not TCP",
        )
    yield context.default(Table.TENANT, *HANDED_BACK, why="not from a local prefix: not federated")
    yield from _by_state(context)
    yield from _syn_on_inbound(context)
    yield from _delivery(context, Table.TO_SOCKSIFIER, SOCKSIFIER_PORT)
    yield from _delivery(context, Table.TO_SERVER, SERVER_PORT)
    yield from _delivery(context, Table.TO_ROUTER, ROUTER_PORT)
    yield from _delivery_to_both(context, port_mac if restored else group_mac)


def peer_flows(context: PeerContext) -> Iterator[Flow]:
    """Flows that pick what goes to a peer's prefixes.

    TCP has flows of its own, so that another owner's flow that takes TCP alone is found to hide it.
    """
    for remote in context.peer.prefixes:
        for protocol, priority in (
            (tcp(remote.network), _TCP),
            (ip(remote.network), ABOVE_DEFAULT),
        ):
            yield context.flow(
                Table.REMOTE,
                Match(protocol=protocol, destination=remote.network),
                Resubmit(Table.NETWORK),
                priority=priority,
                why="packets to another site's prefix",
            )


def _by_state(context: Context) -> Iterator[Flow]:
    for protocol in (Protocol.TCP, Protocol.TCP6):
        yield context.flow(
            Table.TENANT_STATE,
            Match(protocol=protocol, opening=True, conn_state=ConnState.NEW),
            Commit(),
            Resubmit(_DELIVERY[CtMark.OUTBOUND]),
            priority=_OPENING,
            why="a VM opens a connection: to the socksifier, whose answer makes it outbound",
        )
        for mark, delivery in _DELIVERY.items():
            yield context.flow(
                Table.TENANT_STATE,
                Match(protocol=protocol, ct_mark=mark),
                Resubmit(delivery),
                priority=_BY_DIRECTION,
                why="a known connection: to the proxy port of its direction",
            )
        yield context.flow(
            Table.TENANT_STATE,
            Match(protocol=protocol),
            Resubmit(Table.TO_BOTH),
            why="no conntrack state: a copy to each proxy port, the owner takes it",
        )
    for mark, delivery in _DELIVERY.items():
        error = Match(conn_state=ConnState.RELATED, ct_mark=mark)
        yield context.flow(
            Table.TENANT_STATE,
            error,
            Resubmit(delivery),
            priority=_BY_DIRECTION,
            why="an ICMP error about a connection goes the connection's way",
        )
    yield context.default(
        Table.TENANT_STATE, Resubmit(Table.ROUTED), why="an ICMP error about no connection"
    )


def _syn_on_inbound(context: Context) -> Iterator[Flow]:
    """Flows for SYN and SYN-ACK on inbound connections.

    They are picked by SYN alone in ``TENANT_STATE``: told apart by ACK there, a reset would have a
    megaflow of its own, and while that is not installed, Open vSwitch's userspace datapath sends it
    ahead of the data before it.
    """
    for protocol in (Protocol.TCP, Protocol.TCP6):
        yield context.flow(
            Table.TENANT_STATE,
            Match(protocol=protocol, syn=True, ct_mark=CtMark.INBOUND),
            Resubmit(Table.TENANT_SYN),
            priority=_TURNING,
            why="a SYN or SYN-ACK on an inbound connection: which?",
        )
        yield context.flow(
            Table.TENANT_SYN,
            Match(protocol=protocol, opening=True),
            *_TO_BOTH,
            why="a SYN, but the connection is inbound: a copy to each port, its socket decides",
        )
    yield context.default(
        Table.TENANT_SYN,
        Resubmit(_DELIVERY[CtMark.INBOUND]),
        why="a SYN-ACK: the VM's answer to the server",
    )


def _delivery(context: Context, table: Table, port: str) -> Iterator[Flow]:
    """Flows that hand a frame to the proxy."""
    to_proxy = (SetDestinationMac(port_mac(context.site, port)), Output(port))
    yield from _delivered(context, table, to_proxy)


def _delivery_to_both(context: Context, mac: Callable[[Site, str], str]) -> Iterator[Flow]:
    """Flows that hand both ports a copy, by addresses that tell it from a known connection's.

    Where the bridge restores sources they do not: a connection that conntrack has lost is lost for
    good there, and the proxy is to reset it.
    """
    copies = tuple(
        action
        for port in (SOCKSIFIER_PORT, SERVER_PORT)
        for action in (SetDestinationMac(mac(context.site, port)), Output(port))
    )
    yield from _delivered(context, Table.TO_BOTH, copies)


def _delivered(context: Context, table: Table, to_proxy: tuple[Action, ...]) -> Iterator[Flow]:
    """Flows that have the bridge learn where a frame is from, and hand it on without its tag.

    Steered frames do not pass NORMAL: the bridge would forget the VM's port and flood the proxy's
    answers. NORMAL learns the source of a frame whose destination is its source, and sends it
    nowhere.
    """
    learn = (AddressToSender(), Normal())
    vlan = context.site.provider_network.segmentation_id
    untag = () if vlan is None else (PopVlan(),)
    for port in context.tenant_ports:
        if port.local is not None:
            yield context.flow(
                table,
                Match(in_port=port.name, vlan=port.local),
                *(translation(vlan), *learn, *untag, *to_proxy),
                priority=_TRANSLATED,
                why="with Neutron's tag: NORMAL learns it in the network's own VLAN",
            )
    tagged, untagged = Match(tag=Tag.PRESENT), Match(tag=Tag.ABSENT)
    yield context.flow(
        table, tagged, *learn, PopVlan(), *to_proxy, why="to the proxy, without its tag"
    )
    yield context.flow(table, untagged, *learn, *to_proxy, why="to the proxy")
