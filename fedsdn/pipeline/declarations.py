"""Every number and name the data plane is built of, declared once.

Tables start at 100: Neutron cleans rows with unknown cookies in its own tables (0, 1, 2, 3, 80,
87, 90 and 91), so only the hook lives there.
"""

from __future__ import annotations

from enum import IntEnum
from zlib import crc32

from fedsdn.config.model import Site, Uplink

SOCKSIFIER_PORT = "socksifier"
"""Port of the bridge, and interface of the proxy's namespace, that takes outbound connections."""

SERVER_PORT = "server"
"""Port of the bridge, and interface of the proxy's namespace, of inbound connections."""


def wan_port(uplink: Uplink) -> str:
    """Name of the port, and of the namespace's interface, that holds the uplink's address."""
    return f"wan-{uplink.name}"


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


SOCKSIFIER_LISTEN_PORT = 1081
"""TCP port, inside the namespace only, to which TPROXY hands outbound connections."""
