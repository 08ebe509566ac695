"""What the log says of connections that failed or were ended: each reason once a minute at most."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from fedsdn.damped_log import AGAIN_SECONDS
from fedsdn.proxy.ended.record import FAULTS, Reason
from fedsdn.proxy.stats import Statistics

_LOG = logging.getLogger(__name__)

_SEE = "see 'fedsdn connections --ended'"


class EndedLog:
    """Compares what all workers have counted with what was said; the parent looks now and then."""

    def __init__(self, statistics: Statistics, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with nothing said."""
        self._statistics = statistics
        self._clock = clock
        self._said = dict.fromkeys(Reason, 0)
        self._quiet_until = dict.fromkeys(Reason, -math.inf)

    def look(self, *, at_the_end: bool = False) -> None:
        """Say what is new of each reason of which nothing was said in the last minute.

        ``at_the_end`` it is said in any case.
        """
        now = self._clock()
        totals = self._statistics.totals()
        for reason, said in self._said.items():
            count = totals[f"ended_{reason.key}"]
            if count > said and (at_the_end or now >= self._quiet_until[reason]):
                self._say(reason, count - said)
                self._said[reason], self._quiet_until[reason] = count, now + AGAIN_SECONDS

    def _say(self, reason: Reason, count: int) -> None:
        records = [one for one in self._statistics.ended() if one.reason is reason]
        last = str(records[-1]) if records else str(reason)
        text = last if count == 1 else f"{count} connections, the last: {last}"
        _LOG.log(logging.WARNING if reason in FAULTS else logging.INFO, "%s (%s)", text, _SEE)
