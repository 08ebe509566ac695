"""SYNs that nobody is asked for because there are too many: a flood leaves a record a second."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from fedsdn.channel.connection import Direction
from fedsdn.proxy.ended.record import Ended, Reason, Who
from fedsdn.socket_address import SocketAddress

_EVERY_SECONDS = 1.0
_MOST_VMS = 64
"""The VMs that have a record of their own in one second; the rest has one for all."""


class Overload:
    """Counts the SYNs of each VM, and keeps one record of them in a second."""

    def __init__(self, keep: Callable[[Ended], None]) -> None:
        """Begin with none."""
        self._keep = keep
        self._numbers: Counter[object] = Counter()
        self._last: dict[object, Ended] = {}

    def note(self, client: SocketAddress, destination: SocketAddress) -> None:
        """Count one."""
        if not self._last:
            asyncio.get_running_loop().call_later(_EVERY_SECONDS, self._keep_all)
        known = client.address in self._last or len(self._last) < _MOST_VMS
        owner = client.address if known else None
        self._numbers[owner] += 1
        self._last[owner] = Ended(
            *(Reason.UNASKED, Who.HERE, Direction.OUTBOUND),
            client=client,
            destination=destination,
            detail="too many SYNs are held or connections carried",
        )

    def _keep_all(self) -> None:
        for owner, ended in self._last.items():
            self._keep(replace(ended, count=self._numbers[owner]))
        self._numbers.clear()
        self._last.clear()
