"""How much of a connection's data may be in flight between the two proxies.

What a VM does not read waits in the memory of both hosts. So a connection may have in flight what
its paths hold, and no more than its reader has consumed so far: for a VM that never reads that is
``FIRST_BYTES``. Pure code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

from fedsdn.proxy.relay.records import RecordError

FIRST_BYTES = 1 << 17
"""What may be sent before the VM has consumed anything: more than the first round trips of a
connection carry (RFC 6928: ten segments), so that it delays nothing."""

_SLACK_BYTES = 1 << 20
"""What may be in flight beyond what the paths hold: CONSUMED comes in steps."""

_PATHS = 2
"""CONSUMED arrives a round trip after the data, and the paths are filled again meanwhile."""

MOST_BYTES = 1 << 26
"""The most that one connection may have in flight."""

TOTAL_BYTES = 1 << 28
"""What all connections of a worker may have in flight. Beyond that each has ``FIRST_BYTES``."""

_SHARE = 1 / 4
"""The part of it for the connections of one VM."""


class Budget:
    """What all connections of a worker have in flight together."""

    def __init__(self, total: int = TOTAL_BYTES) -> None:
        """Begin with nothing, of ``total`` bytes."""
        self._total = total
        self._used_by: Counter[Hashable] = Counter()
        self.used = 0

    def use(self, owner: Hashable, amount: int) -> None:
        """Note that the connections of ``owner`` have so many more bytes in flight, or fewer."""
        self.used += amount
        self._used_by[owner] += amount
        if not self._used_by[owner]:
            del self._used_by[owner]

    def is_spent_for(self, owner: Hashable) -> bool:
        """Whether the budget is used up, or the share of ``owner``."""
        return self.used >= self._total or self._used_by[owner] >= self._total * _SHARE


class Window:
    """How much of one connection may be sent."""

    def __init__(self, budget: Budget, owner: Hashable) -> None:
        """Begin a connection; ``owner`` is the VM that sends on it."""
        self._budget = budget
        self._owner = owner
        self._sent = 0
        self._consumed = 0
        self.paths_hold = 0
        """How many bytes the paths hold; 0 while that is not known."""

    @property
    def room(self) -> int:
        """How many bytes may be sent now."""
        limit = FIRST_BYTES
        if not self._budget.is_spent_for(self._owner):
            limit = min(limit + self._consumed, MOST_BYTES)
            if self.paths_hold:
                limit = min(limit, max(FIRST_BYTES, _PATHS * self.paths_hold + _SLACK_BYTES))
        return max(0, limit - (self._sent - self._consumed))

    def sent(self, amount: int) -> None:
        """Note that so many bytes were sent."""
        self._sent += amount
        self._budget.use(self._owner, amount)

    def consumed(self, amount: int) -> None:
        """Note that the VM has consumed so many.

        Raises:
            RecordError: so many were not sent.

        """
        if self._consumed + amount > self._sent:
            raise RecordError(f"{amount} octets consumed that were not sent")
        self._consumed += amount
        self._budget.use(self._owner, -amount)

    def close(self) -> None:
        """Give back to the budget what will not be consumed any more."""
        self._budget.use(self._owner, self._consumed - self._sent)
        self._sent = self._consumed
