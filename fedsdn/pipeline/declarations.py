"""Every number and name the data plane is built of, declared once.

Tables start at 100: Neutron cleans flows with unknown cookies in its own tables (0, 1, 2, 3, 80,
87, 90 and 91), so only the hook lives there.
"""

from __future__ import annotations

from enum import IntEnum
from zlib import crc32

from fedsdn.config import reserved
from fedsdn.config.model import Site, Uplink

CT_ZONE = 0xFED5
"""Conntrack zone of federated connections. Neutron hands zones out from 1 upwards."""


class Table(IntEnum):
    """The tables, in the order in which a packet can meet them."""

    HOOK = 0
    """Shared with the bridge's other owners: sends on to us what may be ours."""
    UPLINK = 100
    """Frames from an uplink: to the proxy from peers, to the host, and to nobody else."""
    WAN = 105
    """Frames from the proxy to an uplink: only with the uplink's own address."""
    TENANT = 110
    """TCP and ICMP towards another site's prefix: tracked if it comes from one of ours."""
    TENANT_STATE = 115
    """Tracked packets from a tenant: the direction of their connection picks the proxy port."""
    TENANT_SYN = 117
    """A tenant's SYN or SYN-ACK on a connection that is known to be inbound."""
    SOCKSIFIER = 120
    """Frames from the socksifier: answers to connections that our VMs opened."""
    SOCKSIFIER_STATE = 125
    """Tracked answers from the socksifier, on their way to a VM."""
    SERVER = 130
    """Frames from the SOCKS server: connections that peers' VMs opened to ours."""
    RESTORE = 132
    """First segments from the SOCKS server's own address: each gets its client's address back."""
    RESTORED = 133
    """The same with the client's address: on to the VM, if it is the one that was asked for."""
    SERVER_STATE = 135
    """Tracked packets from the SOCKS server, on their way to a VM."""
    TO_SOCKSIFIER = 140
    """Delivery to the socksifier's port: untagged, to its link-layer address."""
    TO_SERVER = 145
    """Delivery to the SOCKS server's port: untagged, to its link-layer address."""


class CtMark(IntEnum):
    """Direction in which a connection was opened, kept as ``ct_mark`` in ``CT_ZONE``."""

    OUTBOUND = 0x1
    """By a VM of this site: its packets belong to the socksifier."""
    INBOUND = 0x2
    """By a VM of a peer: its packets belong to the SOCKS server."""


class HookPriority(IntEnum):
    """Priorities of our flows in table 0; Neutron's own flows there stay below 10."""

    NOBODYS_VLAN = 35000
    """Frames with the tag of no VLAN."""
    PORT = 30000
    """Frames from the uplinks' and the proxy's ports."""
    PREFIX = 20000
    """Frames to another site's prefix."""
    MISS = 0
    """The table-miss flow, where fedsdn is to install it."""


class Feature(IntEnum):
    """The files of this package that make flows, as written into a flow's cookie."""

    UPLINKS = 1
    TENANTS = 2
    PROXY_PORTS = 3
    TABLE_MISS = 4
    RESTORE = 5
    HOST = 6


RESTORE_SECONDS = 3
"""How long the bridge keeps the flows that restore one connection's client address: enough for two
first segments, sent a second apart (RFC 6298, section 2)."""

COOKIE_OWNER = 0xFED5 << 48
"""Upper 16 bits of the cookie of every flow of ours."""

COOKIE_OWNER_MASK = 0xFFFF << 48
"""What to ask a bridge with. Others' flows may have these bits too: which of the answers are ours,
``cookie.origin`` says."""

SOCKSIFIER_PORT = reserved.SOCKSIFIER_PORT
"""Port of the bridge, and interface of the proxy's namespace, that takes outbound connections."""

SERVER_PORT = reserved.SERVER_PORT
"""Port of the bridge, and interface of the proxy's namespace, of inbound connections."""


NOBODYS_VLAN = 4095
"""Trunks of this VLAN alone are the ports that NORMAL is kept off: no frame may carry it (IEEE
802.1Q, table 9-2), and one that does is dropped."""

LOCAL_PORT = "LOCAL"
"""The bridge's own port (ovs-fields(7), ``in_port``): the interface that the host has on it."""

PROXY_NAMESPACE = "fedsdn"
"""Name of the network namespace in which the proxy runs."""


def wan_port(uplink: Uplink) -> str:
    """Name of the port, and of the namespace's interface, that holds the uplink's address."""
    return f"{reserved.WAN_PORT_PREFIX}{uplink.name}"


def port_mac(site: Site, port: str) -> str:
    """Link-layer address of the namespace's interface behind ``port``.

    Derived from the names, so that pipeline and site set-up agree without asking each other;
    locally administered and unicast (RFC 9542, section 2.1).
    """
    digest = crc32(f"{site.name}/{port}".encode())
    octets = (0x02, 0xFE, *digest.to_bytes(4, "big"))
    return ":".join(f"{octet:02x}" for octet in octets)


class SocketMark(IntEnum):
    """Packet and socket marks inside the proxy's namespace (``SO_MARK``, ``meta mark``)."""

    LOCAL = 0x1
    """Deliver to a local socket although the destination address is somebody else's."""
    SOCKSIFIER = 0x2
    """Sockets towards the VMs that opened a connection."""
    SERVER = 0x3
    """Sockets towards the VMs that a peer's VM connects to."""


SOCKSIFIER_LISTEN_PORT = reserved.SOCKSIFIER_LISTEN_PORT
"""TCP port, inside the namespace only, to which TPROXY hands outbound connections."""
