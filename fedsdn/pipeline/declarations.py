"""The numbers and names of the data plane, each declared once.

Tables start at 100: Neutron cleans flows with unknown cookies in its own tables (0, 1, 2, 3, 80,
87, 90 and 91), so only the hook lives there.
"""

from __future__ import annotations

import re
from enum import IntEnum
from zlib import crc32

from fedsdn.config import reserved
from fedsdn.config.model import DYNAMIC, Site, Uplink

CT_ZONE = 0xFED5
"""Conntrack zone of federated connections. Neutron hands zones out from 1 upwards."""


class Table(IntEnum):
    """The tables, in the order in which a packet can meet them."""

    HOOK = 0
    """Shared with the bridge's other owners: sends federated packets on to our tables."""
    UPLINK = 100
    """Frames from an uplink: to the proxy from peers, to the host, and to nobody else."""
    WAN = 105
    """Frames from the proxy to an uplink: only with the uplink's own address."""
    REMOTE = 106
    """IP: on to NETWORK if to a remote prefix, else back to 0."""
    NETWORK = 107
    """What is to a remote prefix: on to TENANT if of the provider network, else back to 0."""
    TENANT = 110
    """The network's own: TCP from a local prefix is tracked, all else from there is a datagram."""
    DATAGRAM = 112
    """What is not TCP: ICMP errors are looked up, as they may be about a connection."""
    TENANT_STATE = 115
    """Tracked packets from a tenant: the direction of their connection picks the proxy port."""
    TENANT_SYN = 117
    """A tenant's SYN or SYN-ACK on an inbound connection."""
    ROUTED = 118
    """Datagrams of no connection: to the router, unless the peer carries TCP alone."""
    SOCKSIFIER = 120
    """Frames from the socksifier: replies on outbound connections."""
    SOCKSIFIER_STATE = 125
    """Tracked replies from the socksifier to a VM."""
    SERVER = 130
    """Frames from the SOCKS server: inbound connections."""
    RESTORE = 132
    """SYNs from the SOCKS server's own address: translated to the client's address."""
    RESTORED = 133
    """Translated SYNs: on to the VM, if the client is the requested one."""
    SERVER_STATE = 135
    """Tracked packets from the SOCKS server to a VM."""
    ROUTER = 137
    """Frames from the router: datagrams of peers' VMs, and the proxy's own ICMP errors."""
    ROUTER_TO_VM = 138
    """Datagrams of peers' VMs: on to the VM, if it is in a local prefix."""
    TO_SOCKSIFIER = 140
    """Delivery to the socksifier's port: untagged, to its link-layer address."""
    TO_SERVER = 145
    """Delivery to the SOCKS server's port: untagged, to its link-layer address."""
    TO_BOTH = 150
    """Delivery of what conntrack does not know to both ports, to their group addresses."""
    TO_ROUTER = 155
    """Delivery to the router's port: untagged, to its link-layer address."""


HANDED_BACK_REGISTER = "reg15"
"""Register of a frame that is 1 when it has been handed back to ``HOOK``, else 0.

Neutron's flows on provider bridges have no registers. Every flow of ours in ``HOOK`` matches it, so
that none is the same as another owner's, and none replaces one (OpenFlow 1.3.5, section 6.4).
"""


class CtMark(IntEnum):
    """Direction in which a connection was opened, kept as ``ct_mark`` in ``CT_ZONE``."""

    OUTBOUND = 0x1
    """By a VM of this site: carried by the socksifier."""
    INBOUND = 0x2
    """By a peer's VM: carried by the SOCKS server."""


class HookPriority(IntEnum):
    """Priorities of our flows in table 0; Neutron's own flows there stay below 10."""

    NOBODYS_VLAN = 35000
    """Frames with the reserved VLAN tag."""
    PORT = 30000
    """Frames from the uplinks' and the proxy's ports."""
    TENANT = 20000
    """IP that is not the uplinks' or the proxy's."""
    MISS = 0
    """The table-miss flow, where fedsdn installs it."""


class Feature(IntEnum):
    """The features, one file of this package each, as numbered in cookies."""

    UPLINKS = 1
    TENANTS = 2
    PROXY_PORTS = 3
    TABLE_MISS = 4
    RESTORE = 5
    HOST = 6
    NETWORK = 7
    DATAGRAMS = 8


RESTORE_SECONDS = 3
"""Hard time-out of the flows that restore one connection's source, in seconds: enough for a SYN and
its first retransmission, a second apart (RFC 6298, section 2)."""

COOKIE_OWNER = 0xFED5 << 48
"""Upper 16 bits of the cookie of every flow of ours."""

COOKIE_OWNER_MASK = 0xFFFF << 48
"""Cookie mask for requests to a bridge. Flows of others may match it too: ``cookie.origin`` decides
which are ours."""

SOCKSIFIER_PORT = reserved.SOCKSIFIER_PORT
"""Bridge port, and interface in the proxy's namespace, of outbound connections."""

SERVER_PORT = reserved.SERVER_PORT
"""Bridge port, and interface in the proxy's namespace, of inbound connections."""

ROUTER_PORT = reserved.ROUTER_PORT
"""Bridge port, and interface in the proxy's namespace, of what is IP and not TCP: routed by the
kernel, through the tunnels to the peers."""


NOBODYS_VLAN = 4095
"""Uplinks' ports are trunks of this VLAN alone, which keeps NORMAL off them: no frame may carry it
(IEEE 802.1Q, table 9-2), and one that does is dropped."""

LOCAL_PORT = "LOCAL"
"""The bridge's local port (ovs-fields(7), ``in_port``): the host's interface."""

PROXY_NAMESPACE = "fedsdn"
"""Name of the proxy's network namespace."""


def wan_port(uplink: Uplink) -> str:
    """Name of the bridge port, and of the namespace's interface, behind which the proxy is.

    The interface holds the uplink's address.
    """
    return f"{reserved.WAN_PORT_PREFIX}{uplink.name}"


def tunnel_name(uplink: Uplink, number: int) -> str:
    """Name of the WireGuard interface from an uplink to peers' uplinks of a number (from 1)."""
    return f"t{number}-{uplink.name}"


def plain_tunnel_name(identifier: int) -> str:
    """Name of the VXLAN interface with this network identifier."""
    return f"v-{identifier:06x}"


def is_tunnel_name(interface: str) -> bool:
    """Whether an interface is called as only tunnels are."""
    return _TUNNEL_NAME.match(interface) is not None


_TUNNEL_NAME = re.compile(r"t[1-9]-.+|v-[0-9a-f]{6}$")


def port_mac(site: Site, port: str) -> str:
    """Link-layer address of the namespace's interface behind ``port``.

    An uplink's is the one that the federation file has for it, if any. Otherwise it is derived from
    the names, so that pipeline, site set-up and the neighbours on the link agree; locally
    administered and unicast (RFC 9542, section 2.1).
    """
    for uplink in site.uplinks:
        if wan_port(uplink) == port and uplink.mac not in {None, DYNAMIC}:
            return str(uplink.mac)
    digest = crc32(f"{site.name}/{port}".encode())
    octets = (0x02, 0xFE, *digest.to_bytes(4, "big"))
    return ":".join(f"{octet:02x}" for octet in octets)


GROUP_BIT = "01:00:00:00:00:00"
"""Of a link-layer address: it is a group's (IEEE 802, section 8.2)."""


def group_mac(site: Site, port: str) -> str:
    """Link-layer address of the interface behind ``port`` for what conntrack does not know.

    The proxy's namespace answers it only if it has a socket for it.
    """
    return "03" + port_mac(site, port)[2:]


class SocketMark(IntEnum):
    """Packet and socket marks inside the proxy's namespace (``SO_MARK``, ``meta mark``)."""

    LOCAL = 0x1
    """Deliver locally, though the destination address is foreign."""
    SOCKSIFIER = 0x2
    """The socksifier's sockets towards VMs."""
    SERVER = 0x3
    """The SOCKS server's sockets towards VMs."""
    HELD = 0x4
    """A VM's SYN, or what ends its connection: to the workers, which hold it."""
    ROUTED = 0x5
    """A datagram from a VM or a tunnel, and what the kernel itself answers to one."""


LEG_MARK = SocketMark.SOCKSIFIER & SocketMark.SERVER
LEG_MASK = 0xFFFFFFFF & ~(SocketMark.SOCKSIFIER ^ SocketMark.SERVER)
"""Both ``SOCKSIFIER`` and ``SERVER``, and no other mark."""


HELD_DEVICE = "held"
"""TUN device of the proxy's namespace by which workers get what is marked ``HELD``."""

MOST_SYNS_PER_SECOND = 2000
MOST_SYNS_AT_ONCE = 400
"""What one VM may send to ``HELD_DEVICE``, whose queue has room for 500 (``TUN_READQ_SIZE``, kernel
drivers/net/tun.c)."""

MOST_SENDERS = 1 << 16
SENDERS_SECONDS = 10
"""VMs whose rate is known, and for how long after their last packet; whoever finds no room among
them is not limited."""

MOST_FLOWS_PER_SECOND = 500
MOST_FLOWS_AT_ONCE = 16000
MOST_BEGINNERS = 1 << 12
SHARED_FLOWS_PER_SECOND = 500
"""What one VM may begin of flows that are not TCP, and what all those may together that begin more
or find no room among the VMs whose rate is known: the kernel keeps some hundred thousand
(``nf_conntrack_max``), for 30 seconds after the last packet, or two minutes (RFC 6092, REC-14).
Living flows are not counted: ``ct count`` looks at every flow of the VM for each new one, 0.6 ms
with 10,000."""

MOST_ERRORS_PER_SECOND = 100
"""ICMP errors about flows that the rules have not judged yet."""

MOST_HEARD = 1 << 12
HEARD_SECONDS = 300
"""VMs of this site that have sent datagrams: so many, and so long after the last one."""

MOST_AWAITED = 256
AWAITED_SECONDS = 10
AWAITED_PER_SECOND = 8
AWAITED_AT_ONCE = 32
"""So many other addresses of this site may be sent to from tunnels at a time, of each family, how
long each counts, and how many more one sender may send to. The kernel takes each up as a neighbour,
be it there or not; its table has room for 1,024 and is the whole host's."""

MOST_REFUSALS_PER_SECOND = 50
MOST_REFUSALS_AT_ONCE = 50
"""What one VM is told of flows that no rule allows; the kernel tells all together no more than a
thousand times a second (``icmp_msgs_per_sec``)."""

ERROR_MILLISECONDS = 1000 // MOST_REFUSALS_PER_SECOND
"""Between two ICMP errors to one VM, on average: it may have six at once. The kernel's tick may be
of 10 ms."""

MOST_STRANGERS = 64
STRANGERS_SECONDS = 60
STRANGERS_PER_SECOND = 2
"""So many who are no peers the kernel takes up as neighbours on the uplinks at a time, of each kind
(``site.nft_questions``), how long each counts, and how many more of IPv6 in a second. Its table has
room for 1,024, and is the whole host's; it forgets them after a minute or more."""

MOST_WORKERS = reserved.MOST_WORKERS

SOCKSIFIER_LISTEN_PORTS = reserved.SOCKSIFIER_LISTEN_PORTS
"""TPROXY's targets: the socksifier's TCP ports by worker, inside the namespace only."""

FIRST_HANDED_IN_MARK = 0x100
HANDED_IN_MASK = 0xFFFFFFFF & ~(MOST_WORKERS - 1)


def handed_in_mark(worker: int) -> int:
    """Packet mark of a held SYN that the worker hands to its own listening port."""
    return FIRST_HANDED_IN_MARK + worker


_FIRST_CLASS_MARK = 0x200
_ECN_BITS = 2

TRAFFIC_CLASSES = range(1 << _ECN_BITS, 1 << 8, 1 << _ECN_BITS)
"""The traffic classes that are not the default: DSCP in the upper six bits (RFC 2474)."""


def traffic_class_mark(traffic_class: int) -> int:
    """Packet mark of what goes to a peer with a traffic class; none for the default."""
    return _FIRST_CLASS_MARK + codepoint(traffic_class) if traffic_class else 0


def codepoint(traffic_class: int) -> int:
    """Return the DSCP of a traffic class."""
    return traffic_class >> _ECN_BITS


FIRST_UPLINK_TABLE = 201
"""Routing table of what leaves by a site's first uplink; the next ones have the next numbers."""

ROUTER_TABLE = 300
"""Routing table of what is ``ROUTED`` to the site's own prefixes, behind ``ROUTER_PORT``."""

TUNNELS_TABLE = 301
"""Routing table of what is ``ROUTED`` elsewhere: to each peer's prefix, over the tunnels of live
paths. The application's alone: ``site up`` neither fills it nor compares it."""

_FIRST_TUNNEL_MARK = 0x300


def tunnel_mark(uplink: int) -> int:
    """Packet mark of what tunnels send by a site's uplink, counted from 0 in the file's order."""
    return _FIRST_TUNNEL_MARK + uplink


_CT_SLOT_BITS = 7
_CT_SLOT = (1 << _CT_SLOT_BITS) - 1
CT_SENT_MASK = _CT_SLOT
"""Bits of a flow's mark, inside the proxy's namespace: the tunnel that it was sent by last."""
CT_RECEIVED_MASK = _CT_SLOT << _CT_SLOT_BITS
"""Likewise, the tunnel that it came by last."""
CT_POLICY_MASK = 0xFFFFFFFF & ~(CT_SENT_MASK | CT_RECEIVED_MASK)
"""Likewise, the rules that it was judged by: with others it is judged again."""


def ct_sent_mark(slot: int) -> int:
    """Return what ``CT_SENT_MASK`` has for a tunnel, by its slot (``tunnels.plan``)."""
    return slot + 1


def ct_received_mark(slot: int) -> int:
    """Return what ``CT_RECEIVED_MASK`` has for a tunnel, by its slot."""
    return slot + 1 << _CT_SLOT_BITS


def ct_policy_mark(digest: int) -> int:
    """Return what ``CT_POLICY_MASK`` has for rules with a digest of 32 bits; never 0."""
    return digest & CT_POLICY_MASK or CT_POLICY_MASK


def ct_tunnel_sent(mark: int) -> int | None:
    """Return the slot of the tunnel that a flow was sent by last; None if by none yet."""
    slot = mark & CT_SENT_MASK
    return slot - 1 if slot else None


def ct_tunnel_received(mark: int) -> int | None:
    """Return the slot of the tunnel that a flow came by last; None if by none yet."""
    slot = (mark & CT_RECEIVED_MASK) >> _CT_SLOT_BITS
    return slot - 1 if slot else None
