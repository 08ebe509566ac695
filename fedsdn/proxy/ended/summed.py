"""Records of what comes by the thousand: one a second, with how many there were."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import replace

from fedsdn.proxy.ended.record import Ended, Reason

_EVERY_SECONDS = 1.0
_MOST_KEYS = 64
"""Those that have a record of their own in one second; the rest has one by reason and peer."""

_Key = tuple[Hashable, Reason, str]


class Summed:
    """Sums what ended up, and keeps one record of each kind in a second."""

    def __init__(self, keep: Callable[[Ended], None]) -> None:
        """Begin with none."""
        self._keep = keep
        self._numbers: Counter[_Key] = Counter()
        self._last: dict[_Key, Ended] = {}

    def note(self, whose: Hashable, ended: Ended) -> None:
        """Count one, together with others of the same reason, peer and ``whose``."""
        if not self._last:
            asyncio.get_running_loop().call_later(_EVERY_SECONDS, self.keep_all)
        key: _Key = whose, ended.reason, ended.peer
        if key not in self._last and len(self._last) >= _MOST_KEYS:
            key = None, ended.reason, ended.peer
        self._numbers[key] += 1
        self._last[key] = ended

    def keep_all(self) -> None:
        """Keep a record of each kind that there was."""
        for key, ended in self._last.items():
            self._keep(replace(ended, count=self._numbers[key]))
        self._numbers.clear()
        self._last.clear()
