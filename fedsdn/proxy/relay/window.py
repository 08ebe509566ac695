"""How far a connection's data may run ahead of the VM that reads them.

What a VM does not read waits in the memory of both hosts. So a connection may have only as much
under way as its paths hold, and no more than its reader has shown that it takes: one that never
reads holds ``FIRST_BYTES``. Pure code.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

from fedsdn.proxy.relay.records import RecordError

FIRST_BYTES = 1 << 17
"""What may be sent before the VM has taken anything: more than a connection's first round trips
carry (RFC 6928: ten segments), so that it delays nothing."""

_SLACK_BYTES = 1 << 20
"""What may wait beside what the paths hold: reports of what was taken come in lumps."""

_PATHS = 2
"""What was sent is reported as taken a round trip later, in which the paths are filled again."""

MOST_BYTES = 1 << 26
"""The most that one connection may have under way."""

TOTAL_BYTES = 1 << 28
"""What all connections of a worker may have under way. With more, each has ``FIRST_BYTES``."""

_SHARE = 1 / 4
"""The part of it that those of one VM may have."""


class Budget:
    """What all connections of a worker have under way together."""

    def __init__(self, total: int = TOTAL_BYTES) -> None:
        """Begin with nothing, of ``total`` bytes."""
        self._total = total
        self._used_by: Counter[Hashable] = Counter()
        self.used = 0

    def use(self, owner: Hashable, amount: int) -> None:
        """Note that the connections of ``owner`` have so many bytes more under way, or less."""
        self.used += amount
        self._used_by[owner] += amount
        if not self._used_by[owner]:
            del self._used_by[owner]

    def is_spent_for(self, owner: Hashable) -> bool:
        """Whether nothing is left of it, or of the part of ``owner``."""
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
        """Note that so many bytes are under way."""
        self._sent += amount
        self._budget.use(self._owner, amount)

    def consumed(self, amount: int) -> None:
        """Note that the VM has taken so many.

        Raises:
            RecordError: so many were not sent.

        """
        if self._consumed + amount > self._sent:
            raise RecordError(f"{amount} octets consumed that were not sent")
        self._consumed += amount
        self._budget.use(self._owner, -amount)

    def close(self) -> None:
        """Give back to the budget what will not be reported any more."""
        self._budget.use(self._owner, self._consumed - self._sent)
        self._sent = self._consumed
