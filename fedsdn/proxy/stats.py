"""What the proxy counts, in memory that all its processes share."""

from __future__ import annotations

import logging
import mmap
from enum import IntEnum, auto

from fedsdn.proxy.policy import Refusal

_LOG = logging.getLogger(__name__)


class Counter(IntEnum):
    """What is counted, per worker. ``*_OPEN`` go up and down, the rest only up."""

    OUTBOUND = 0
    """Connections that VMs of this site opened."""
    OUTBOUND_OPEN = auto()
    OUTBOUND_FAILED = auto()
    """Of those, connections that the peer refused or no path carried."""
    INBOUND = auto()
    """Connections that peers' VMs opened to VMs of this site."""
    INBOUND_OPEN = auto()
    INBOUND_FAILED = auto()
    """Of those, connections that the VM refused or did not answer."""
    BYTES_SENT = auto()
    """Bytes handed to peers."""
    BYTES_RECEIVED = auto()
    """Bytes taken from peers."""
    FALLBACKS = auto()
    """Connections between sites that are plain TCP instead of Multipath TCP."""
    REFUSED_NOT_A_PEER = auto()
    REFUSED_FOREIGN_CLIENT = auto()
    REFUSED_FOREIGN_DESTINATION = auto()
    REFUSED_UNFEDERATED = auto()
    REFUSED_PROTOCOL = auto()
    """Connections that did not speak our SOCKS, or not in time."""


_WORD = 8


class Statistics:
    """A row of counters for each worker; made before the workers, seen by all of them."""

    def __init__(self, workers: int) -> None:
        """Make the shared memory, all zero."""
        self._rows = workers
        self._words = memoryview(mmap.mmap(-1, workers * len(Counter) * _WORD)).cast("q")

    def row(self, worker: int) -> WorkerStatistics:
        """Return the counters that the worker with this number may change."""
        start = worker * len(Counter)
        return WorkerStatistics(self._words[start : start + len(Counter)])

    def forget_open(self, worker: int) -> None:
        """Set a dead worker's open connections to none: they ended with it."""
        row = self.row(worker)
        for counter in (Counter.OUTBOUND_OPEN, Counter.INBOUND_OPEN):
            row.add(counter, -row.value(counter))

    def totals(self) -> dict[str, int]:
        """Return the number of workers and their sums, by the counter's name in lower case."""
        rows = [self.row(worker) for worker in range(self._rows)]
        totals = {
            counter.name.lower(): sum(row.value(counter) for row in rows) for counter in Counter
        }
        return {"workers": self._rows, **totals}


class WorkerStatistics:
    """One worker's counters."""

    def __init__(self, words: memoryview[int]) -> None:
        """Count in ``words``, one for each ``Counter``."""
        self._words = words
        self._said: set[tuple[str, str]] = set()

    def add(self, counter: Counter, amount: int = 1) -> None:
        """Add to a counter."""
        self._words[counter] += amount

    def value(self, counter: Counter) -> int:
        """Return what a counter stands at."""
        return self._words[counter]

    def refused(self, counter: Counter, who: str, refusal: Refusal) -> None:
        """Count a refusal; log it once for each peer and reason."""
        self.add(counter)
        self.say_once(who, f"refused: {refusal.reason}")

    def say_once(self, who: str, what: str) -> None:
        """Log ``what`` about ``who``, but not again."""
        if (who, what) not in self._said:
            self._said.add((who, what))
            _LOG.warning("%s: %s (said once; see 'fedsdn proxy stats')", who, what)
