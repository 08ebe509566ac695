"""The ports of a bridge, from its answers to requests and from its port-status messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from os_ken.ofproto import ofproto_v1_3 as ofproto


@dataclass(frozen=True, slots=True)
class Port:
    """A port of a bridge. It is ``live`` when it is not set down and has its carrier."""

    number: int
    live: bool


PortsSeen = Callable[[dict[str, Port] | None], None]
"""Is given all ports of the bridge, by name, whenever one may have changed.

None: the bridge has disconnected, and nothing is known of them.
"""


def port_of(description: Any) -> tuple[str, Port]:
    """Return name and value of a port from its description (``OFPPort``)."""
    down = (
        description.config & ofproto.OFPPC_PORT_DOWN or description.state & ofproto.OFPPS_LINK_DOWN
    )
    return description.name.decode(errors="replace"), Port(description.port_no, live=not down)


def numbers(ports: dict[str, Port]) -> dict[str, int]:
    """Return the ports' numbers, by name."""
    return {name: port.number for name, port in ports.items()}


class BridgePorts:
    """The known ports of a bridge, from answers and port-status messages."""

    def __init__(self, seen: PortsSeen) -> None:
        """Start with none; ``seen`` is called each time."""
        self._seen = seen
        self._ports: dict[str, Port] | None = None
        self._changes = 0

    @property
    def known(self) -> dict[str, Port] | None:
        """All ports by name; None as long as nothing is known of them."""
        return self._ports

    def asking(self) -> int:
        """Return what ``answered`` is to be called with, when the bridge has answered."""
        return self._changes

    def answered(self, ports: dict[str, Port], asked: int) -> bool:
        """Take all ports; False if a port-status message has come since the request.

        Which of the two is newer is unknown then, and the request must be repeated.
        """
        if asked != self._changes:
            return False
        self._take(ports)
        return True

    def changed(self, message: Any) -> bool:
        """Take a port-status message (``OFPPortStatus``); True if flows must be compared.

        That is when port numbers changed, or when the bridge has not answered a request yet.
        """
        name, port = port_of(message.desc)
        self._changes += 1
        before = self._ports
        if before is None:
            return True
        ports = {known: seen for known, seen in before.items() if known != name}
        if message.reason != ofproto.OFPPR_DELETE:
            ports[name] = port
        self._take(ports)
        return numbers(ports) != numbers(before)

    def forget(self) -> None:
        """Note that the bridge has disconnected."""
        self._changes += 1
        self._take(None)

    def doubt(self) -> None:
        """Say that nothing is known of the ports for now; what is known is kept."""
        self._seen(None)

    def trust(self) -> None:
        """Say again what is known of the ports."""
        self._seen(self._ports)

    def _take(self, ports: dict[str, Port] | None) -> None:
        self._ports = ports
        self._seen(ports)
