"""Names and numbers that fedsdn takes for itself, so a federation file must not."""

from __future__ import annotations

SOCKSIFIER_PORT = "socksifier"
"""Port of the bridge, and interface of the proxy's namespace, that takes outbound connections."""

SERVER_PORT = "server"
"""Port of the bridge, and interface of the proxy's namespace, of inbound connections."""

WAN_PORT_PREFIX = "wan-"
"""Start of the name of the ports, and interfaces in the namespace, that hold uplink addresses."""

SOCKSIFIER_LISTEN_PORT = 1081
"""TCP port, inside the namespace only, to which TPROXY hands outbound connections."""
