"""SYNs that no peer is asked for: a flood of them leaves a record a second."""

from __future__ import annotations

from collections.abc import Callable

from fedsdn.channel.connection import Direction
from fedsdn.proxy.ended.record import Ended, Reason, Who
from fedsdn.proxy.ended.summed import Summed
from fedsdn.socket_address import SocketAddress


class Unasked:
    """Counts the SYNs of each VM, and keeps one record of them in a second."""

    def __init__(self, keep: Callable[[Ended], None]) -> None:
        """Begin with none."""
        self._summed = Summed(keep)

    def note(
        self,
        client: SocketAddress,
        destination: SocketAddress,
        reason: Reason,
        detail: str,
        peer: str = "",
    ) -> None:
        """Count one, and why; ``peer`` is empty if the destination is at none."""
        outbound = (reason, Who.HERE, Direction.OUTBOUND, peer)
        ended = Ended(*outbound, client=client, destination=destination, detail=detail)
        self._summed.note(client.address, ended)
