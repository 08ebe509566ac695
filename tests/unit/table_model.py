"""A model of the tables that packets can be pushed through, with a conntrack of its own.

It reads the flows as values and does what ovs-fields(7) and ovs-actions(7) say of them. The real
bridge is asked the same questions in tests/real; this one answers thousands a second.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network

from fedsdn.config.model import Address, Network
from fedsdn.pipeline.declarations import CtMark, Table
from fedsdn.pipeline.flows import (
    Action,
    AddressToSender,
    Commit,
    ConnState,
    Flow,
    HandBack,
    Match,
    Normal,
    Output,
    PopVlan,
    Protocol,
    RestoreSource,
    Resubmit,
    SetDestinationMac,
    SetVlan,
    Tag,
    Track,
)
from fedsdn.socket_address import SocketAddress

_SPECIAL_CASES = {
    Protocol.IPV4: {Protocol.IPV4, Protocol.TCP, Protocol.UDP, Protocol.ICMP},
    Protocol.IPV6: {Protocol.IPV6, Protocol.TCP6, Protocol.UDP6, Protocol.ICMP6},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """A frame: what flows can match, and what actions can change."""

    in_port: str
    protocol: Protocol
    source: Address | None = None
    destination: Address | None = None
    source_port: int = 0
    destination_port: int = 0
    syn: bool = False
    ack: bool = True
    rst: bool = False
    tag: int | None = None
    """The VLAN of its tag: 0 for one of a priority alone, None without one."""
    mac: str = "to the gateway"
    source_mac: str = "a VM's"
    arp_source: Address | None = None
    arp_target: Address | None = None
    icmp_type: int | None = None
    nd_target: Address | None = None
    error_about: Connection | None = None

    @property
    def connection(self) -> Connection:
        """The two sockets, in no order."""
        if self.error_about is not None:
            return self.error_about
        return frozenset(
            {(self.source, self.source_port), (self.destination, self.destination_port)}
        )


Connection = frozenset[tuple[Address | None, int]]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A packet that left through ``port``; NORMAL is a port here."""

    port: str
    packet: Packet


NORMAL = "NORMAL"


@dataclass
class _Way:
    """One packet's way through the tables."""

    packet: Packet
    tracked: bool = False
    handed_back: bool = False
    new: bool = False
    mark: int = 0
    deliveries: list[Delivery] = field(default_factory=list)


class TableModel:
    """Flows and a conntrack zone."""

    def __init__(self, flows: Iterable[Flow]) -> None:
        self._flows = sorted(flows, key=lambda flow: -flow.priority)
        self.connections: dict[Connection, CtMark | None] = {}
        """Their direction, None as long as only first segments came."""
        self.translated: dict[Connection, tuple[SocketAddress, SocketAddress]] = {}
        """Own address and client's, by the connection as either side of the bridge sees it."""
        self.learned: set[tuple[str, str]] = set()
        self.learned_tags: set[int | None] = set()

    def push(self, packet: Packet) -> list[Delivery]:
        """Everything that leaves the bridge because of this packet."""
        way = _Way(packet)
        self._table(way, Table.HOOK)
        return way.deliveries

    def _table(self, way: _Way, table: Table) -> None:
        matching = [
            flow for flow in self._flows if flow.table == table and _matches(flow.match, way)
        ]
        if not matching:
            return
        best = [flow for flow in matching if flow.priority == matching[0].priority]
        effects = {flow.actions for flow in best}
        assert len(effects) == 1, f"ambiguous: {[str(flow) for flow in best]}"
        for action in best[0].actions:
            self._act(way, action)

    def _act(self, way: _Way, action: Action) -> None:
        match action:
            case Output(port):
                if port != way.packet.in_port:
                    way.deliveries.append(Delivery(port, way.packet))
            case Normal():
                self.learned.add((way.packet.source_mac, way.packet.in_port))
                self.learned_tags.add(way.packet.tag)
                if way.packet.mac != way.packet.source_mac:
                    way.deliveries.append(Delivery(NORMAL, way.packet))
            case Resubmit(table):
                self._table(way, table)
            case HandBack():
                way.handed_back = True
            case SetDestinationMac() | AddressToSender() | PopVlan() | SetVlan():
                way.packet = _changed(way.packet, action)
            case Track(table, nat):
                connection = way.packet.connection
                way.tracked = True
                way.mark = self.connections.get(connection) or 0
                way.new = not way.mark
                if nat:
                    self._translate(way)
                self._table(way, table)
            case RestoreSource(client, table):
                self._restore(way, client)
                self._table(way, table)
            case Commit(mark):
                self._commit(way.packet, mark)

    def _commit(self, packet: Packet, mark: CtMark | None) -> None:
        known = packet.connection in self.connections
        if not known and packet.syn and packet.ack:
            return  # not the first segment of anything: conntrack calls it invalid
        if not known or mark is not None:
            self.connections[packet.connection] = mark

    def _restore(self, way: _Way, client: SocketAddress) -> None:
        packet = way.packet
        connection = packet.connection
        if connection not in self.connections:
            assert packet.source is not None
            own = SocketAddress(packet.source, packet.source_port)
            seen = replace(packet, source=client.address, source_port=client.port).connection
            if seen in self.connections:
                return  # conntrack has no second entry for the answers (ovs-actions(7), ``ct``)
            for one in (connection, seen):
                self.connections[one] = CtMark.INBOUND
                self.translated[one] = (own, client)
        self._translate(way)

    def _translate(self, way: _Way) -> None:
        packet = way.packet
        own, client = self.translated.get(packet.connection, (None, None))
        if own is None or client is None:
            return
        if (packet.source, packet.source_port) == (own.address, own.port):
            way.packet = replace(packet, source=client.address, source_port=client.port)
        elif (packet.destination, packet.destination_port) == (client.address, client.port):
            way.packet = replace(packet, destination=own.address, destination_port=own.port)


def _changed(
    packet: Packet, action: SetDestinationMac | AddressToSender | PopVlan | SetVlan
) -> Packet:
    match action:
        case SetDestinationMac(mac):
            return replace(packet, mac=mac)
        case AddressToSender():
            return replace(packet, mac=packet.source_mac)
        case PopVlan():
            assert packet.tag is not None, "pop_vlan on an untagged frame"
            return replace(packet, tag=None)
        case SetVlan(vlan):
            assert packet.tag is not None, "another VLAN for an untagged frame"
            return replace(packet, tag=vlan)


def _matches(match: Match, way: _Way) -> bool:
    packet = way.packet
    return (
        _protocol(match.protocol, packet.protocol)
        and match.in_port in {None, packet.in_port}
        and _tag(match.tag, packet.tag)
        and match.vlan in {None, packet.tag}
        and _inside(packet.source, match.source)
        and _inside(packet.destination, match.destination)
        and match.source_port in {None, packet.source_port}
        and match.destination_port in {None, packet.destination_port}
        and _inside(packet.arp_source, match.arp_source)
        and match.arp_source_mac in {None, packet.source_mac}
        and _inside(packet.arp_target, match.arp_target)
        and match.icmp_type in {None, packet.icmp_type}
        and match.nd_target in {None, packet.nd_target}
        and match.opening in {None, packet.syn and not packet.ack}
        and match.syn in {None, packet.syn}
        and match.reset in {None, packet.rst}
        and match.ct_mark in {None, way.mark}
        and match.handed_back in {None, way.handed_back}
        and _state(match.conn_state, way)
    )


def _tag(wanted: Tag | None, found: int | None) -> bool:
    return {
        None: True,
        Tag.ABSENT: found is None,
        Tag.PRESENT: found is not None,
        Tag.NO_VLAN: not found,
    }[wanted]


def _protocol(wanted: Protocol | None, found: Protocol) -> bool:
    return wanted is None or found in _SPECIAL_CASES.get(wanted, {wanted})


def _inside(address: Address | None, wanted: Address | Network | None) -> bool:
    if wanted is None:
        return True
    if isinstance(wanted, IPv4Network | IPv6Network):
        return address is not None and address in wanted
    return address == wanted


def _state(wanted: ConnState | None, way: _Way) -> bool:
    if wanted is None:
        return True
    related = way.packet.error_about is not None and not way.new
    found = {ConnState.NEW: way.new, ConnState.RELATED: related}[wanted]
    return way.tracked and found
