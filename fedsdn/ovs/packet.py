"""Packets to be traced, as ``ofproto/trace`` reads them (ovs-vswitchd(8)). Pure code."""

from __future__ import annotations

from dataclasses import dataclass

from fedsdn.config.rules import Protocol
from fedsdn.ovs.conntrack import Entry
from fedsdn.pipeline.flows import icmp, tcp, udp
from fedsdn.socket_address import SocketAddress

_FIELD = {"tcp": tcp, "udp": udp, "icmp": icmp}
_ECHO = {(4, False): 8, (4, True): 0, (6, False): 128, (6, True): 129}
"""ICMP types of an echo's request and reply, by IP version (RFC 792; RFC 4443, section 4)."""


@dataclass(frozen=True, slots=True)
class TracedPacket:
    """A packet that comes in at a port of the bridge. ``vlan`` is its tag, if it has one.

    ``opening`` is of TCP: the first segment of a connection; ``reply`` of ICMP: an echo's.
    """

    in_port: str
    source: SocketAddress
    destination: SocketAddress
    source_mac: str
    destination_mac: str
    opening: bool
    vlan: int | None = None
    protocol: Protocol = "tcp"
    reply: bool = False

    def flow(self, mark: int) -> str:
        """Write the packet as a flow; ``mark`` is what conntrack has for its connection."""
        version = self.source.address.version
        network = "ipv6" if version == 6 else "nw"
        terms = [
            f'in_port="{self.in_port}"',
            _FIELD[self.protocol](self.source.address).value,
            f"dl_src={self.source_mac}",
            f"dl_dst={self.destination_mac}",
            f"{network}_src={self.source.address}",
            f"{network}_dst={self.destination.address}",
        ]
        if self.protocol == "icmp":
            kind = "icmp" if version == 4 else "icmpv6"
            terms += [f"{kind}_type={_ECHO[version, self.reply]}", f"{kind}_code=0"]
        else:
            terms += [
                f"{self.protocol}_src={self.source.port}",
                f"{self.protocol}_dst={self.destination.port}",
            ]
        if self.protocol == "tcp":
            terms.append(f"tcp_flags={'syn' if self.opening else 'ack'}")
        terms += [] if self.vlan is None else [f"dl_vlan={self.vlan}"]
        terms += [f"ct_mark={mark:#x}"] if mark else []
        return ",".join(terms)


def state(packet: TracedPacket, entry: Entry | None) -> str:
    """Return the ``ct_state`` that conntrack gives a packet, in the words of ``--ct-next``.

    Without an entry every packet is new (ovs-fields(7), Connection Tracking Fields).
    """
    if entry is None:
        return "trk,new"
    back = packet.source not in (entry.opener, entry.client)
    if entry.state == "SYN_SENT" and not back:
        return "trk,new"
    return "trk,est,rpl" if back else "trk,est"
