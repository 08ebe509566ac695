"""The proxy's counters, in memory that all its processes share."""

from __future__ import annotations

import logging
import mmap
from enum import IntEnum, auto
from zlib import crc32

from fedsdn.config.model import Site

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
    OUTBOUND_UNASKED = auto()
    """SYNs that nobody was asked for, because there were too many; the VM repeats them."""
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
    FALLBACKS = auto()
    """Connections between sites that were, or became, TCP instead of Multipath TCP."""
    ASKED_AGAIN = auto()
    """Connections that had fallen back before anything was done; the peer repeats its request."""
    ENDS_UNHEARD = auto()
    """Connections reset because a foreign proxy did not acknowledge an end of stream."""
    REFUSED_NOT_A_PEER = auto()
    REFUSED_FOREIGN_CLIENT = auto()
    REFUSED_FOREIGN_DESTINATION = auto()
    REFUSED_UNFEDERATED = auto()
    REFUSED_PROTOCOL = auto()
    """Connections without a valid SOCKS request, or without one in time."""


_WORD = 8
_MESSAGES = 1 << 16
_SEE = "(said once; see 'fedsdn proxy stats')"


class Statistics:
    """The counters of all workers; made before the workers are forked."""

    def __init__(self, workers: int) -> None:
        """Make the shared memory, all zero."""
        self._rows = workers
        self.running = 0
        """Workers that run now; the parent's own figure."""
        self._words = memoryview(mmap.mmap(-1, workers * len(Counter) * _WORD)).cast("q")
        self._said = memoryview(mmap.mmap(-1, _MESSAGES))

    def row(self, worker: int) -> WorkerStatistics:
        """Return the counters that the worker with this number may change."""
        start = worker * len(Counter)
        return WorkerStatistics(worker, self._words[start : start + len(Counter)], self._said)

    def forget_open(self, worker: int) -> None:
        """Set the open connections of a worker that ended to none: they ended with it."""
        row = self.row(worker)
        for counter in Counter:
            if counter.name.endswith(("_OPEN", "_HELD")):
                row.add(counter, -row.value(counter))

    def totals(self) -> dict[str, int]:
        """Return the number of workers, of running ones, and the sums of each counter by name."""
        rows = [self.row(worker) for worker in range(self._rows)]
        totals = {
            counter.name.lower(): sum(row.value(counter) for row in rows) for counter in Counter
        }
        return {"workers": self._rows, "running": self.running, **totals}


class WorkerStatistics:
    """One worker's counters."""

    def __init__(self, number: int, words: memoryview[int], said: memoryview[int]) -> None:
        """Count in ``words``, one for each ``Counter``; all workers share ``said``."""
        self.number = number
        self._words = words
        self._said = said

    def add(self, counter: Counter, amount: int = 1) -> None:
        """Add to a counter."""
        self._words[counter] += amount

    def value(self, counter: Counter) -> int:
        """Return the value of a counter."""
        return self._words[counter]

    def refused(self, counter: Counter, who: str, reason: str) -> None:
        """Count a refusal; log it once for each peer and reason."""
        self.add(counter)
        self.say_once(f"{who}: refused: {reason} {_SEE}")

    def fell_back(self, peer: Site) -> None:
        """Count a connection with ``peer`` that is not Multipath TCP; log it once for each peer."""
        self.add(Counter.FALLBACKS)
        what = "it is reset" if peer.proxy == "fedsdn" else "one uplink carries it"
        self.say_once(f"site {peer.name}: no Multipath TCP, only TCP: {what} {_SEE}")

    def end_unheard(self, peer: Site) -> None:
        """Count a connection whose end ``peer`` has not acknowledged; log it once for each peer."""
        self.add(Counter.ENDS_UNHEARD)
        self.say_once(
            f"site {peer.name}: a connection is reset: the peer lives, but acknowledges no "
            f"end of stream {_SEE}"
        )

    def say_once(self, message: str) -> None:
        """Log a message that no worker has logged yet; at most ``_MESSAGES`` in all."""
        place = crc32(message.encode()) % _MESSAGES
        if not self._said[place]:
            self._said[place] = 1
            _LOG.warning("%s", message)
