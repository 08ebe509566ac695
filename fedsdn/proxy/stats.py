"""The proxy's counters, in memory that all its processes share."""

from __future__ import annotations

import logging
import mmap
import time
from collections.abc import Iterator, Mapping
from enum import IntEnum, auto

from fedsdn.proxy.ended.record import Ended, Reason
from fedsdn.proxy.ended.ring import RINGS_BYTES, Rings

_LOG = logging.getLogger(__name__)


class Counter(IntEnum):
    """The counters of a worker. ``*_OPEN`` and ``*_HELD`` are gauges, the rest only go up."""

    OUTBOUND = 0
    """Connections of VMs of this site that peers were asked for, or were about to be."""
    OUTBOUND_OPEN = auto()
    """Connections that peers are asked for, or that are open."""
    OUTBOUND_FAILED = auto()
    """Connections that peers did not make: refused, not answered, or given up before that."""
    OUTBOUND_HELD = auto()
    """A gauge: connections whose handshake with the VM has not ended."""
    OUTBOUND_EARLY = auto()
    """Connections to known destinations: answered to the VM before they were asked for."""
    INBOUND = auto()
    """Connections from VMs of peers to VMs of this site that were allowed."""
    INBOUND_OPEN = auto()
    INBOUND_FAILED = auto()
    """Of those, connections that the VM refused or did not answer."""
    INBOUND_RESTORED = auto()
    """Connections whose client's address the bridge restores."""
    FROM_POOL = auto()
    """Requests made on a connection to the peer that was ready."""
    POOL_OPEN = auto()
    """Connections to peers that are ready for a request."""
    IDLE_OPEN = auto()
    """Connections of peers that wait for a request of theirs."""
    BYTES_SENT = auto()
    """Bytes sent to peers."""
    BYTES_RECEIVED = auto()
    """Bytes received from peers and passed on to VMs."""
    ASKED_AGAIN = auto()
    """Connections that had fallen back before anything was done; the peer repeats its request."""


_WORD = 8
_REASONS = {reason: place for place, reason in enumerate(Reason)}
_ENDED = len(Counter)
"""Behind the counters: for each reason a count, then for each the time of the last."""

_ROW = len(Counter) + 2 * len(Reason)


class Statistics:
    """The counters of all workers; made before the workers are forked."""

    def __init__(self, workers: int) -> None:
        """Make the shared memory, all zero."""
        self._rows = workers
        self.running = 0
        """Workers that run now; the parent's own figure, like the next two."""
        self.restarts = 0
        """Workers that ended by themselves, and were started again."""
        self.last_restart = 0.0
        """When the last of them ended, in Unix time; 0: none has."""
        self._words = memoryview(mmap.mmap(-1, workers * _ROW * _WORD)).cast("q")
        self._rings = memoryview(mmap.mmap(-1, workers * RINGS_BYTES))

    def row(self, worker: int) -> WorkerStatistics:
        """Return the counters that the worker with this number may change."""
        start, ring = worker * _ROW, worker * RINGS_BYTES
        return WorkerStatistics(
            worker,
            self._words[start : start + _ROW],
            Rings(self._rings[ring : ring + RINGS_BYTES]),
        )

    def _all_rows(self) -> list[WorkerStatistics]:
        return [self.row(worker) for worker in range(self._rows)]

    def forget_open(self, worker: int) -> int:
        """Set the gauges of a worker that ended to zero; return how many connections it had."""
        row = self.row(worker)
        lost = row.value(Counter.OUTBOUND_OPEN) + row.value(Counter.INBOUND_OPEN)
        for counter in Counter:
            if counter.name.endswith(("_OPEN", "_HELD")):
                row.add(counter, -row.value(counter))
        return lost

    def totals(self) -> dict[str, int]:
        """Return all figures by name.

        These are the number of workers, of running ones and of restarts; the sums of each counter;
        for each reason how many connections ended for it; when the last restart was, and the last
        end for each reason (Unix time; 0: never); and the time ``now``, to compare with.
        """
        rows = self._all_rows()
        totals = {
            counter.name.lower(): sum(row.value(counter) for row in rows) for counter in Counter
        }
        for reason in Reason:
            totals[f"ended_{reason.key}"] = sum(row.ended_for(reason) for row in rows)
        for reason in Reason:
            totals[f"last_{reason.key}"] = max(row.last_for(reason) for row in rows)
        return {
            "workers": self._rows,
            "running": self.running,
            "restarts": self.restarts,
            **totals,
            "last_restart": int(self.last_restart),
            "now": int(time.time()),
        }

    def ended(self) -> Iterator[Ended]:
        """Yield the last connections that failed or were ended by us, the oldest first."""
        found = [one for row in self._all_rows() for one in row.rings.records()]
        yield from sorted(found, key=lambda one: one.time)


class WorkerStatistics:
    """One worker's counters and records."""

    def __init__(self, number: int, words: memoryview[int], rings: Rings) -> None:
        """Count in ``words``, and keep records in ``rings``."""
        self.number = number
        self.rings = rings
        self._words = words

    def add(self, counter: Counter, amount: int = 1) -> None:
        """Add to a counter."""
        self._words[counter] += amount

    def value(self, counter: Counter) -> int:
        """Return the value of a counter."""
        return self._words[counter]

    def ended(self, ended: Ended) -> None:
        """Count a connection that failed or was ended by us, and keep its record for a while."""
        place = _ENDED + _REASONS[ended.reason]
        self._words[place] += ended.count
        self._words[place + len(Reason)] = int(ended.time)
        self.rings.put(ended)
        _LOG.debug("%s", ended)

    def ended_for(self, reason: Reason) -> int:
        """How many connections have ended for this reason."""
        return self._words[_ENDED + _REASONS[reason]]

    def last_for(self, reason: Reason) -> int:
        """When the last of them did, in Unix time; 0: none has."""
        return self._words[_ENDED + len(Reason) + _REASONS[reason]]


def counted_reasons(totals: Mapping[str, int]) -> list[tuple[Reason, int, int]]:
    """Return each reason that was counted, how often, and when last, the most frequent first."""
    found = [
        (reason, totals[f"ended_{reason.key}"], totals[f"last_{reason.key}"]) for reason in Reason
    ]
    return sorted((one for one in found if one[1]), key=lambda one: -one[1])
