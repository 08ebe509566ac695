"""SYNs that no peer is asked for: a flood of them leaves a record a second."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from fedsdn.channel.connection import Direction
from fedsdn.config.model import Address
from fedsdn.proxy.ended.record import Ended, Reason, Who
from fedsdn.socket_address import SocketAddress

_EVERY_SECONDS = 1.0
_MOST_VMS = 64
"""The VMs that have a record of their own in one second; the rest has one for each peer."""

_Key = tuple[Address | None, Reason, str]


class Unasked:
    """Counts the SYNs of each VM, and keeps one record of them in a second."""

    def __init__(self, keep: Callable[[Ended], None]) -> None:
        """Begin with none."""
        self._keep = keep
        self._numbers: Counter[_Key] = Counter()
        self._last: dict[_Key, Ended] = {}

    def note(
        self,
        client: SocketAddress,
        destination: SocketAddress,
        reason: Reason,
        detail: str,
        peer: str = "",
    ) -> None:
        """Count one, and why; ``peer`` is empty if the destination is at none."""
        if not self._last:
            asyncio.get_running_loop().call_later(_EVERY_SECONDS, self._keep_all)
        key: _Key = client.address, reason, peer
        if key not in self._last and len(self._last) >= _MOST_VMS:
            key = None, reason, peer
        self._numbers[key] += 1
        self._last[key] = Ended(
            *(reason, Who.HERE, Direction.OUTBOUND, peer),
            client=client,
            destination=destination,
            detail=detail,
        )

    def _keep_all(self) -> None:
        for key, ended in self._last.items():
            self._keep(replace(ended, count=self._numbers[key]))
        self._numbers.clear()
        self._last.clear()
