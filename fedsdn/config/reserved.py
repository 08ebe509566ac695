"""Names and numbers that are fedsdn's own, and may not be in a federation file."""

from __future__ import annotations

SOCKSIFIER_PORT = "socksifier"
"""Port of the bridge, and interface of the proxy's namespace, of outbound connections."""

SERVER_PORT = "server"
"""Port of the bridge, and interface of the proxy's namespace, of inbound connections."""

ROUTER_PORT = "router"
"""Port of the bridge, and interface of the proxy's namespace, of all that is IP and not TCP."""

WAN_PORT_PREFIX = "wan-"
"""Prefix of the names of ports, and of interfaces in the namespace, with an uplink's address."""

MOST_UPLINKS = 8
"""Uplinks that one site may have at most."""

TUNNEL_PORTS = MOST_UPLINKS * MOST_UPLINKS + 1
"""So many UDP ports the tunnels between sites have, from ``datagrams.port`` upwards."""

MOST_WORKERS = 64
"""Processes that one proxy may have at most."""

SOCKSIFIER_LISTEN_PORTS = range(1081, 1081 + MOST_WORKERS)
"""TCP ports inside the proxy's namespace to which TPROXY redirects outbound connections: one for
each worker."""
