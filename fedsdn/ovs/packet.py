"""Packets to be traced, as ``ofproto/trace`` reads them (ovs-vswitchd(8)). Pure code."""

from __future__ import annotations

from dataclasses import dataclass

from fedsdn.ovs.conntrack import Entry
from fedsdn.pipeline.flows import tcp
from fedsdn.socket_address import SocketAddress


@dataclass(frozen=True, slots=True)
class TracedPacket:
    """A TCP segment that comes in at a port of the bridge. ``vlan`` is its tag, if it has one."""

    in_port: str
    source: SocketAddress
    destination: SocketAddress
    source_mac: str
    destination_mac: str
    opening: bool
    vlan: int | None = None

    def flow(self, mark: int) -> str:
        """Write the packet as a flow; ``mark`` is what conntrack has for its connection."""
        protocol = tcp(self.source.address).value
        network = "ipv6" if self.source.address.version == 6 else "nw"
        terms = [
            f'in_port="{self.in_port}"',
            protocol,
            f"dl_src={self.source_mac}",
            f"dl_dst={self.destination_mac}",
            f"{network}_src={self.source.address}",
            f"{network}_dst={self.destination.address}",
            f"tcp_src={self.source.port}",
            f"tcp_dst={self.destination.port}",
            f"tcp_flags={'syn' if self.opening else 'ack'}",
        ]
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
