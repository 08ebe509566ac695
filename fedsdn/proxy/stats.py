"""The proxy's counters, in memory that all its processes share."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum, auto

from fedsdn.pipeline.declarations import MOST_WORKERS
from fedsdn.proxy.ended.by_peer import TABLE_BYTES, ByPeer, Refused, summed
from fedsdn.proxy.ended.record import REFUSALS, Ended, Reason
from fedsdn.proxy.ended.ring import RINGS_BYTES, Rings
from fedsdn.proxy.memory import Memory, octets

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
    HANDSHAKES = auto()
    """TLS handshakes with peers that ended well, whoever has called."""
    RESUMED = auto()
    """Those of them that resumed a session, and so cost less."""
    BYTES_SENT = auto()
    """Bytes sent to peers."""
    BYTES_RECEIVED = auto()
    """Bytes received from peers and passed on to VMs."""
    ASKED_AGAIN = auto()
    """Connections that had fallen back before anything was done, or whose certificates counted no
    more; the peer repeats its request."""


_WORD = 8
_REASONS = {reason: place for place, reason in enumerate(Reason)}
_ENDED = len(Counter)
"""Behind the counters: for each reason a count, then for each the time of the last."""

NAMES = (
    *(counter.name.lower() for counter in Counter),
    *(f"ended_{reason.key}" for reason in Reason),
    *(f"last_{reason.key}" for reason in Reason),
)
"""The words of a worker's row."""

_ROW = len(NAMES)
_GAUGES = ("_open", "_held")
_OPEN = (Counter.OUTBOUND_OPEN.name.lower(), Counter.INBOUND_OPEN.name.lower())


class Rows:
    """A row of words for each worker; each word has one of ``names``.

    They may have been made by an earlier program, which counted other things too, or fewer.
    """

    def __init__(self, names: Iterable[str], memory: Memory | None) -> None:
        """Make the rows, or take those that ``memory`` has inherited."""
        self.names = tuple(names)
        self.words = octets(MOST_WORKERS * len(self.names) * _WORD, memory).cast("q")

    def totals(self) -> dict[str, int]:
        """Return the sum of each counter; of a time, the last."""
        row = len(self.names)
        return {
            name: (max if name.startswith("last_") else sum)(self.words[place::row])
            for place, name in enumerate(self.names)
        }

    def forget_open(self, worker: int) -> int:
        """Set the gauges of a worker that ended to zero; return how many connections it had."""
        lost, start = 0, worker * len(self.names)
        for place, name in enumerate(self.names, start):
            lost += self.words[place] if name in _OPEN else 0
            if name.endswith(_GAUGES):
                self.words[place] = 0
        return lost


class Statistics:
    """The counters of all workers; made before the workers are forked."""

    def __init__(
        self, workers: int, memory: Memory | None = None, earlier: Iterable[Rows] = ()
    ) -> None:
        """Make the shared memory for so many workers, and those that leave.

        ``earlier`` are the rows of earlier programs, which a reload has left.
        """
        self._workers = workers
        self.running = 0
        """Workers that run now; the parent's own figure, like the next ones."""
        self.leaving = 0
        """Workers that take nothing new since a reload, and carry what they have to its end."""
        self.reloads = 0
        self.reloads_failed = 0
        """Reloads after which the workers went on as before."""
        self.restarts = 0
        """Workers that ended by themselves, and were started again."""
        self.last_restart = 0.0
        """When the last of them ended, in Unix time; 0: none has."""
        self._earlier = tuple(earlier)
        self._counted = Rows(NAMES, memory)
        self._words = self._counted.words
        self._rings = octets(MOST_WORKERS * RINGS_BYTES, memory)
        self._refused = octets(MOST_WORKERS * TABLE_BYTES, memory)

    def row(self, worker: int) -> WorkerStatistics:
        """Return the counters that the worker with this number may change."""
        start, ring, table = worker * _ROW, worker * RINGS_BYTES, worker * TABLE_BYTES
        return WorkerStatistics(
            worker,
            self._words[start : start + _ROW],
            Rings(self._rings[ring : ring + RINGS_BYTES]),
            ByPeer(self._refused[table : table + TABLE_BYTES]),
        )

    def _all_rows(self) -> list[WorkerStatistics]:
        return [self.row(worker) for worker in range(MOST_WORKERS)]

    def forget_open(self, worker: int) -> int:
        """Set the gauges of a worker that ended to zero; return how many connections it had."""
        return sum(rows.forget_open(worker) for rows in (self._counted, *self._earlier))

    def totals(self) -> dict[str, int]:
        """Return all figures by name.

        These are the number of workers, of running and of leaving ones, of reloads and of restarts;
        the sums of each counter;
        for each reason how many connections ended for it; when the last restart was, and the last
        end for each reason (Unix time; 0: never); and the time ``now``, to compare with.
        """
        totals = self._counted.totals()
        for rows in self._earlier:
            for name, value in rows.totals().items():
                if name in totals:
                    last = name.startswith("last_")
                    totals[name] = max(totals[name], value) if last else totals[name] + value
        return {
            "workers": self._workers,
            "running": self.running,
            "leaving": self.leaving,
            "reloads": self.reloads,
            "reloads_failed": self.reloads_failed,
            "restarts": self.restarts,
            **totals,
            "last_restart": int(self.last_restart),
            "now": int(time.time()),
        }

    def ended(self) -> Iterator[Ended]:
        """Yield the last connections that failed or were ended by us, the oldest first."""
        found = [one for row in self._all_rows() for one in row.rings.records()]
        yield from sorted(found, key=lambda one: one.time)

    def refused(self) -> list[Refused]:
        """Return how many requests were refused for each peer and reason."""
        return summed(one for row in self._all_rows() for one in row.by_peer.refused())


class WorkerStatistics:
    """One worker's counters and records."""

    def __init__(self, number: int, words: memoryview[int], rings: Rings, by_peer: ByPeer) -> None:
        """Count in ``words`` and ``by_peer``, and keep records in ``rings``."""
        self.number = number
        self.rings = rings
        self.by_peer = by_peer
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
        if ended.peer and ended.reason in REFUSALS:
            self.by_peer.add(ended)
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
