"""What is due when: a heap, in which what is moved leaves its old place behind."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush


class Agenda:
    """What is due when, for whom; of several moments for one the last that was noted counts."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._heap: list[tuple[float, int, str]] = []
        self._when: dict[str, tuple[float, int]] = {}
        self._number = 0

    def note(self, name: str, when: float) -> None:
        """Note when something is due for ``name``; never if that is infinite."""
        known = self._when.get(name)
        if known is not None and known[0] == when:
            return
        self._number += 1
        self._when[name] = when, self._number
        if when < float("inf"):
            heappush(self._heap, (when, self._number, name))

    def forget(self, name: str) -> None:
        """Note that nothing is due for ``name`` any more."""
        self._when.pop(name, None)

    def pop(self, now: float) -> Iterator[str]:
        """Yield what is due by now."""
        while self.next() <= now:  # what is noted meanwhile counts, too
            _, _, name = heappop(self._heap)
            del self._when[name]
            yield name

    def next(self) -> float:
        """Return when something is due next."""
        while self._heap:
            when, number, name = self._heap[0]
            if self._when.get(name) == (when, number):
                return when
            heappop(self._heap)
        return float("inf")
