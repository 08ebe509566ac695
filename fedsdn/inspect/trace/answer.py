"""A packet traced at this host's site, with its connection."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from fedsdn.channel.connection import Direction
from fedsdn.config import decision
from fedsdn.config.model import Federation, Site
from fedsdn.inspect.connections import ConnectionView, read_connections
from fedsdn.inspect.trace.bridge import VmPort, vm_port
from fedsdn.inspect.trace.question import Question, direction_at, find_entry, peer_of
from fedsdn.inspect.trace.routed import Routed, find_flow, path_to
from fedsdn.ovs.conntrack import Entry, entries
from fedsdn.ovs.packet import TracedPacket, state
from fedsdn.ovs.trace import Trace, run_trace
from fedsdn.pipeline.declarations import (
    ROUTER_PORT,
    SERVER_PORT,
    SOCKSIFIER_PORT,
    Table,
    port_mac,
)
from fedsdn.shell import Shell
from fedsdn.socket_address import SocketAddress
from fedsdn.uplinks.status import PathStatus, read_status

_GATEWAY_MAC = "02:00:00:00:00:01"
"""What a VM addresses; the flows do not look at it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A packet's trace at one site, its conntrack entry, and who carries its connection.

    ``decision`` is what the federation file says of the connection. ``guessed``: the bridge has not
    learned the VM's port. ``paths`` are those to the peer, empty while the application does not
    run. ``routed`` is of what is not TCP, and between the prefixes of two sites.
    """

    site: Site
    direction: Direction
    peer: Site | None
    decision: decision.Decision
    packet: TracedPacket
    guessed: bool
    entry: Entry | None
    trace: Trace
    view: ConnectionView | None
    paths: tuple[PathStatus, ...]
    routed: Routed | None = None

    @property
    def sent_by_vm(self) -> bool:
        """Whether a VM of the site sends the packet."""
        return self.packet.in_port not in (SERVER_PORT, SOCKSIFIER_PORT, ROUTER_PORT)


def ask(federation: Federation, site: Site, question: Question) -> Answer:
    """Trace a packet at this host's site.

    Raises:
        FedsdnError: neither end is here, or something of the site does not answer.

    """
    shell = Shell(site.name)
    direction = direction_at(site, question)
    peer = peer_of(federation, site, question)
    entry = routed = None
    if question.protocol == "tcp":
        entry = find_entry(entries(shell, site.provider_network.bridge), question)
    elif peer is not None:
        flow = find_flow(federation, site, question)
        if flow is not None and flow.source_port is not None:
            question = replace(question, client_port=flow.source_port)
        by_vm = (direction is Direction.OUTBOUND) is not question.reply
        path = path_to(federation, site, peer, question) if by_vm else None
        any_port = question.protocol == "udp" and question.client_port is None
        routed = Routed(flow, path, any_port)
    vm = question.client if direction is Direction.OUTBOUND else question.destination.address
    at = vm_port(shell, site, vm)
    packet = _packet(site, question, direction, entry, at)
    return Answer(
        site=site,
        direction=direction,
        peer=peer,
        decision=decision.decide(federation, _as_asked(question)),
        packet=packet,
        guessed=at.guessed,
        entry=entry,
        trace=_traced(shell, site, packet, entry),
        view=_view(federation, site, entry),
        paths=_paths(peer),
        routed=routed,
    )


def _as_asked(question: Question) -> decision.Question:
    to = question.destination
    return decision.Question(question.client, to.address, to.port, question.protocol)


def _packet(
    site: Site, question: Question, direction: Direction, entry: Entry | None, at: VmPort
) -> TracedPacket:
    client, destination = question.ends(entry)
    reply = question.reply
    opening = entry is None and not reply
    made = partial(TracedPacket, opening=opening, protocol=question.protocol, reply=reply)
    ends = (destination, client) if reply else (client, destination)
    if reply is (direction is Direction.INBOUND):  # the VM sends it
        return made(at.port, *ends, at.mac, _GATEWAY_MAC, vlan=at.vlan)
    port = SERVER_PORT if direction is Direction.INBOUND else SOCKSIFIER_PORT
    if question.protocol != "tcp":
        port = ROUTER_PORT
    elif direction is Direction.INBOUND and site.source_restore == "nat":
        ends = (_own(site, entry, client, destination), destination)
    return made(port, *ends, port_mac(site, port), at.mac)


def _own(
    site: Site, entry: Entry | None, client: SocketAddress, destination: SocketAddress
) -> SocketAddress:
    """Return the proxy's own address and port towards a VM, before the bridge translates them."""
    if entry is not None:
        return entry.opener
    own = next(p.proxy_address for p in site.prefixes if destination.address in p.network)
    return SocketAddress(own, client.port)


def _traced(shell: Shell, site: Site, packet: TracedPacket, entry: Entry | None) -> Trace:
    bridge, mark = site.provider_network.bridge, entry.mark if entry else 0
    there = state(packet, entry)
    trace = run_trace(shell, bridge, packet.flow(mark), there)
    if entry is None or packet.source != entry.opener or entry.opener == entry.client:
        return trace
    # A trace does not translate: what conntrack makes of the packet is traced by itself.
    restored = replace(packet, source=entry.client)
    after = run_trace(shell, bridge, restored.flow(mark), there)
    return Trace(
        tuple(step for step in trace.steps if step.table <= Table.SERVER)
        + tuple(step for step in after.steps if step.table > Table.SERVER),
        after.ports,
        after.flooded,
    )


def _view(federation: Federation, site: Site, entry: Entry | None) -> ConnectionView | None:
    if entry is None:
        return None
    for view in read_connections(federation, site):
        if (view.client, view.destination) == (entry.client, entry.destination):
            return view
    return None


def _paths(peer: Site | None) -> tuple[PathStatus, ...]:
    status = read_status()
    if status is None or peer is None:
        return ()
    return tuple(path for path in status.paths if path.peer == peer.name)
