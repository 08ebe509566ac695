"""The ports of a bridge: what it answers when asked, and what it tells of by itself meanwhile."""

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
    """Return name and value of a port, from what the bridge says of it (``OFPPort``)."""
    down = (
        description.config & ofproto.OFPPC_PORT_DOWN or description.state & ofproto.OFPPS_LINK_DOWN
    )
    return description.name.decode(), Port(description.port_no, live=not down)


def numbers(ports: dict[str, Port]) -> dict[str, int]:
    """Return the ports' numbers, by name."""
    return {name: port.number for name, port in ports.items()}


class BridgePorts:
    """What is known of a bridge's ports, from its answers and from what it tells by itself."""

    def __init__(self, seen: PortsSeen) -> None:
        """Start with none; ``seen`` is called each time."""
        self._seen = seen
        self._ports: dict[str, Port] | None = None
        self._changes = 0

    def asking(self) -> int:
        """Return what ``answered`` is to be called with, when the bridge has answered."""
        return self._changes

    def answered(self, ports: dict[str, Port], asked: int) -> bool:
        """Take all ports; False if the bridge has told of a change since it was asked.

        Which of both is newer is not known then, and it is to be asked again.
        """
        if asked != self._changes:
            return False
        self._take(ports)
        return True

    def told(self, message: Any) -> bool:
        """Take what the bridge tells of a port (``OFPPortStatus``); True if it is to be asked.

        That is when numbers changed, or when it has not been asked yet.
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

    def _take(self, ports: dict[str, Port] | None) -> None:
        self._ports = ports
        self._seen(ports)
