"""How far a connection's data may run ahead of the VM that reads them.

What a VM does not read waits in the memory of both hosts. So a connection may have only as much
under way as its paths hold, and no more than its reader has shown that it takes: one that never
reads holds ``FIRST_BYTES``. Pure code.
"""

from __future__ import annotations

from fedsdn.proxy.records import RecordError

FIRST_BYTES = 1 << 17
"""What may be sent before the VM has taken anything: more than a connection's first round trips
carry (RFC 6928: ten segments), so that it delays nothing."""

_SLACK_BYTES = 1 << 20
"""What may wait beside what the paths hold: reports of what was taken come in lumps."""

_PATHS = 2
"""What was sent is reported as taken a round trip later, in which the paths are filled again."""

TOTAL_BYTES = 1 << 28
"""What all connections of a worker may have under way. With more, each has ``FIRST_BYTES``."""


class Budget:
    """What all connections of a worker have under way together."""

    def __init__(self, total: int = TOTAL_BYTES) -> None:
        """Begin with nothing, of ``total`` bytes."""
        self._total = total
        self.used = 0

    @property
    def spent(self) -> bool:
        """Whether there is nothing left of it."""
        return self.used >= self._total


class Window:
    """How much of one connection may be sent."""

    def __init__(self, budget: Budget) -> None:
        """Begin a connection."""
        self._budget = budget
        self._sent = 0
        self._consumed = 0
        self.paths_hold = 0
        """How many bytes the paths hold; 0 while that is not known."""

    @property
    def room(self) -> int:
        """How many bytes may be sent now."""
        limit = FIRST_BYTES
        if not self._budget.spent:
            limit += self._consumed
            if self.paths_hold:
                limit = min(limit, max(FIRST_BYTES, _PATHS * self.paths_hold + _SLACK_BYTES))
        return max(0, limit - (self._sent - self._consumed))

    def sent(self, amount: int) -> None:
        """Note that so many bytes are under way."""
        self._sent += amount
        self._budget.used += amount

    def consumed(self, amount: int) -> None:
        """Note that the VM has taken so many.

        Raises:
            RecordError: so many were not sent.

        """
        if self._consumed + amount > self._sent:
            raise RecordError(f"{amount} octets consumed that were not sent")
        self._consumed += amount
        self._budget.used -= amount

    def close(self) -> None:
        """Give back to the budget what will not be reported any more."""
        self._budget.used -= self._sent - self._consumed
        self._sent = self._consumed
