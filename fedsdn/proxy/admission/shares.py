"""A limited number of places, of which no owner can take all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

Owner = Hashable
"""Who is counted together: a VM's address, or a peer's name."""


class Shares:
    """So many places, counted by owner."""

    def __init__(self, most: int) -> None:
        """Begin with all places free."""
        self.most = most
        self.taken = 0
        self.held: Counter[Owner] = Counter()
        """Places by owner."""

    def full(self) -> bool:
        """Whether there is no place left, for any owner."""
        return self.taken >= self.most

    def allow(self, owner: Owner, share: float = 1.0) -> bool:
        """Whether ``owner`` may have one more.

        Once ``share`` of all places are taken, the rest is only for owners that hold less than an
        equal part, counted as if there were one more owner.
        """
        if self.taken < self.most * share:
            return True
        return not self.full() and self.held[owner] < self.most / (len(self.held) + 1)

    def take(self, owner: Owner) -> None:
        """Take a place, allowed or not."""
        self.taken += 1
        self.held[owner] += 1

    def give_back(self, owner: Owner) -> None:
        """Give a place back."""
        self.taken -= 1
        self.held[owner] -= 1
        if not self.held[owner]:
            del self.held[owner]
